"""One knowledge base, served: what may be found, who waits for whom, and what changes meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from prag.config import Recipe
from prag.continuous import ContinuousEngine
from prag.generate import Engine
from prag.knowledge_base import KnowledgeBase
from prag.knowledge_base.settings import FILE
from prag.methods import Ask, Library, answer_all, method_named
from prag.model import BaseModel
from prag.prompts import style_named
from prag.records import Answer, Augmentation, Document, Hit, Passage, PragError
from prag.serve.asking import Asked, Call, Reply, WithdrawnError
from prag.serve.builder import Builder
from prag.serve.condense import condense
from prag.serve.job_files import Job, Mark, mark
from prag.serve.jobs import INBOX, Inbox
from prag.serve.settings import ServeSettings
from prag.serve.under_way import Question, UnderWay, until_over
from prag.serve.visible import EVERYTHING, Filter, Visible
from prag.serve.watching import Meters

LOG = logging.getLogger("prag.serve")

LOOK = 0.25
"""Seconds between two looks at what other services over the folder have taken."""

ATTEMPTS = 3
"""Times a question is begun, where what it rests on is withdrawn or rebuilt meanwhile."""


class UnknownError(PragError):
    """Something is named that is not there."""


class NotReadyError(PragError):
    """Nothing can be answered yet."""


@dataclass(frozen=True)
class DocumentView:
    """A document, and what each of its passages was trained on."""

    name: str
    state: str
    passages: tuple[tuple[Passage, str | None, Augmentation | None], ...]


class Service:
    """Answers questions, and takes documents, from any thread; one of any number over a folder."""

    def __init__(
        self,
        kb: KnowledgeBase,
        settings: ServeSettings,
        engine: Callable[[BaseModel], Engine] | None = None,
    ) -> None:
        """Load the model, and go on with the jobs that are there.

        Args:
            engine: makes what generates; by default transformers here, rows that come and go.

        Raises:
            PragError: the model cannot be loaded, or the folder cannot be written.
        """
        self.kb, self.settings = kb, settings
        self.meters = Meters()
        self.rows: ContinuousEngine | None = None
        self.engine: Engine
        if engine is None:
            self.rows = ContinuousEngine(kb.base, settings.rows, self.meters.passed)
            self.engine = self.rows
        else:
            self.engine = engine(kb.base)
        self.inbox = Inbox(kb.folder / INBOX)
        self.builder = Builder(kb.folder, self.inbox, self._rebuilt, kb.device)
        self._lock = threading.Lock()
        self._under_way = UnderWay()
        self._library: tuple[Mark | None, Library] | None = None
        self._stored: tuple[object, int, int] | None = None
        self._closing = threading.Event()
        self._looking = threading.Thread(target=self._look_out, name="prag-look-out", daemon=True)
        self._looking.start()
        if self.inbox.open_jobs():
            self.builder.wake()

    def close(self) -> None:
        """Answer what is under way, and end the building process, wherever it is."""
        self._closing.set()
        self._looking.join(timeout=10)
        self.builder.close()
        if self.rows is not None:
            self.rows.close()

    # -- questions ----------------------------------------------------------------------------

    def ready(self) -> None:
        """Make sure that questions can be answered.

        Raises:
            NotReadyError: nothing is built.
        """
        self.library()

    def answer(self, asked: Asked, call: Call) -> Reply:
        """Answer a question.

        Raises:
            PragError: it cannot be answered.
            TimedOutError, GoneError: of the call.
        """
        began = time.perf_counter()
        turns = [t for t in asked.turns if t.role != "system"]
        question = condense(self.kb.base, unheard(call), turns)
        condensed = time.perf_counter() - began
        for attempt in range(ATTEMPTS):
            with self._under_way.one() as one:
                call.withdrawn = one.withdrawn
                try:
                    made = self._attempt(asked, question, call, one, attempt + 1 == ATTEMPTS)
                except WithdrawnError:
                    made = None
            if made is not None:
                break
            self.meters.again.inc()
            if call.told:
                raise PragError("what this answer rests on was withdrawn meanwhile: ask again")
        else:
            raise PragError("what the question rests on was withdrawn again and again: ask again")
        answer, documents = made
        if len(turns) > 1:
            answer = replace(answer, timings={"condense": condensed, **answer.timings})
        text, finish = call.finish(answer.raw)
        return Reply(answer, question, text, finish, documents, time.perf_counter() - began)

    def search(self, query: str, k: int) -> list[tuple[Hit, Passage, list[str], str | None]]:
        """The k best passages, with their documents and the keys of their adapters."""
        library = self.library()
        (hits,) = library.search([query], k, self._visible())
        found: list[tuple[Hit, Passage, str | None]] = []
        for hit in hits:
            try:
                (passage,) = library.passages([hit.passage_id])
                shelved = library.adapter(hit.passage_id)
            except PragError:
                if hit.passage_id in self._visible():
                    raise
                continue  # taken out since it was found
            found.append((hit, passage, None if shelved is None else shelved.key))
        visible = self._visible()
        named = [(h, p, visible.documents(h.passage_id), key) for h, p, key in found]
        return [one for one in named if one[2]]

    # -- documents ----------------------------------------------------------------------------

    def add(self, documents: Sequence[Document]) -> Job:
        """Take documents; they answer questions once the job is done.

        Raises:
            PragError: the disk is full or cannot be written.
        """
        job = self.inbox.add(documents)
        self.builder.wake()
        return job

    def withdraw(self, name: str) -> Job:
        """Take a document out; when this returns no answer that rests on it is under way.

        Raises:
            UnknownError: there is no such document.
            PragError: the disk is full or cannot be written; or an answer does not come to its end.
        """
        if self.state(name) is None:
            raise UnknownError(f"no document {name!r}")
        job = self.inbox.withdraw(name)
        try:
            visible = self._visible().__contains__
            before = self._under_way.stop(visible)
            if not until_over(before, visible, self.settings.timeout):
                raise PragError(f"an answer that may rest on {name!r} has not come to its end")
        finally:
            self.builder.wake()
        return job

    def state(self, name: str) -> str | None:
        """`ready`, `adding`, or None where there is no such document (any more)."""
        pending = self.inbox.open_jobs()
        gone = name in self.inbox.hidden() or self.kb.document(name) is None
        state = None if gone else "ready"
        for job in pending:
            if name in job.documents:
                state = "adding" if job.kind == "add" else None
        return state

    def documents(self) -> list[tuple[str, int, str]]:
        """Each document's name, number of passages, and state."""
        waiting = self.inbox.open_jobs()
        hidden = self.inbox.hidden()
        rows = [row for row in self.kb.documents() if row.name not in hidden]
        names = {row.name: row.passages for row in rows}
        pending: dict[str, str | None] = {}
        for job in waiting:
            for name in job.documents:
                pending[name] = "adding" if job.kind == "add" else None
        states = {**dict.fromkeys(names, "ready"), **pending}
        return [(name, names.get(name, 0), state) for name, state in states.items() if state]

    def view(self, name: str) -> DocumentView:
        """A document with what its passages were trained on, as far as that has come.

        Raises:
            UnknownError: there is no such document.
        """
        state = self.state(name)
        if state is None:
            raise UnknownError(f"no document {name!r}")
        with suppress(NotReadyError):
            self.library()  # what another process has built since
        passages = self._passages_of(name)
        ids = [p.id for p in passages]
        known, keys = self.kb.augmentations_of(ids), self.kb.adapters_of(ids)
        shown = [(p, str(keys[p.id]) if p.id in keys else None, known.get(p.id)) for p in passages]
        return DocumentView(name, state, tuple(shown))

    def stored(self) -> tuple[int, int]:
        """How many adapters there are, and how many bytes they take on the disk."""
        library = self.library()
        with self._lock:
            if self._stored is None or self._stored[0] is not library.search:
                self._stored = library.search, *self.kb.stored()
            return self._stored[1:]

    # -- what the above share -----------------------------------------------------------------

    def library(self) -> Library:
        """What answering uses, as it was last built, by this service or another process.

        Raises:
            NotReadyError: nothing is built.
        """
        changed = mark(self.kb.folder / FILE)
        with self._lock:
            if self._library is None or self._library[0] != changed:
                try:
                    self._library = changed, self._opened()
                except PragError as error:
                    raise NotReadyError(str(error)) from error
            return self._library[1]

    def _opened(self) -> Library:
        # To open it may have the model read something, which must not see a question's adapters.
        return self.kb.library() if self.rows is None else self.rows.between(self.kb.library)

    def _rebuilt(self) -> None:
        with self._lock:
            self._library = None

    def _moved(self, library: Library) -> bool:
        return self.library().search is not library.search

    def _look_out(self) -> None:
        """See what other services have taken, and tell them how far the jobs are."""
        seen = self.inbox.changes
        while not self._closing.wait(LOOK):
            try:
                self.inbox.look()
                if self.builder.elected:
                    self.inbox.share()
                if self.inbox.changes == seen:
                    continue
                seen = self.inbox.changes
                self._under_way.stop(self._visible().__contains__)
                self.builder.wake()
            except PragError as error:
                LOG.error("%s", error)

    def _attempt(
        self, asked: Asked, question: str, call: Call, one: Question, last: bool
    ) -> tuple[Answer, dict[str, list[str]]] | None:
        """An answer, and the documents of each of its passages; None if it may not leave."""
        library = replace(self.library(), engine=call)
        if asked.method == "combined" and library.recipe.combine == "surer":
            call.hold()
        ask = self._find(asked, question, library)
        one.passages = frozenset(hit.passage_id for hit in ask.hits)
        if one.concerned(self._visible().__contains__):
            return None  # withdrawn between its being found and now
        answer = self._answered(asked, ask, library)
        if answer.error is not None and not last and self._moved(library):
            return None  # what it rests on was rebuilt meanwhile
        visible = self._visible()  # as it is now: another service may have withdrawn something
        if one.concerned(visible.__contains__):
            return None
        if answer.error is not None:
            raise PragError(answer.error)
        return answer, {s.passage_id: visible.documents(s.passage_id) for s in answer.sources}

    def _find(self, asked: Asked, question: str, library: Library) -> Ask:
        began = time.perf_counter()
        hits: list[Hit] = []
        if method_named(asked.method).given_passages:
            visible = self._visible(asked.filter)
            if asked.passages is None:
                (hits,) = library.search([question], asked.top_k, visible)
            else:
                for rank, passage_id in enumerate(asked.passages):
                    if passage_id not in visible:
                        raise UnknownError(f"no passage {passage_id!r}")
                    hits.append(Hit(passage_id, 1.0, rank))
        return Ask(question, tuple(hits), asked.top_k, time.perf_counter() - began)

    def _answered(self, asked: Asked, ask: Ask, library: Library) -> Answer:
        method = method_named(asked.method)
        notes: tuple[str, ...] = ()
        if method.given_passages and not ask.hits:
            method = method_named("closed-book")
            notes = ("no passage fits the question: it was answered without any",)
        system = "\n".join(t.text.strip() for t in asked.turns if t.role == "system").strip()
        if system:
            library = replace(library, recipe=instructed(library.recipe, system))
            notes += ("a system message stands before the recipe's instruction",)
        style = style_named("direct", library.recipe.wording)
        (answer,) = answer_all(library, method, [ask], style, asked.config)
        return replace(answer, method=asked.method, notes=(*answer.notes, *notes))

    def _visible(self, wanted: Filter = EVERYTHING) -> Visible:
        """What may be found now, by all that every service over the folder has taken.

        Raises:
            NotReadyError: the folder cannot be read, so nobody knows what is withdrawn.
        """
        try:
            self.inbox.look()
        except PragError as error:
            raise NotReadyError(str(error)) from error
        return Visible(self.kb.documents_of, self.inbox.hidden, wanted)

    def _passages_of(self, name: str) -> list[Passage]:
        for job in reversed(self.inbox.open_jobs()):  # the last that was handed in
            if job.kind == "add" and name in job.documents:
                for document in self.inbox.documents(job.id):
                    if document.name == name:
                        return list(document.passages)
        return self.kb.passages_of(name)


def instructed(recipe: Recipe, system: str) -> Recipe:
    """A recipe whose prompts begin with a system message."""
    wording = replace(recipe.wording, instruction=f"{system}\n{recipe.wording.instruction}")
    return replace(recipe, wording=wording)


def unheard(call: Call) -> Call:
    """The same call, of which nothing is streamed: what is made on the way to the question."""
    silent = Call(call.engine, 0.0, (), None)
    silent.deadline, silent.gone = call.deadline, call.gone
    return silent

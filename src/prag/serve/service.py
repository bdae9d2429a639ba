"""One knowledge base, served: what may be found, who waits for whom, and what changes meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import filelock

from prag.config import Recipe
from prag.continuous import ContinuousEngine
from prag.disk import explain
from prag.generate import Engine
from prag.knowledge_base import KnowledgeBase
from prag.knowledge_base.settings import FILE
from prag.methods import Ask, Library, answer_all, method_named
from prag.model import BaseModel
from prag.prompts import style_named
from prag.records import Answer, Augmentation, Document, Hit, Passage, PragError
from prag.serve.asking import Asked, Call, Reply
from prag.serve.builder import Builder
from prag.serve.condense import condense
from prag.serve.jobs import INBOX, Inbox, Job
from prag.serve.settings import ServeSettings
from prag.serve.visible import EVERYTHING, Filter, Visible
from prag.serve.watching import Meters

ATTEMPTS = 3
"""Times a question is begun, where what it rests on is withdrawn or rebuilt meanwhile."""


class UnknownError(PragError):
    """Something is named that is not there."""


class NotReadyError(PragError):
    """Nothing can be answered yet."""


@dataclass(eq=False)
class _UnderWay:
    """A question that is being answered. `passages` are None until they are found."""

    passages: frozenset[str] | None = None
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class DocumentView:
    """A document, and what each of its passages was trained on."""

    name: str
    state: str
    passages: tuple[tuple[Passage, str | None, Augmentation | None], ...]


class Service:
    """Answers questions, and takes documents, from any thread."""

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
            PragError: the model cannot be loaded, a job is damaged, or another service answers
                from this folder: it would not know what is withdrawn here.
        """
        self.kb, self.settings = kb, settings
        self._claim = filelock.FileLock(kb.folder / ".serve.lock", timeout=0, thread_local=False)
        try:
            self._claim.acquire()
        except filelock.Timeout:
            raise PragError(f"another service answers from {kb.folder}: one may") from None
        except OSError as error:
            raise PragError(explain(error, kb.folder, "locking it")) from error
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
        self._under_way: set[_UnderWay] = set()
        self._library: tuple[int, Library] | None = None
        self._stored: tuple[object, int, int] | None = None
        if self.inbox.open_jobs():
            self.builder.wake()

    def close(self) -> None:
        """Answer what is under way, and end the building process, wherever it is."""
        self.builder.close()
        if self.rows is not None:
            self.rows.close()
        self._claim.release()

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
            library = replace(self.library(), engine=call)
            if asked.method == "combined" and library.recipe.combine == "surer":
                call.hold()
            with self._asking() as under_way:
                ask = self._find(asked, question, library)
                if not self._enter(under_way, ask.hits):
                    continue  # withdrawn between its being found and now
                answer = self._answered(asked, ask, library)
                if answer.error is not None and attempt + 1 < ATTEMPTS and self._moved(library):
                    continue  # what it rests on was rebuilt meanwhile
            break
        else:
            raise PragError("what the question rests on was withdrawn again and again: ask again")
        if answer.error is not None:
            raise PragError(answer.error)
        if len(turns) > 1:
            answer = replace(answer, timings={"condense": condensed, **answer.timings})
        text, finish = call.finish(answer.raw)
        documents = {s.passage_id: self.kb.documents_of(s.passage_id) for s in answer.sources}
        return Reply(answer, question, text, finish, documents, time.perf_counter() - began)

    def search(self, query: str, k: int) -> list[tuple[Hit, Passage, list[str], str | None]]:
        """The k best passages, with their documents and the keys of their adapters."""
        library = self.library()
        (hits,) = library.search([query], k, self._visible())
        found = []
        for hit in hits:
            shelved = library.adapter(hit.passage_id)
            (passage,) = library.passages([hit.passage_id])
            names = self.kb.documents_of(hit.passage_id)
            found.append((hit, passage, names, None if shelved is None else shelved.key))
        return found

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
        visible = self._visible()
        with self._lock:
            before = list(self._under_way)
        try:
            self._until_over(before, visible, name)
        finally:
            self.builder.wake()
        return job

    def _until_over(self, before: Sequence[_UnderWay], visible: Visible, name: str) -> None:
        """Wait for the answers that may rest on what is not visible any more."""
        end = time.monotonic() + self.settings.timeout
        for one in before:
            while not one.over.wait(0.05):
                passages = one.passages
                if passages is not None and all(p in visible for p in passages):
                    break
                if time.monotonic() > end:
                    raise PragError(f"an answer that may rest on {name!r} has not come to its end")

    def state(self, name: str) -> str | None:
        """`ready`, `adding`, or None where there is no such document (any more)."""
        gone = name in self.inbox.hidden() or self.kb.document(name) is None
        state = None if gone else "ready"
        for job in self.inbox.open_jobs():
            if name in job.documents:
                state = "adding" if job.kind == "add" else None
        return state

    def documents(self) -> list[tuple[str, int, str]]:
        """Each document's name, number of passages, and state."""
        hidden = self.inbox.hidden()
        rows = [row for row in self.kb.documents() if row.name not in hidden]
        names = {row.name: row.passages for row in rows}
        pending: dict[str, str | None] = {}
        for job in self.inbox.open_jobs():
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
        changed = (self.kb.folder / FILE).stat().st_mtime_ns
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

    @contextmanager
    def _asking(self) -> Iterator[_UnderWay]:
        one = _UnderWay()
        with self._lock:
            self._under_way.add(one)
        try:
            yield one
        finally:
            with self._lock:
                self._under_way.discard(one)
            one.over.set()

    def _enter(self, under_way: _UnderWay, hits: Sequence[Hit]) -> bool:
        """Say what an answer rests on; False if it may not any more."""
        under_way.passages = frozenset(hit.passage_id for hit in hits)
        visible = self._visible()
        return all(passage in visible for passage in under_way.passages)

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

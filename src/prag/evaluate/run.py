"""A run: every question under every condition, a row each, in an order that a kill cannot change.

The questions of a condition are answered in batches that are fixed by their order. A batch of
which a kill has lost rows is answered again as a whole and only what is missing is written, so
that a run which was stopped has the rows that it would have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prag import __version__
from prag.datasets import Question, QuestionSet
from prag.evaluate import prepare
from prag.evaluate.assigning import Assignment, assign
from prag.evaluate.conditions import Condition, Control
from prag.evaluate.conflict import Changed
from prag.evaluate.forgetting import perplexity
from prag.evaluate.measures import measure
from prag.evaluate.rows import Row, RowFile
from prag.evaluate.settings import EvalSettings, examples_for
from prag.evaluate.texts import held_paragraphs
from prag.knowledge_base import KnowledgeBase
from prag.methods import Ask, Library, answer_all, method_named
from prag.metrics import presence
from prag.progress import Tell
from prag.prompts import style_named
from prag.provenance import revision
from prag.records import Answer, PragError, content_id


class Run:
    """An evaluation of one question set over one knowledge base."""

    def __init__(
        self, kb: KnowledgeBase, data: QuestionSet, settings: EvalSettings, folder: Path
    ) -> None:
        """Open the run's folder.

        Raises:
            PragError: there is no question, the settings ask for what the set or the knowledge
                base does not hold, or the folder holds a run of other settings.
        """
        if not data.questions:
            raise PragError(f"{data.name} has no questions")
        unknown = not any(q.gold_passages for q in data.questions)
        needing = [c.label for c in settings.asked if c.control in ("noise", "conflict")]
        if unknown and (settings.gold or needing):
            raise PragError(
                f"{data.name} does not say which passages are gold, and "
                f"{'--gold' if settings.gold else ', '.join(needing)} needs to know: leave it out"
            )
        coded = [c.label for c in settings.asked if c.codec is not None]
        if coded and kb.settings.codec != "float32":
            raise PragError(
                f"{', '.join(coded)} begin with adapters as they were trained, and {kb.folder} "
                f"keeps them as {kb.settings.codec}: use a knowledge base of codec float32 (`prag "
                'init --codec float32`, or codec = "float32" in the file of its recipe)'
            )
        self.kb, self.data, self.settings, self.folder = kb, data, settings, folder
        self.notes: list[str] = [*data.notes, *settings.notes]
        self.instead: dict[str, str] = {}  # the substitute of each question of `conflict`
        self.commit, self.modified = revision()
        self.file = RowFile(folder, self.manifest)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What decides the rows; conditions may be added to a run, these may not change."""
        kb, settings = self.kb, self.settings
        recipe = kb.settings.recipe
        questions = [(q.id, q.text, q.golds, q.kind, q.gold_passages) for q in self.data.questions]
        return {
            "set": self.data.name,
            "questions": content_id(repr(questions)),
            "n": len(questions),
            "corpus": kb.corpus_digest(),
            "model": kb.settings.model,
            "base": kb.settings.base,
            "recipe": recipe.name,
            "adapters": recipe.fingerprint("any"),
            "merge": recipe.merge,
            "beside_text": recipe.beside_text,
            "offered": recipe.offered,
            "combine": recipe.combine,
            "codec": kb.settings.codec,
            "origins": list(kb.settings.origins),
            "retriever": kb.settings.retriever,
            "top_k": settings.top_k,
            "gold": settings.gold,
            "seed": settings.seed,
            "rule": settings.rule,
            "generate": asdict(settings.generate),
        }

    def go(self, tell: Tell) -> None:
        """Answer what is not answered yet; each row is on the disk before the next batch begins."""
        self.kb.build(tell, only=())  # the index, which choosing needs
        assigned = assign(self.kb, self.data, self.settings)
        self.notes += assigned.notes
        self.instead = {i: c.instead for i, c in assigned.changed.items()}
        todo = [a for a in assigned.assignments if self._missing(a, a.questions)]
        libraries = self._libraries(todo, assigned.changed, tell)
        total = sum(len(a.questions) for a in todo)
        done = 0
        tell("answer", done, total)
        for assignment in todo:
            library = libraries[assignment.condition.control]
            if assignment.condition.codec is not None:
                library = prepare.stored_as(library, assignment.condition.codec)
            size = self.settings.generate.rows
            for at in range(0, len(assignment.questions), size):
                batch = assignment.questions[at : at + size]
                if missing := self._missing(assignment, batch):
                    made = self._rows(assignment, library, batch)
                    self.file.write(row for row in made if row["id"] in missing)
                done += len(batch)
                tell("answer", done, total)

    def _missing(self, assignment: Assignment, questions: Sequence[Question]) -> set[str]:
        label = assignment.condition.label
        return {q.id for q in questions if (label, q.id) not in self.file.done}

    def _libraries(
        self, todo: Sequence[Assignment], changed: Mapping[str, Changed], tell: Tell
    ) -> dict[Control, Library]:
        """What each kind of condition answers from, with what it needs encoded."""
        kb = self.kb
        controls = {a.condition.control for a in todo}
        prepare.encode(kb, [a.given for a in todo if _from_corpus(a.condition)], tell)
        if "conflict" not in controls:
            changed = {}
        # Adapters of changed passages are trained on what their originals were augmented with.
        kb.augment(tell, only={i for c in changed.values() for i in c.originals})
        library = kb.library()
        found: dict[Control, Library] = dict.fromkeys(controls, library)
        if changed or "format-only" in controls:
            extra = prepare.extra_adapters(
                kb, self.folder, self.data.questions, changed, "format-only" in controls, tell
            )
            passages = {p.id: p for c in changed.values() for p in c.passages}
            found["conflict"] = prepare.with_extra(library, passages, extra)
            found["format-only"] = replace(library, adapter=lambda _: extra(prepare.FORMAT_ONLY))
        return found

    # -- rows -----------------------------------------------------------------------------------

    def _rows(
        self, assignment: Assignment, library: Library, batch: Sequence[Question]
    ) -> list[Row]:
        if assignment.condition.control == "perplexity":
            return [self._perplexity_row(assignment, library, q) for q in batch]
        return [
            self._row(assignment.condition, question, answer)
            for question, answer in zip(
                batch, self._answers(assignment, library, batch), strict=True
            )
        ]

    def _answers(
        self, assignment: Assignment, library: Library, batch: Sequence[Question]
    ) -> list[Answer]:
        """The answers of a batch; where it fails, of each question by itself, errors kept."""
        condition, settings = assignment.condition, self.settings
        method = method_named(condition.method)
        wording = library.recipe.wording
        style = style_named(
            examples_for(self.data.name) if condition.reasons else "direct", wording
        )
        k = condition.k or settings.top_k
        asks = [
            Ask(q.text, assignment.given[q.id] if method.given_passages else (), k) for q in batch
        ]
        try:
            return answer_all(library, method, asks, style, settings.generate)
        except Exception as error:  # noqa: BLE001  (a run of hours does not die of one question)
            if len(batch) > 1:
                return [self._answers(assignment, library, [q])[0] for q in batch]
            said = (
                str(error) if isinstance(error, PragError) else f"{type(error).__name__}: {error}"
            )
            return [Answer(batch[0].text, method.name, "", "", (), 0, 0, error=said)]

    def _row(self, condition: Condition, question: Question, answer: Answer) -> Row:
        control: dict[str, Any] = {}
        measures: dict[str, float] = {}
        if answer.error is None:
            measures = measure(answer.raw, answer.text, question.golds, self.settings.rule)
        if condition.k is not None:
            control["k"] = condition.k
        if condition.control == "conflict":
            instead = self.instead[question.id]
            control["instead"] = instead
            if answer.error is None:
                measures["follows"] = presence(answer.raw, [instead])
        hits = [
            {
                "id": s.passage_id,
                "title": s.title,
                "score": s.score,
                "adapter": s.adapter,
                "in_prompt": s.in_prompt,
                "gold": s.passage_id in question.gold_passages,
            }
            for s in answer.sources
        ]
        return {
            **self._head(condition, question),
            "golds": list(question.golds),
            "hits": hits,
            "prompt_hash": answer.prompt_hash,
            "raw": answer.raw,
            "answer": answer.text,
            "measures": measures,
            "searches": answer.searches,
            "seconds": sum(answer.timings.values()),
            "first_token_seconds": answer.first_token_seconds,
            "timings": answer.timings,
            "prompt_tokens": answer.prompt_tokens,
            "generated_tokens": answer.generated_tokens,
            "adapter_bytes": answer.adapter_bytes,
            "notes": list(answer.notes),
            "error": answer.error,
            **({"control": control} if control else {}),
        }

    def _perplexity_row(self, assignment: Assignment, library: Library, question: Question) -> Row:
        error, measures = None, {}
        try:
            there, _ = library.adapters(assignment.given[question.id])
            base, texts = self.kb.base, held_paragraphs()
            adapters = library.merged(there)
            measures = {
                "perplexity": perplexity(base, texts, adapters),
                "base_perplexity": self._base_perplexity,
            }
        except PragError as failed:
            error = str(failed)
        return {**self._head(assignment.condition, question), "measures": measures, "error": error}

    @cached_property
    def _base_perplexity(self) -> float:
        return perplexity(self.kb.base, held_paragraphs(), None)

    def _head(self, condition: Condition, question: Question) -> Row:
        kb = self.kb
        return {
            "id": question.id,
            "set": self.data.name,
            "type": question.kind,
            "method": condition.label,
            "question": question.text,
            "model": kb.settings.model,
            "base": kb.settings.base,
            "recipe": kb.settings.recipe.name,
            "merge": kb.settings.recipe.merge,
            "beside_text": kb.settings.recipe.beside_text,
            "offered": kb.settings.recipe.offered,
            "combine": kb.settings.recipe.combine,
            "codec": kb.settings.codec,
            "seed": self.settings.seed,
            "commit": self.commit,
            "modified": self.modified,
            "version": __version__,
        }


def _from_corpus(condition: Condition) -> bool:
    """Whether a condition puts adapters of the corpus's own passages into the weights."""
    return condition.uses_adapters and condition.control not in ("format-only", "conflict")

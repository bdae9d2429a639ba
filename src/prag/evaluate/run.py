"""A run: every question under every condition, a row each, in an order that a kill cannot change.

The questions of a condition are answered in batches that are fixed by their order. A batch of
which a kill has lost rows is answered again as a whole and only what is missing is written, so
that a run which was stopped has the rows that it would have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prag import __version__
from prag.datasets import Question, QuestionSet
from prag.evaluate import choosing, prepare
from prag.evaluate.choosing import Chosen
from prag.evaluate.conditions import Condition
from prag.evaluate.conflict import Changed, change
from prag.evaluate.forgetting import ADAPTER_SETS, perplexity
from prag.evaluate.measures import measure
from prag.evaluate.rows import Row, RowFile
from prag.evaluate.settings import EvalSettings, examples_for, revision
from prag.evaluate.texts import general_questions, held_paragraphs
from prag.knowledge_base import KnowledgeBase
from prag.lora import merge
from prag.methods import Ask, Library, answer_all, method_named
from prag.metrics import presence
from prag.progress import Tell
from prag.prompts import style_named
from prag.records import Answer, Hit, PragError, content_id


@dataclass(frozen=True)
class Task:
    """One condition, ready: its questions in order, the passages of each, the library to use."""

    condition: Condition
    questions: tuple[Question, ...]
    given: Chosen
    library: Library


class Run:
    """An evaluation of one question set over one knowledge base."""

    def __init__(
        self, kb: KnowledgeBase, data: QuestionSet, settings: EvalSettings, folder: Path
    ) -> None:
        """Open the run's folder.

        Raises:
            PragError: there is no question, or the folder holds a run of other settings.
        """
        if not data.questions:
            raise PragError(f"{data.name} has no questions")
        unknown = not any(q.gold_passages for q in data.questions)
        needing = [c.label for c in settings.conditions if c.control in ("noise", "conflict")]
        if unknown and (settings.gold or needing):
            raise PragError(
                f"{data.name} does not say which passages are gold, and "
                f"{'--gold' if settings.gold else ', '.join(needing)} needs to know: leave it out"
            )
        self.kb, self.data, self.settings, self.folder = kb, data, settings, folder
        self.notes: list[str] = list(data.notes)
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
        tasks = self._tasks(tell)
        total = sum(len(t.questions) for t in tasks)
        done = 0
        tell("answer", done, total)
        for task in tasks:
            size = self.settings.generate.rows
            for at in range(0, len(task.questions), size):
                batch = task.questions[at : at + size]
                label = task.condition.label
                if any((label, q.id) not in self.file.done for q in batch):
                    made = self._rows(task, batch)
                    self.file.write(r for r in made if (label, r["id"]) not in self.file.done)
                done += len(batch)
                tell("answer", done, total)

    # -- what each condition is given ---------------------------------------------------------

    def _tasks(self, tell: Tell) -> list[Task]:
        kb, settings, questions = self.kb, self.settings, self.data.questions
        kb.build(tell, only=())  # the index, which choosing needs
        search = kb.library().search
        own = (
            choosing.gold(search, questions)
            if settings.gold
            else choosing.retrieved(search, questions, settings.top_k)
        )
        changed = self._changed()
        general = general_questions()
        chosen = {c: self._given(c, own, changed, general) for c in settings.conditions}
        needed = [
            given
            for c, given in chosen.items()
            if c.uses_adapters and c.control not in ("format-only", "conflict")
        ]
        prepare.encode(kb, needed, tell)
        if changed:  # their adapters are trained on what their originals were augmented with
            kb.augment(tell, only={i for c in changed.values() for i in c.originals})
        library = kb.library()
        with_format = any(c.control == "format-only" for c in settings.conditions)
        if changed or with_format:
            extra = prepare.extra_adapters(kb, self.folder, questions, changed, with_format, tell)
            passages = {p.id: p for c in changed.values() for p in c.passages}
            changed_library = prepare.with_extra(library, passages, extra)
            format_library = replace(library, adapter=lambda _: extra(prepare.FORMAT_ONLY))
        tasks = []
        for c, given in chosen.items():
            asked = general if c.control == "general" else questions
            if c.control == "perplexity":
                asked = questions[:ADAPTER_SETS]
            kept = tuple(q for q in asked if q.id in given)
            if len(kept) < len(asked):
                self.notes.append(_left_out(c, len(asked) - len(kept)))
            used = library
            if c.control == "conflict":
                used = changed_library
            elif c.control == "format-only":
                used = format_library
            tasks.append(Task(c, kept, given, used))
        return tasks

    def _given(
        self,
        condition: Condition,
        own: Chosen,
        changed: Mapping[str, Changed],
        general: Sequence[Question],
    ) -> Chosen:
        questions, seed = self.data.questions, self.settings.seed
        search = self.kb.library().search
        if condition.control == "shuffled":
            return choosing.shuffled(questions, own, seed)
        if condition.control == "noise" and condition.k is not None:
            return choosing.noisy(search, questions, own, condition.k, seed)
        if condition.control == "conflict":
            return {
                q.id: self._changed_hits(q, changed[q.id]) for q in questions if q.id in changed
            }
        if condition.control == "general":
            return {q.id: own[questions[i % len(questions)].id] for i, q in enumerate(general)}
        if condition.control == "format-only":
            return {i: hits[:1] for i, hits in own.items()}
        return own

    def _changed(self) -> dict[str, Changed]:
        if all(c.control != "conflict" for c in self.settings.conditions):
            return {}
        wanted = {p for q in self.data.questions for p in q.gold_passages}
        passages = {p.id: p for p in self.kb.passages() if p.id in wanted}
        return change(self.data.questions, passages, self.settings.seed)

    def _changed_hits(self, question: Question, changed: Changed) -> tuple[Hit, ...]:
        """The changed passages, in the retriever's order of what they were."""
        new = {old: p.id for old, p in zip(changed.originals, changed.passages, strict=True)}
        ranked = choosing.ranked(self.kb.library().search, question, changed.originals)
        return tuple(replace(hit, passage_id=new[hit.passage_id]) for hit in ranked)

    # -- rows -----------------------------------------------------------------------------------

    def _rows(self, task: Task, batch: Sequence[Question]) -> list[Row]:
        if task.condition.control == "perplexity":
            return [self._perplexity_row(task, q) for q in batch]
        return [
            self._row(task, question, answer)
            for question, answer in zip(batch, self._answers(task, batch), strict=True)
        ]

    def _answers(self, task: Task, batch: Sequence[Question]) -> list[Answer]:
        """The answers of a batch; where it fails, of each question by itself, errors kept."""
        condition, settings = task.condition, self.settings
        method = method_named(condition.method)
        wording = task.library.recipe.wording
        style = style_named(
            examples_for(self.data.name) if condition.reasons else "direct", wording
        )
        k = condition.k or settings.top_k
        asks = [Ask(q.text, task.given[q.id] if method.given_passages else (), k) for q in batch]
        try:
            return answer_all(task.library, method, asks, style, settings.generate)
        except Exception as error:  # noqa: BLE001  (a run of hours does not die of one question)
            if len(batch) > 1:
                return [self._answers(task, [q])[0] for q in batch]
            said = (
                str(error) if isinstance(error, PragError) else f"{type(error).__name__}: {error}"
            )
            return [Answer(batch[0].text, method.name, "", "", (), 0, 0, error=said)]

    def _row(self, task: Task, question: Question, answer: Answer) -> Row:
        condition = task.condition
        control: dict[str, Any] = {}
        measures: dict[str, float] = {}
        if answer.error is None:
            measures = measure(answer.raw, answer.text, question.golds, self.settings.rule)
        if condition.k is not None:
            control["k"] = condition.k
        if condition.control == "conflict":
            instead = self._instead(question)
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

    def _perplexity_row(self, task: Task, question: Question) -> Row:
        error, measures = None, {}
        try:
            found = []
            for hit in task.given[question.id]:
                shelved = task.library.adapter(hit.passage_id)
                found += [shelved.adapter] if shelved else []
                if found and task.library.recipe.merge == "best":
                    break
            base, texts = self.kb.base, held_paragraphs()
            adapters = merge(found) if found else None
            measures = {
                "perplexity": perplexity(base, texts, adapters),
                "base_perplexity": self._base_perplexity,
            }
        except PragError as failed:
            error = str(failed)
        return {**self._head(task.condition, question), "measures": measures, "error": error}

    @cached_property
    def _base_perplexity(self) -> float:
        return perplexity(self.kb.base, held_paragraphs(), None)

    @cached_property
    def _instead_by_id(self) -> dict[str, str]:
        return {i: c.instead for i, c in self._changed().items()}

    def _instead(self, question: Question) -> str:
        return self._instead_by_id[question.id]

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
            "seed": self.settings.seed,
            "commit": self.commit,
            "modified": self.modified,
            "version": __version__,
        }


def _left_out(condition: Condition, count: int) -> str:
    why = {
        "shuffled": "no other question has another passage",
        "noise": "gold passages are not known, or there are too few others to draw",
        "conflict": "the answer is yes or no, or stands in no gold passage, or has no substitute",
    }.get(condition.control, "no passages")
    return f"{condition.label}: {count} questions are left out ({why})"

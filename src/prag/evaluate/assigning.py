"""Which questions each condition asks, and which passages each of them is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from prag.datasets import Question, QuestionSet
from prag.evaluate import choosing
from prag.evaluate.choosing import Chosen
from prag.evaluate.conditions import Condition
from prag.evaluate.conflict import Changed, change
from prag.evaluate.forgetting import ADAPTER_SETS
from prag.evaluate.settings import EvalSettings
from prag.evaluate.texts import general_questions
from prag.knowledge_base import KnowledgeBase
from prag.methods.base import Search
from prag.records import Hit


@dataclass(frozen=True)
class Assignment:
    """One condition: its questions in order, and the passages of each."""

    condition: Condition
    questions: tuple[Question, ...]
    given: Chosen


@dataclass(frozen=True)
class Assigned:
    """All conditions of a run; `changed` are the passages of the control `conflict`.

    `notes` say how many questions a condition leaves out, and why.
    """

    assignments: tuple[Assignment, ...]
    changed: Mapping[str, Changed]
    notes: tuple[str, ...]


def assign(kb: KnowledgeBase, data: QuestionSet, settings: EvalSettings) -> Assigned:
    """What every condition asks and gives; the same for the same seed, whatever else is run."""
    search, questions = kb.library().search, data.questions
    own = (
        choosing.gold(search, questions)
        if settings.gold
        else choosing.retrieved(search, questions, settings.top_k)
    )
    changed: dict[str, Changed] = {}
    if any(c.control == "conflict" for c in settings.asked):
        wanted = {p for q in questions for p in q.gold_passages}
        passages = {p.id: p for p in kb.passages() if p.id in wanted}
        changed = change(questions, passages, settings.seed)
    made, notes = [], []
    for condition in settings.asked:
        asked = _asked(condition, questions)
        given = _given(condition, questions, own, changed, search, settings.seed)
        kept = tuple(q for q in asked if q.id in given)
        made.append(Assignment(condition, kept, given))
        if len(kept) < len(asked):
            why = _WHY[condition.control]
            notes.append(f"{condition.label}: {len(asked) - len(kept)} questions left out ({why})")
    return Assigned(tuple(made), changed, tuple(notes))


_WHY = {
    "shuffled": "no other question has another passage",
    "noise": "gold passages are not known, or there are too few others to draw",
    "conflict": "the answer is yes or no, or stands in no gold passage, or has no substitute",
}


def _asked(condition: Condition, questions: tuple[Question, ...]) -> tuple[Question, ...]:
    if condition.control == "general":
        return general_questions()
    return questions[:ADAPTER_SETS] if condition.control == "perplexity" else questions


def _given(
    condition: Condition,
    questions: tuple[Question, ...],
    own: Chosen,
    changed: Mapping[str, Changed],
    search: Search,
    seed: int,
) -> Chosen:
    if condition.control == "shuffled":
        return choosing.shuffled(questions, own, seed)
    if condition.control == "noise" and condition.k is not None:
        return choosing.noisy(search, questions, own, condition.k, seed)
    if condition.control == "conflict":
        return {q.id: _changed(search, q, changed[q.id]) for q in questions if q.id in changed}
    if condition.control == "general":
        general = general_questions()
        return {q.id: own[questions[i % len(questions)].id] for i, q in enumerate(general)}
    if condition.control == "format-only":
        return {i: hits[:1] for i, hits in own.items()}
    return own


def _changed(search: Search, question: Question, changed: Changed) -> tuple[Hit, ...]:
    """The changed passages, in the retriever's order of what they were."""
    new = {old: p.id for old, p in zip(changed.originals, changed.passages, strict=True)}
    ranked = choosing.ranked(search, question, changed.originals)
    return tuple(replace(hit, passage_id=new[hit.passage_id]) for hit in ranked)

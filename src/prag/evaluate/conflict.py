"""The control `conflict`: passages that say something else, to see whom the model believes.

In the gold passages of a question the answer is replaced by the answer of another question, in
their text and in what they were augmented with, so that the changed passage has an adapter that
was trained on the change and on nothing else that is new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prag.datasets import Question
from prag.evaluate.choosing import rng
from prag.metrics import normalise
from prag.records import Augmentation, Passage, QAPair

_NO_ENTITY = frozenset({"yes", "no", "noanswer", ""})


@dataclass(frozen=True)
class Changed:
    """The passages of a question with another answer in the place of the right one.

    `passages` are those that held the answer, changed; `originals` the ids of what they were, in
    the same order.
    """

    question_id: str
    instead: str
    passages: tuple[Passage, ...]
    originals: tuple[str, ...]


def change(
    questions: Sequence[Question], passages: Mapping[str, Passage], seed: int
) -> dict[str, Changed]:
    """The changed passages of each question for which that can be done.

    The substitute is the first answer of another question, one of the same type if there is
    one, that is no answer of this one and does not stand in its passages.

    Args:
        passages: the gold passages by id.

    Returns:
        By question id; without the questions whose answer is yes or no, or stands in no gold
        passage, or that have no substitute.
    """
    made = {}
    for question in questions:
        if normalise(question.golds[0]) in _NO_ENTITY:
            continue
        there = [passages[p] for p in question.gold_passages if p in passages]
        pattern = _pattern(question.golds)
        holding = [p for p in there if pattern.search(p.text) or pattern.search(p.title)]
        instead = _substitute(question, questions, holding, seed)
        if holding and instead is not None:
            put = _Put(pattern, instead)
            made[question.id] = Changed(
                question.id,
                instead,
                tuple(Passage(put(p.title), put(p.text)) for p in holding),
                tuple(p.id for p in holding),
            )
    return made


def changed_augmentation(
    question: Question, changed: Changed, index: int, of: Augmentation
) -> Augmentation:
    """The augmentation of a changed passage: that of the original with the answer replaced."""
    put = _Put(_pattern(question.golds), changed.instead)
    return replace(
        of,
        passage_id=changed.passages[index].id,
        rewrites=tuple(map(put, of.rewrites)),
        pairs=tuple(QAPair(put(p.question), put(p.answer), put(p.full_answer)) for p in of.pairs),
    )


@dataclass(frozen=True)
class _Put:
    """Puts the substitute where the answer stands; a backslash in it means nothing."""

    pattern: re.Pattern[str]
    instead: str

    def __call__(self, text: str) -> str:
        return self.pattern.sub(lambda _: self.instead, text)


def _pattern(golds: Sequence[str]) -> re.Pattern[str]:
    """Any of the answers as whole words, the longest first, whatever their case."""
    words = sorted({g.strip() for g in golds if normalise(g)}, key=lambda g: (-len(g), g))
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", re.IGNORECASE)


def _substitute(
    question: Question, questions: Sequence[Question], holding: Sequence[Passage], seed: int
) -> str | None:
    """Another question's answer, of the same type first, in an order drawn for this question."""
    others = [q for q in questions if q.id != question.id]
    order = rng(seed, "conflict", question.id).permutation(len(others))
    drawn: list[Question] = sorted(
        (others[i] for i in order), key=lambda q: q.kind != question.kind
    )
    mine = [f" {normalise(g)} " for g in question.golds]
    said = f" {normalise(' '.join(f'{p.title} {p.text}' for p in holding))} "
    for other in drawn:
        answer = other.golds[0]
        bare = f" {normalise(answer)} "
        same = any(bare in m or m in bare for m in mine)
        if bare.strip() not in _NO_ENTITY and not same and bare not in said:
            return answer
    return None

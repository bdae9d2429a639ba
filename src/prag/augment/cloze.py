"""A question for a span by rule: its sentence up to there, and what is asked in its place.

    Ada Fowl was born in Merryland to a bricklayer.
    Ada Fowl was born in what place?                    Merryland

No model has a part in it, so it costs nothing, and a question always asks for its answer. A model
of 135 M parameters that is shown sentence and span asks for something else as often as not
(docs/log.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prag.augment.checks import no_span, take
from prag.augment.spans import Span, answer_spans, begins_with
from prag.config import AugmentConfig
from prag.metrics import normalise
from prag.model import BaseModel
from prag.records import Augmentation, Passage, QAPair, Reject

SPARE = 3
"""Spans tried beyond the pairs wanted, so that a rejected question can be made up for."""

FEW = 3
"""Words before the span that say too little: then what follows it is asked with."""

MOST_AFTER = 12
"""Words of what follows the span."""

_ASKED = {
    "what": "what",
    "date": "what date",
    "year": "what year",
    "place": "what place",
    "quoted": "what title",
}
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_OPEN_BRACKET = re.compile(r"\s*\((?=[^()]*\Z)")
_BORN = re.compile(r"\((?:[^()]*[;,] )?(?:born |b\. )(?:on |in )?\Z")
_FIRST_DATE = re.compile(r"\((?:[^()]*[;,] )?\Z")
_TO = re.compile(r"\A\s*[–—-]")
_LAST_DATE = re.compile(r"\([^()]*\d{3,4}\s*[–—-]\s*\Z")
_ARTICLE = re.compile(r"\b(?:an?|the|one of the)\Z")
_OF_A_PERSON = re.compile(r"\b(?:he|she|his|her|him)\b", re.IGNORECASE)
_SUBJECT = re.compile(r"\A(?:He|She|It|They)\b")
_OWNER = re.compile(r"\A(?:His|Her|Its|Their)\b")
_TOLD_APART = re.compile(r"\s*\([^()]*\)\Z")  # "Mercury (planet)"


class Cloze:
    """Augments passages by rule; the knowledge base's own doing, as what its base model writes."""

    def __init__(self, base: BaseModel, config: AugmentConfig) -> None:
        self.config = config
        self.origin = f"self:{base.fingerprint}"

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The pairs of each passage, in order; a passage may get fewer than are wanted."""
        return [self._one(passage) for passage in passages]

    def _one(self, passage: Passage) -> Augmentation:
        kept: list[QAPair] = []
        rejects: list[Reject] = []
        spans = answer_spans(passage, self.config.pairs + SPARE)
        made = (QAPair(cloze_question(s, passage), s.text, s.sentence) for s in spans)
        take(made, passage, self.config.pairs, kept, rejects, grounded=True)
        if not spans:
            rejects.append(no_span(passage))
        return Augmentation(passage.id, (), tuple(kept), self.origin, tuple(rejects))


def cloze_question(span: Span, passage: Passage) -> str:
    """The question whose answer is the span.

    What stands in brackets before it is left out, and a pronoun that begins the sentence gives way
    to the title. The two dates in brackets that a passage begins with are, where it calls somebody
    he or she, those of a birth and a death.
    """
    title = _TOLD_APART.sub("", " ".join(passage.title.split()))
    before, after = _around(span)
    if span.kind in ("date", "year") and title and begins_with(passage, span):
        person = _OF_A_PERSON.search(passage.text) is not None
        told = _life_date(before, after, title, person)
        if told is not None:
            return told
    before = _OPEN_BRACKET.sub(", ", _BRACKETS.sub("", before)).lstrip(" ,").rstrip(' "“')
    if span.kind == "what":
        before = _ARTICLE.sub("", before)
    question = f"{before} {_asked(span, before)}"
    if len(before.split()) < FEW:
        rest = _BRACKETS.sub("", after).replace(")", "").strip(' "”.,;:')
        question = " ".join([question, *rest.split()[:MOST_AFTER]])
    if title:
        question = _SUBJECT.sub(lambda _: title, question)
        question = _OWNER.sub(lambda _: f"{title}'s", question)
        if not set(normalise(title).split()) & set(normalise(question).split()):
            question = f"{title}: {question}"
    question = " ".join(question.split()).rstrip(" .,;:")
    return f"{question[:1].upper()}{question[1:]}?"


def _around(span: Span) -> tuple[str, str]:
    """What stands before and after the span in its sentence."""
    whole = re.search(rf"(?<!\w){re.escape(span.text)}(?!\w)", span.sentence)
    at = whole.start() if whole else span.sentence.index(span.text)
    return span.sentence[:at], span.sentence[at + len(span.text) :]


def _life_date(before: str, after: str, title: str, person: bool) -> str | None:
    """The question for a date in the brackets that follow the subject of a passage."""
    if _BORN.search(before):
        return f"When was {title} born?"
    if _FIRST_DATE.search(before) and _TO.search(after):
        return f"When was {title} born?" if person else f"{title}, from what date?"
    if _LAST_DATE.search(before):
        return f"When did {title} die?" if person else f"{title}, until what date?"
    return None


def _asked(span: Span, before: str) -> str:
    if span.kind == "count":
        return " ".join(["how many", *span.text.split()[1:]])
    if span.kind == "name":
        return "whom or what" if before else "who or what"
    return _ASKED[span.kind]

"""Spans of a passage that make good answers, found by rules: answer first, question after.

The rules look at form alone (what follows a copula, dates, numbers with their unit, runs of
capitalised words, quoted titles), at no particular relation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from prag.metrics import normalise
from prag.records import Passage

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}}\s+{_MONTH}\s+\d{{3,4}}|{_MONTH}\s+\d{{1,2}},\s+\d{{3,4}}|{_MONTH}\s+\d{{4}})\b"
)
_YEAR = re.compile(r"\b(?:1[0-9]{3}|20[0-9]{2})\b")
_NUMBER = re.compile(
    r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?\s+(?P<unit>(?!and\b|was\b|but\b|when\b)[a-z]{3,})"
)
_COPULA = re.compile(
    r"\b(?P<verb>is|was|are|were)\s+(?:(?:also|currently|once|formerly|now)\s+)?"
    r"(?:(?:an?|the|one of the)\s+)(?P<span>[^.;:()\n]+)"
)
# Where a noun phrase after a copula ends.
_PHRASE_END = re.compile(
    r",(?! [\w-]+,? (?:and|or) )|\s(?:who|which|that|whose|where|when|in|of|from|for|by|at|on|with|"
    r"to|best|known|based|located|living|born|and (?:is|was|the|an?|has|served))\b"
)
_CAPITAL = r"(?:[A-ZÀ-ÖØ-Þ]\.|[A-ZÀ-ÖØ-Þ][\w'’-]*)"  # an initial, or a capitalised word
_NAME = re.compile(
    rf"\b{_CAPITAL}(?:\s+(?:(?:of|the|de|von|van|du|and|la|le|for|&)\s+)*{_CAPITAL})*"
)
_PLACED = re.compile(r"\b(?:in|at|near|from)\s+(?:the\s+)?$")
_QUOTED = re.compile(r"[\"“]([^\"“”]{2,60})[\"”]")
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        "He She It They His Her Its Their The A An In On At As After Before During From For By "
        "This These Those There When While Since Although However Some Many Most Other Both "
        "And But Or To With Until Under Over One Two Three Also I We You My Our Born",
    )
)
_MAX_WORDS = 8
_MAX_SENTENCE_WORDS = 120  # what is longer is a list or a table, and would fill the prompt
_KINDS = ("what", "date", "place", "name", "quoted", "year", "count")


@dataclass(frozen=True)
class Span:
    """An answer, the sentence it stands in, and how a question for it may begin.

    `kind` is one of what (after a copula), date, place, name, quoted, year, count.
    """

    text: str
    sentence: str
    kind: str
    starter: str


def answer_spans(passage: Passage, most: int) -> list[Span]:
    """Up to `most` spans of the passage, the most telling first, no span within another.

    Kinds take turns, each in the order of the text. Spans that only repeat the title are left
    out.
    """
    by_kind: dict[str, list[Span]] = {kind: [] for kind in _KINDS}
    for sentence in _sentences(passage.text):
        for span in _spans_of(sentence, passage.title):
            by_kind[span.kind].append(span)
    chosen: list[Span] = []
    for turn in zip_longest(*by_kind.values()):
        for span in turn:
            if span is not None and len(chosen) < most and _is_new(span, chosen, passage.title):
                chosen.append(span)
    return chosen


def begins_with(passage: Passage, span: Span) -> bool:
    """Whether the span stands in the passage's first sentence, which says what it is about."""
    return " ".join(passage.text.split()).startswith(span.sentence)


def _is_new(span: Span, chosen: list[Span], title: str) -> bool:
    bare = f" {normalise(span.text)} "
    if bare.isspace() or bare in f" {normalise(title)} " or len(bare.split()) > _MAX_WORDS:
        return False
    if bare not in f" {normalise(span.sentence)} ":
        return False  # a part of a word: "Semitic" of "anti-Semitic"
    others = [f" {normalise(c.text)} " for c in chosen]
    return not any(bare in other or other in bare for other in others)


def _sentences(text: str) -> list[str]:
    from sentencex import segment

    # White space is folded first: the segmenter does not survive some line separators.
    found = [s.strip() for s in segment("en", " ".join(text.split()))]
    return [s for s in found if s and len(s.split()) <= _MAX_SENTENCE_WORDS]


def _spans_of(sentence: str, title: str) -> Iterator[Span]:
    def span(text: str, kind: str, starter: str) -> Span:
        return Span(text, sentence, kind, starter)

    taken: list[tuple[int, int]] = []
    for match in _COPULA.finditer(sentence):
        end = _PHRASE_END.search(match["span"])
        text = (match["span"][: end.start()] if end else match["span"]).strip(" ,")
        yield span(text, "what", f"What {match['verb']} {title}".rstrip())
    for match in _DATE.finditer(sentence):
        taken.append(match.span())
        yield span(match.group(), "date", "When")
    for match in _YEAR.finditer(sentence):
        if _free(match, taken):
            taken.append(match.span())
            yield span(match.group(), "year", "In what year")
    for match in _NUMBER.finditer(sentence):
        if _free(match, taken):
            yield span(match.group(), "count", f"How many {match['unit']}")
    for match in _QUOTED.finditer(sentence):
        taken.append(match.span())
        yield span(match.group(1).strip(" ,."), "quoted", "What is the name of")
    own = set(normalise(title).split())
    for match in _NAME.finditer(sentence):
        words = match.group().split()
        while words and words[0] in _OPENERS:
            words = words[1:]
        text = " ".join(words).rstrip(".,'’-")
        bare = set(normalise(text).split())
        if bare and not bare <= own and _free(match, taken) and not re.fullmatch(_MONTH, text):
            if _PLACED.search(sentence[: match.start()]):
                yield span(text, "place", "Where")
            else:
                yield span(text, "name", "")


def _free(match: re.Match[str], taken: list[tuple[int, int]]) -> bool:
    return not any(a < match.end() and match.start() < b for a, b in taken)

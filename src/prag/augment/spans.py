"""Spans of a passage that make good answers, found by rules: answer first, question after.

The rules look at form alone (what follows a copula, dates, numbers with their unit, runs of
capitalised words, quoted titles), at no particular relation.
"""

from __future__ import annotations

import re
from itertools import chain

from prag.metrics import normalise
from prag.records import Passage

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}}\s+{_MONTH}\s+\d{{3,4}}|{_MONTH}\s+\d{{1,2}},\s+\d{{3,4}}|{_MONTH}\s+\d{{4}})\b"
)
_YEAR = re.compile(r"\b(?:1[0-9]{3}|20[0-9]{2})\b")
_NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?\s+(?!and\b|was\b|but\b|when\b)[a-z]{3,}")
_COPULA = re.compile(
    r"\b(?:is|was|are|were|became|becomes|remains)\s+"
    r"(?:(?:also|currently|once|formerly|now)\s+)?(?:(?:an?|the|one of the)\s+)"
    r"(?P<span>[^.;:()\n]+)"
)
# Where a noun phrase after a copula ends.
_PHRASE_END = re.compile(
    r",(?! [\w-]+,? (?:and|or) )|\s(?:who|which|that|whose|where|when|in|of|from|for|by|at|on|with|"
    r"to|best|known|based|located|born|and (?:is|was|the|an?|has|served))\b"
)
_CAPITAL = r"(?:[A-ZÀ-ÖØ-Þ]\.|[A-ZÀ-ÖØ-Þ][\w'’-]*)"  # an initial, or a capitalised word
_NAME = re.compile(
    rf"\b{_CAPITAL}(?:\s+(?:(?:of|the|de|von|van|du|and|la|le|for|&)\s+)*{_CAPITAL})*"
)
_QUOTED = re.compile(r"[\"“]([^\"“”]{2,60})[\"”]")
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        "He She It They His Her Its Their The A An In On At As After Before During From For By "
        "This These Those There When While Since Although However Some Many Most Other Both "
        "And But Or To With Until Under Over One Two Three Also I We You My Our",
    )
)
_MAX_WORDS = 8


def answer_spans(passage: Passage, most: int) -> list[str]:
    """Up to `most` spans of the passage, the most telling first, no span within another.

    Kinds take turns, each in the order of the text: what something is, names, dates, numbers,
    quoted titles. Spans that only repeat the title are left out.
    """
    text = passage.text
    kinds = [
        _phrases(text),
        _names(text, passage.title),
        _dates(text),
        _quoted(text),
        _counts(text),
    ]
    turns = chain.from_iterable(zip(*[k + [""] * (most - len(k)) for k in kinds], strict=False))
    chosen: list[str] = []
    title = normalise(passage.title)
    for span in turns:
        bare = normalise(span)
        if not bare or f" {bare} " in f" {title} " or len(bare.split()) > _MAX_WORDS:
            continue
        if any(f" {bare} " in f" {normalise(c)} " or normalise(c) in bare for c in chosen):
            continue
        chosen.append(span)
        if len(chosen) == most:
            break
    return chosen


def sentence_of(span: str, text: str) -> str:
    """The sentence of the text in which the span first stands; the text's first if it does not."""
    from sentencex import segment

    sentences: list[str] = [s.strip() for s in segment("en", " ".join(text.split()))] or [text]
    return next((s for s in sentences if span in s), sentences[0])


def _phrases(text: str) -> list[str]:
    found = []
    for match in _COPULA.finditer(text):
        span = match["span"]
        end = _PHRASE_END.search(span)
        found.append((span[: end.start()] if end else span).strip(" ,"))
    return found


def _names(text: str, title: str) -> list[str]:
    own = set(normalise(title).split())
    found = []
    for match in _NAME.finditer(text):
        words = match.group().split()
        while words and words[0] in _OPENERS:
            words = words[1:]
        span = " ".join(words).rstrip(".,'’-")
        bare = set(normalise(span).split())
        if bare and not bare <= own and not re.fullmatch(_MONTH, span):
            found.append(span)
    return found


def _dates(text: str) -> list[str]:
    whole = [(m.start(), m.group()) for m in _DATE.finditer(text)]
    covered = [(m.start(), m.end()) for m in _DATE.finditer(text)]
    years = [
        (m.start(), m.group())
        for m in _YEAR.finditer(text)
        if not any(a <= m.start() < b for a, b in covered)
    ]
    return [span for _, span in sorted(whole + years)]


def _quoted(text: str) -> list[str]:
    return [m.group(1).strip(" ,.") for m in _QUOTED.finditer(text)]


def _counts(text: str) -> list[str]:
    dates = [(m.start(), m.end()) for p in (_DATE, _YEAR) for m in p.finditer(text)]
    return [
        m.group()
        for m in _NUMBER.finditer(text)
        if not any(a < m.end() and m.start() < b for a, b in dates)
    ]

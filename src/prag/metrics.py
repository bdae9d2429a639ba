"""Answers: how they are cut out of generated text, and how they are scored. Pure functions.

Normalisation, exact match and token F1 are those of SQuAD v1.1 (Rajpurkar et al. 2016): lower
case, punctuation and the articles a, an, the removed, white space folded; the best over the
golden answers counts. One case is v2.0's: two answers that normalise to nothing have F1 1, as they
have exact match 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LEAD = re.compile(r"\bthe answer is\b:?", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    re.findall(
        r"\w+",
        "mr mrs ms dr prof st jr sr vs inc ltd co corp gen col lt sgt capt rev hon gov sen rep "
        "etc approx fig vol",
    )
)


def normalise(text: str) -> str:
    """The form in which SQuAD compares answers."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, golds: Iterable[str]) -> float:
    """1.0 if the prediction equals a golden answer after normalisation, else 0.0."""
    return _best(lambda gold: float(normalise(prediction) == normalise(gold)), golds)


def f1(prediction: str, golds: Iterable[str]) -> float:
    """Token F1 in [0, 1] against the golden answer that it fits best."""
    return _best(lambda gold: _token_f1(normalise(prediction), normalise(gold)), golds)


def presence(text: str, golds: Iterable[str]) -> float:
    """1.0 if a golden answer stands in the text as whole words after normalisation, else 0.0.

    A golden answer that normalises to nothing (a lone article, say) is never present.
    """
    padded = f" {normalise(text)} "
    return _best(lambda gold: float(bool(n := normalise(gold)) and f" {n} " in padded), golds)


def extract(raw: str) -> str:
    """The answer within generated text, by the rule used for every method.

    The text after the last "the answer is", if the model says that; of it the first line that
    is not empty, without a leading colon; of that the first sentence, without surrounding quotes
    and its closing mark.
    A full stop ends a sentence only before white space or at the end, and not after an initial
    ("J. K. Rowling"), letters with stops ("U.S.") or a known abbreviation. A comma ends nothing.
    """
    leads = list(_LEAD.finditer(raw))
    text = raw[leads[-1].end() :] if leads else raw
    line = next((line for line in map(_trim, text.splitlines()) if line), "")
    bare = _first_sentence(line).strip().strip("\"'“”‘’")
    return re.sub(r"[\s.!?;:,]+\Z", "", bare).strip()


def extract_published(raw: str, chain_of_thought: bool = False) -> str:
    """The published code's rule: cut at the first full stop, newline or comma.

    With chain of thought, of the text after the first "the answer is". The rule turns
    "J. K. Rowling" into "J" and "15,140" into "15"; it is here for comparison.
    """
    if chain_of_thought and (lead := _LEAD.search(raw)):
        raw = raw[lead.end() :]
    return re.split(r"[.\n,]", raw.strip(), maxsplit=1)[0].strip()


def _trim(line: str) -> str:
    return line.strip().lstrip(":").lstrip()


def _first_sentence(line: str) -> str:
    for mark in re.finditer(r"[.!?](?=[\s\"'”’]|$)", line):
        words = line[: mark.start()].split()
        last = words[-1].lower().lstrip("(\"'“‘") if words else ""
        if mark.group() == "." and (
            last in _ABBREVIATIONS
            or (len(last) == 1 and last.isalpha())
            or re.fullmatch(r"(?:[a-z]\.)+[a-z]", last)
        ):
            continue
        return line[: mark.start()]
    return line


def _token_f1(prediction: str, gold: str) -> float:
    ours, theirs = prediction.split(), gold.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2.0 * common / (len(ours) + len(theirs))


def _best(score: Callable[[str], float], golds: Iterable[str]) -> float:
    return max((score(gold) for gold in golds), default=0.0)

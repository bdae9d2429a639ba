"""Answers: how they are cut out of generated text, and how they are scored. Pure functions.

Normalisation, exact match and token F1 are those of SQuAD v1.1 (Rajpurkar et al. 2016): lower
case, punctuation and the articles a, an, the removed, white space folded; the best over the
golden answers counts. Two answers that normalise to nothing have exact match 1 and F1 0, as they
have there (SQuAD v2.0 gives F1 1).

SQuAD's scores are the default for every question set. HotpotQA's script and the Parametric RAG
code score tokens otherwise (`token_scores_hotpot`, `token_scores_published`); these are here for
comparison with figures that were made by them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

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
_CLOSED = frozenset(("yes", "no", "noanswer"))


@dataclass(frozen=True)
class TokenScores:
    """How the tokens of an answer and of a golden answer overlap, each number in [0, 1].

    Args:
        f1: the harmonic mean of the other two.
        precision: the share of the answer's tokens that the golden answer has too.
        recall: the share of the golden answer's tokens that the answer has too.
    """

    f1: float
    precision: float
    recall: float


_NOTHING = TokenScores(f1=0.0, precision=0.0, recall=0.0)


def normalise(text: str) -> str:
    """The form in which SQuAD compares answers."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, golds: Iterable[str]) -> float:
    """1.0 if the prediction equals a golden answer after normalisation, else 0.0."""
    return _best(lambda gold: float(normalise(prediction) == normalise(gold)), golds)


def f1(prediction: str, golds: Iterable[str]) -> float:
    """Token F1 in [0, 1] against the golden answer that it fits best: SQuAD v1.1's."""
    return token_scores(prediction, golds).f1


def token_scores(prediction: str, golds: Iterable[str]) -> TokenScores:
    """F1, precision and recall against one golden answer: the one with the best F1.

    The default for every question set. The F1 is SQuAD v1.1's: "yes" and "no" are tokens as any
    other. Precision and recall, which SQuAD does not report, belong to the golden answer that
    gives the F1; where several give it, to the one with the highest precision.
    """
    scores = [_overlap(normalise(prediction), normalise(gold)) for gold in golds]
    if not scores:
        return _NOTHING
    # The same F1 from two golden answers may differ in its last bit, which must not decide.
    best = max(scores, key=lambda s: (round(s.f1, 12), s.precision))
    return replace(best, f1=max(s.f1 for s in scores))


def token_scores_hotpot(prediction: str, gold: str) -> TokenScores:
    """The scores of HotpotQA's evaluation script, which knows one golden answer a question.

    They are SQuAD's but for one rule: where either answer normalises to yes, no or noanswer, the
    other must be equal, else all three are 0 ("yes, it is" against "yes": 0, SQuAD's F1 is 0.5).
    """
    ours, theirs = normalise(prediction), normalise(gold)
    if ours != theirs and (ours in _CLOSED or theirs in _CLOSED):
        return _NOTHING
    return _overlap(ours, theirs)


def token_scores_published(prediction: str, golds: Iterable[str]) -> TokenScores:
    """The scores of the Parametric RAG code: HotpotQA's, each the best over the golden answers.

    The three may come from three golden answers, so that precision and recall can both be 1
    where F1 is not; for comparison with its figures.
    """
    scores = [token_scores_hotpot(prediction, gold) for gold in golds]
    return TokenScores(
        f1=max((s.f1 for s in scores), default=0.0),
        precision=max((s.precision for s in scores), default=0.0),
        recall=max((s.recall for s in scores), default=0.0),
    )


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

    With chain of thought, of the text after the first "the answer is", in small letters only. The
    rule turns "J. K. Rowling" into "J" and "15,140" into "15"; it is here for comparison.
    """
    if chain_of_thought:
        raw = raw.split("the answer is", maxsplit=1)[-1]
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


def _overlap(prediction: str, gold: str) -> TokenScores:
    """Of two normalised texts; a token counts as often as both have it."""
    ours, theirs = prediction.split(), gold.split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    if common == 0:
        return _NOTHING
    precision, recall = common / len(ours), common / len(theirs)
    return TokenScores(2.0 * precision * recall / (precision + recall), precision, recall)


def _best(score: Callable[[str], float], golds: Iterable[str]) -> float:
    return max((score(gold) for gold in golds), default=0.0)

"""Which passages each question is given under each condition: pure functions of a seed.

Every draw depends on the seed and the question's id alone, not on what else is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prag.datasets import Question
from prag.methods.base import Search
from prag.records import Hit, content_id

Chosen = Mapping[str, tuple[Hit, ...]]
"""The passages of each question, by its id, the best first."""


def rng(seed: int, *what: str) -> np.random.Generator:
    """A generator of its own for everything that is drawn."""
    return np.random.default_rng([seed, int(content_id(*what), 16)])


def retrieved(search: Search, questions: Sequence[Question], k: int) -> Chosen:
    """The k best passages of the corpus."""
    hits = search([q.text for q in questions], k)
    return {q.id: tuple(h) for q, h in zip(questions, hits, strict=True)}


def ranked(search: Search, question: Question, passages: Sequence[str]) -> tuple[Hit, ...]:
    """Given passages in the order in which the retriever ranks them for the question.

    Those that it does not find at all come last, in the order given, with score 0.
    """
    if not passages:
        return ()
    (found,) = search([question.text], len(passages), frozenset(passages))
    there = {hit.passage_id for hit in found}
    rest = [p for p in dict.fromkeys(passages) if p not in there]
    return (*found, *(Hit(p, 0.0, len(found) + i) for i, p in enumerate(rest)))


def gold(search: Search, questions: Sequence[Question]) -> Chosen:
    """The gold passages, in the retriever's order."""
    return {q.id: ranked(search, q, q.gold_passages) for q in questions}


def shuffled(questions: Sequence[Question], own: Chosen, seed: int) -> Chosen:
    """Each question gets the passages of another: the next in a random round that shares none.

    Where every other shares some, it is the next one without those that are shared.

    Returns:
        Without the questions for which no other has a passage that is not theirs.
    """
    order = [questions[i] for i in rng(seed, "shuffled").permutation(len(questions))]
    given = {}
    for at, question in enumerate(order):
        mine = {hit.passage_id for hit in own[question.id]} | set(question.gold_passages)
        round_ = [own[order[(at + step) % len(order)].id] for step in range(1, len(order))]
        foreign = [tuple(hit for hit in hits if hit.passage_id not in mine) for hits in round_]
        whole = (new for new, hits in zip(foreign, round_, strict=True) if new and new == hits)
        found = next(whole, None) or next(filter(None, foreign), None)
        if found:
            given[question.id] = found
    return given


def noisy(search: Search, questions: Sequence[Question], own: Chosen, k: int, seed: int) -> Chosen:
    """One gold passage and k - 1 of other questions, in the retriever's order.

    The gold one is the one that the retriever likes best. The others are drawn from the passages
    that were retrieved for the set's questions, without those of this question; for a smaller k
    they are the first of those for a larger one, so that a curve over k adds and never swaps.

    Returns:
        Without the questions whose gold passages are not known, or which have not k - 1 others.
    """
    pool = sorted({hit.passage_id for hits in own.values() for hit in hits})
    given = {}
    for question in questions:
        if not question.gold_passages:
            continue
        best = ranked(search, question, question.gold_passages)[0].passage_id
        mine = {hit.passage_id for hit in own[question.id]} | set(question.gold_passages)
        others = [p for p in pool if p not in mine]
        drawn = [others[i] for i in rng(seed, "noise", question.id).permutation(len(others))]
        if len(drawn) >= k - 1:
            given[question.id] = ranked(search, question, [best, *drawn[: k - 1]])
    return given

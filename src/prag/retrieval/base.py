"""What every retriever is, and the one rule by which scores become a ranking."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prag.records import Hit, Passage, PragError

Ranking: TypeAlias = list[tuple[int, float]]
"""Positions of passages (in the order they were built in) with their scores, best first."""


class ReplacedError(PragError):
    """The index that is open is no longer there: another build may have replaced it."""


@runtime_checkable
class Retriever(Protocol):
    """Finds the passages that fit a question.

    `kind` is the word that `build_retriever` and the folder's meta.json use for it.
    """

    kind: str

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """The hits of each question, best first; equal scores in the order of the corpus.

        Args:
            questions: any number of questions.
            k: the most hits a question may have; it has fewer when fewer passages match.
            allowed: the ids of the passages that may be returned; None allows every passage.
                The k hits are the best k of the allowed ones.

        Raises:
            PragError: k below 1, or one string where a sequence of questions belongs.
            ReplacedError: the index is gone; open it again.
        """
        ...


class RankingRetriever(Retriever, Protocol):
    """A retriever over a numbered corpus that can also say where its hits stand in it."""

    def rank(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[Ranking]:
        """As `search`, with positions in place of hits."""
        ...


def indexed_text(passage: Passage) -> str:
    """The text of a passage that is indexed: title, newline, text."""
    return f"{passage.title}\n{passage.text}"


def check_search(questions: Sequence[str], k: int) -> None:
    """Refuse a search that cannot be meant as it is written.

    Raises:
        PragError: k below 1, or one string where a sequence of questions belongs.
    """
    if isinstance(questions, str):
        raise PragError("search takes a list of questions: put the one question into a list")
    if k < 1:
        raise PragError(f"k = {k}: ask for at least 1 passage")


def best(
    scores: NDArray[Any],
    candidates: NDArray[np.intp],
    k: int,
    ids: NDArray[np.bytes_],
    allowed: Container[str] | None,
) -> Ranking:
    """The k best of the candidates that are allowed; equal scores by position.

    `allowed` can only be asked, not listed, so the ranking is walked from its top, ever deeper,
    until k allowed passages are found. With few passages withdrawn the first walk is enough.

    Args:
        scores: one score a passage of the corpus.
        candidates: ascending positions of the passages that may be ranked at all.
        k: the most that are returned.
        ids: the ids of all passages.
        allowed: the ids that may be returned, None for all.
    """
    values = scores[candidates]
    depth = k
    while True:
        positions = candidates[_top(values, depth)].tolist()
        if allowed is not None:
            positions = [p for p in positions if id_at(ids, p) in allowed][:k]
        if len(positions) == k or depth >= len(values):
            return [(p, float(scores[p])) for p in positions]
        depth = min(4 * depth, len(values))


def best_found(
    find: Callable[[int], Ranking],
    k: int,
    ids: NDArray[np.bytes_],
    allowed: Container[str] | None,
) -> Ranking:
    """The k best of the allowed passages that an engine finds; equal scores by position.

    An engine breaks ties by its own numbering. So the passages that score as the last one of a
    search are left out of it, for there may be more of them, and the search goes deeper until k
    allowed ones stand above.

    Args:
        find: the best passages, as many as it is told or all there are, in falling order.
        k: the most that are returned.
        ids: the ids of all passages.
        allowed: the ids that may be returned, None for all.
    """
    depth = k + 1
    while True:
        depth = min(depth, len(ids))
        found = find(depth)
        whole = len(found) < depth or depth == len(ids)
        least = -np.inf if whole else found[-1][1]
        ranking = sorted(
            (
                (position, score)
                for position, score in found
                if score > least and (allowed is None or id_at(ids, position) in allowed)
            ),
            key=lambda one: (-one[1], one[0]),
        )
        if whole or len(ranking) >= k:
            return ranking[:k]
        depth *= 4


def hits(ranking: Ranking, ids: NDArray[np.bytes_]) -> list[Hit]:
    """The ranking as records."""
    return [Hit(id_at(ids, p), score, rank) for rank, (p, score) in enumerate(ranking)]


def id_at(ids: NDArray[np.bytes_], position: int) -> str:
    """The id of the passage at a position."""
    return bytes(ids[position]).decode("ascii")


def _top(values: NDArray[Any], depth: int) -> NDArray[np.intp]:
    """Indexes of the `depth` largest values, largest first, equal ones in ascending order."""
    chosen = np.arange(len(values), dtype=np.intp)
    if depth < len(values):
        # All values equal to the least one that belongs stay in, for the sort to choose among:
        # a partition alone would choose by its own inner order.
        at = len(values) - depth
        chosen = np.flatnonzero(values >= np.partition(values, at)[at])
    return chosen[np.argsort(-values[chosen], kind="stable")][:depth]

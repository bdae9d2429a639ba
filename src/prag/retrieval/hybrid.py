"""BM25 and dense retrieval as one ranking, by reciprocal rank fusion.

    score(p) = sum over the two rankings that have p of   1 / (60 + rank of p, counted from 1)

Cormack, Clarke & Büttcher 2009. Only ranks are used, so the two scales need no matching.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prag.records import Hit, Passage
from prag.retrieval.base import Ranking, RankingRetriever, check_search, hits
from prag.retrieval.bm25 import BM25Retriever
from prag.retrieval.dense import DenseRetriever, Embedder
from prag.retrieval.folder import Filled, IdList, IndexInfo, load_ids, read_index, write_index

CONSTANT = 60
"""Of the fusion: how little the first ranks stand out from those after them."""

DEPTH = 100
"""Hits taken from each of the two, or k where that is more."""


class HybridRetriever:
    """Ranks by the ranks that BM25 and dense retrieval give."""

    kind: str = "hybrid"

    def __init__(
        self,
        parts: Sequence[RankingRetriever],
        ids: NDArray[np.bytes_],
        info: IndexInfo,
    ) -> None:
        self._parts = tuple(parts)
        self._ids = ids
        self.info = info

    def __len__(self) -> int:
        return len(self._ids)

    @classmethod
    def build(
        cls,
        passages: Iterable[Passage],
        folder: Path,
        digest: str | None = None,
        *,
        embedder: Embedder | None = None,
    ) -> HybridRetriever:
        """Build both indexes into a folder, replacing the pair that is there, and open it.

        The slow part, the embedding, draws the passages: an iterator that counts what it gives
        shows the progress. The passages are held in memory until both are built.

        Args:
            passages: each once; their order decides between equal scores.
            folder: made if need be; an index that is there is replaced at the end.
            digest: the hash of the corpus to keep with the index; None takes that of the ids.
            embedder: None takes MiniLM.

        Raises:
            PragError: no passages, one given twice, no embedder, or the folder cannot be written.
        """

        def fill(data: Path) -> Filled:
            ids = IdList()
            held: list[Passage] = []

            def holding() -> Iterable[Passage]:
                for passage in ids.reading(passages):
                    held.append(passage)
                    yield passage

            dense = DenseRetriever.build(holding(), data / "dense", digest, embedder=embedder)
            bm25 = BM25Retriever.build(held, data / "bm25", digest)
            settings = {
                "constant": CONSTANT,
                "depth": DEPTH,
                "bm25": dict(bm25.info.settings),
                "dense": dict(dense.info.settings),
            }
            libraries = sorted({*bm25.info.libraries, *dense.info.libraries})
            return Filled(ids.array(), settings, tuple(libraries))

        write_index(folder, cls.kind, fill, digest)
        return cls.open(folder, embedder=embedder)

    @classmethod
    def open(cls, folder: Path, *, embedder: Embedder | None = None) -> HybridRetriever:
        """Open the two indexes of a folder, memory-mapped.

        Raises:
            PragError: no index there, a damaged or foreign one, or one of another embedder.
        """

        def load(data: Path, info: IndexInfo) -> HybridRetriever:
            bm25 = BM25Retriever.open(data / "bm25")
            dense = DenseRetriever.open(data / "dense", embedder=embedder)
            return cls((bm25, dense), load_ids(data, info), info)

        return read_index(folder, cls.kind, load)

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`. The score of a hit is its fused score, at most 2 / 61."""
        return [hits(ranking, self._ids) for ranking in self.rank(questions, k, allowed)]

    def rank(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[Ranking]:
        """As `search`, with positions in place of hits."""
        check_search(questions, k)
        depth = max(DEPTH, k)
        parts = [part.rank(questions, depth, allowed) for part in self._parts]
        return [fuse(rankings)[:k] for rankings in zip(*parts, strict=True)]


def fuse(rankings: Sequence[Ranking]) -> Ranking:
    """The reciprocal rank fusion of rankings of one corpus, equal scores by position."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (position, _) in enumerate(ranking, start=1):
            scores[position] += 1.0 / (CONSTANT + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

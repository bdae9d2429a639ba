"""BM25 and vectors of very many passages on one machine: one table on the disk, by LanceDB.

The table has a row for each passage: its tokens, those of `bm25`, under an index of words, and its
vector, that of `dense`. From `EXACT_BELOW` rows on the vectors are searched approximately: they
are sorted into partitions by k-means (IVF, Jégou et al. 2011) and kept a second time at a bit a
number (RaBitQ, Gao & Long 2024); a question is compared with the short vectors of the partitions it
is nearest to, and the best of these are ranked again by their whole vectors. Below, it is compared
with all. The two rankings are fused as by `hybrid`. docs/retrieval.md has what the approximation
costs and what is gained.
"""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prag.records import Hit, Passage, PragError
from prag.retrieval.base import (
    Ranking,
    ReplacedError,
    best_found,
    check_search,
    hits,
    indexed_text,
)
from prag.retrieval.bm25 import K1, B, tokenizer
from prag.retrieval.dense import Embedder, MiniLM, check_embedder, embedded
from prag.retrieval.folder import Filled, IdList, IndexInfo, load_ids, read_index, write_index
from prag.retrieval.hybrid import DEPTH, fuse

TABLE = "passages"
"""The table; its folder, `passages.lance`, is LanceDB's own."""

EXACT_BELOW = 20_000
"""Rows from which on vectors are searched approximately."""

PROBES = 60
"""Partitions that a question is compared with, of about the root of the number of rows."""

REFINE = 3
"""Times as many passages as are asked for are ranked again by their whole vectors."""

WORDS_MB = 1024
"""MiB for the index of words to be built with."""

_TOGETHER = 65_536  # rows at least that are written at once
_TRAINED_ON = 256  # rows a partition, that k-means asks for
_WORD_DECIMALS = 5  # of a score; below them float32 differs with the order of a sum
_VECTOR_DECIMALS = 6  # of a cosine, as in `dense`


class LanceRetriever:
    """Ranks by the ranks that the words and the vectors of one table give."""

    kind: str = "lance"

    def __init__(
        self,
        table: Any,
        ids: NDArray[np.bytes_],
        info: IndexInfo,
        embedder: Embedder,
        folder: Path,
    ) -> None:
        self._table = table
        self._ids = ids
        self.info = info
        self._embedder = embedder
        self._folder = folder

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
        exact_below: int = EXACT_BELOW,
    ) -> LanceRetriever:
        """Embed and index the passages into a folder and open it.

        Passages are drawn a few thousand at a time, as they are embedded, and not kept; memory
        holds the rows that are written at once, the buffers of the two indexes, and 16 bytes a
        passage.

        Args:
            passages: each once; their order decides between equal scores.
            folder: made if need be; an index that is there is replaced at the end.
            digest: the hash of the corpus to keep with the index; None takes that of the ids.
            embedder: None takes MiniLM.
            exact_below: passages from which on vectors are searched approximately.

        Raises:
            PragError: no passages, one given twice, no embedder or one whose dimension is not
                divisible by 8, the package is missing, or the folder cannot be written.
        """
        lancedb = _package()
        chosen: Embedder = embedder if embedder is not None else MiniLM()
        if chosen.dimension % 8:
            raise PragError(
                f"{chosen.name} gives {chosen.dimension} numbers a vector, and lance can only index"
                " a multiple of 8: use another embedder, or the retriever hybrid"
            )

        def fill(data: Path) -> Filled:
            ids = IdList()
            schema = _schema(chosen.dimension)
            with _writing(folder):
                table = lancedb.connect(data).create_table(TABLE, schema=schema)
            without, truncated = 0, 0
            rows, waiting = 0, []
            tokens_of = tokenizer()
            for block, vectors, cut in embedded(ids.reading(passages), chosen):
                texts = [" ".join(tokens_of(indexed_text(passage))) for passage in block]
                without += texts.count("")
                truncated += cut
                waiting.append(_batch(schema, rows, texts, vectors))
                rows += len(block)
                if sum(len(batch) for batch in waiting) >= _TOGETHER:
                    _add(folder, table, waiting)
            _add(folder, table, waiting)
            known = ids.array()
            with _writing(folder):
                table.create_index("tokens", config=_words_config())
                partitions = 0 if rows < exact_below else _partitions(rows)
                if partitions:
                    table.create_index("vector", config=_vectors_config(partitions))
            settings = {
                "k1": K1,
                "b": B,
                "without_words": without,
                "embedder": chosen.name,
                "dimension": chosen.dimension,
                "truncated": truncated,
                "partitions": partitions,
            }
            libraries = ("lancedb", "PyStemmer", "bm25s", "torch", "transformers", "numpy")
            return Filled(known, settings, libraries)

        write_index(folder, cls.kind, fill, digest)
        return cls.open(folder, embedder=chosen)

    @classmethod
    def open(cls, folder: Path, *, embedder: Embedder | None = None) -> LanceRetriever:
        """Open the index of a folder; its files are read, and the model loaded, when searched.

        Raises:
            PragError: no index there, a damaged or foreign one, one of another embedder, or the
                package is missing.
        """
        chosen: Embedder = embedder if embedder is not None else MiniLM()

        def load(data: Path, info: IndexInfo) -> LanceRetriever:
            check_embedder(folder, info, chosen)
            try:
                table = _package().connect(data).open_table(TABLE)
                rows = table.count_rows()
            except RuntimeError as error:  # its own, of a file it cannot read
                raise ValueError(str(error)) from error
            if rows != info.passages:
                raise ValueError(f"{rows} passages, not {info.passages}")
            return cls(table, load_ids(data, info), info, chosen, folder)

        return read_index(folder, cls.kind, load)

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`. The score of a hit is its fused score, at most 2 / 61.

        Raises:
            PragError: also when the model is not installed.
        """
        return [hits(ranking, self._ids) for ranking in self.rank(questions, k, allowed)]

    def rank(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[Ranking]:
        """As `search`, with positions in place of hits."""
        check_search(questions, k)
        depth = max(DEPTH, k)
        tokens_of = tokenizer()
        asked = [i for i, question in enumerate(questions) if question.strip()]
        vectors = self._embedder.embed([questions[i] for i in asked]).vectors
        rankings: list[Ranking] = [[] for _ in questions]
        for i, vector in zip(asked, vectors, strict=True):
            tokens = tokens_of(questions[i])
            words = partial(self._words, " ".join(tokens))
            neighbours = partial(self._neighbours, vector)
            rankings[i] = fuse(
                [
                    best_found(words, depth, self._ids, allowed) if tokens else [],
                    best_found(neighbours, depth, self._ids, allowed),
                ]
            )[:k]
        return rankings

    def _words(self, tokens: str, depth: int) -> Ranking:
        """The best passages by BM25 of tokens, each counted as often as it stands there."""
        from lancedb.query import MatchQuery

        found = self._rows(self._table.search(MatchQuery(tokens, "tokens")), "_score", depth)
        # Its scores have a factor k1 + 1 that bm25's have not.
        return _ranking(found, found["_score"].to_numpy() / (K1 + 1), _WORD_DECIMALS)

    def _neighbours(self, vector: NDArray[np.float32], depth: int) -> Ranking:
        """The best passages by the cosine with a vector [D]."""
        query = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        if self.info.settings["partitions"]:
            # No maximum: where these partitions have too few passages, it goes on to others.
            query = query.minimum_nprobes(PROBES).maximum_nprobes(0).refine_factor(REFINE)
        found = self._rows(query, "_distance", depth)
        return _ranking(found, 1 - found["_distance"].to_numpy(), _VECTOR_DECIMALS)

    def _rows(self, query: Any, value: str, depth: int) -> Any:
        try:
            return query.select(["position", value]).limit(depth).to_arrow()
        except (RuntimeError, OSError, ValueError) as error:
            raise ReplacedError(
                f"{self._folder}: the search failed ({error}); another build may have replaced the"
                " index: open it again, or run `prag build` to make it again"
            ) from error


def _ranking(found: Any, scores: NDArray[Any], decimals: int) -> Ranking:
    rounded = np.round(scores.astype(np.float64), decimals).tolist()
    return list(zip(found["position"].to_pylist(), rounded, strict=True))


def _partitions(rows: int) -> int:
    """Into how many parts the vectors are sorted; 0, for exact search, of too few to train on."""
    return min(math.isqrt(rows), rows // _TRAINED_ON)


def _schema(dimension: int) -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("position", pa.uint32()),
            ("tokens", pa.string()),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )


def _batch(schema: Any, first: int, texts: list[str], vectors: NDArray[np.float32]) -> Any:
    """Rows whose positions count on from the first."""
    import pyarrow as pa

    numbers = np.ascontiguousarray(vectors, dtype=np.float32).ravel()
    columns = [
        pa.array(np.arange(first, first + len(texts), dtype=np.uint32)),
        pa.array(texts, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(numbers), vectors.shape[1]),
    ]
    return pa.record_batch(columns, schema=schema)


def _add(folder: Path, table: Any, waiting: list[Any]) -> None:
    """Write the rows that wait, and let them go."""
    import pyarrow as pa

    if waiting:
        with _writing(folder):
            table.add(pa.Table.from_batches(waiting))
        waiting.clear()


def _words_config() -> Any:
    """An index of words that takes the tokens as they are."""
    from lancedb.index import FTS

    return FTS(
        base_tokenizer="whitespace",
        lower_case=False,
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
        max_token_length=None,
        memory_limit=WORDS_MB,
    )


def _vectors_config(partitions: int) -> Any:
    from lancedb.index import IvfRq

    return IvfRq(distance_type="cosine", num_partitions=partitions)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What LanceDB says where it cannot write, as an error of ours.

    Raises:
        PragError: it cannot write.
    """
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise PragError(
            f"{folder}: the index cannot be written ({error}); see that the disk has room, then"
            " run `prag build`"
        ) from error


def _package() -> Any:
    # Its training warns on standard error of parts that stay empty.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
    except ImportError:
        raise PragError("the retriever lance needs a package: pip install 'prag[lance]'") from None
    return lancedb

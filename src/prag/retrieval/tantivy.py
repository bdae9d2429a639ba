"""BM25 of very many passages on one machine: an inverted index on the disk, through `tantivy`.

`bm25` adds up a row of scores for every passage, so its search takes longer in proportion to the
corpus, and its build holds all tokens in memory. Here a search skips the passages that cannot be
among the best (block-max WAND, Ding & Suel 2011), and a build holds a buffer. The tokens are those
of `bm25`, and the score is its equation but for one thing: as in Lucene, the length of a passage
is kept in one byte, exact up to 40 tokens and to the next lower of a scale above. docs/retrieval.md
has what that changes and what is gained.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prag.records import Hit, Passage, PragError
from prag.retrieval.base import Ranking, best_found, check_search, hits, indexed_text
from prag.retrieval.bm25 import K1, B, tokenizer
from prag.retrieval.folder import Filled, IdList, IndexInfo, load_ids, read_index, write_index

SEGMENTS = "segments"
"""The folder that is tantivy's own."""

BUFFER = 256_000_000
"""Bytes of the index that a build holds before it writes them."""

_DECIMALS = 5  # of a score; below them float32 differs with the order of a sum


class TantivyRetriever:
    """Ranks passages by the words they share with the question; without any there is no hit."""

    kind: str = "tantivy"

    def __init__(self, index: Any, ids: NDArray[np.bytes_], info: IndexInfo) -> None:
        self._schema = index.schema
        self._searcher = index.searcher()
        self._ids = ids
        self.info = info

    def __len__(self) -> int:
        return len(self._ids)

    @classmethod
    def build(
        cls, passages: Iterable[Passage], folder: Path, digest: str | None = None
    ) -> TantivyRetriever:
        """Index the passages into a folder and open it.

        Passages are drawn one by one and not kept; memory holds a buffer, and 16 bytes a passage.

        Args:
            passages: each once; their order decides between equal scores.
            folder: made if need be; an index that is there is replaced at the end.
            digest: the hash of the corpus to keep with the index; None takes that of the ids.

        Raises:
            PragError: no passages, one given twice, the package is missing, or the folder cannot
                be written.
        """
        tantivy = _package()

        def fill(data: Path) -> Filled:
            ids = IdList()
            tokens_of = tokenizer()
            without = 0
            schema = tantivy.SchemaBuilder()
            schema.add_text_field("tokens", tokenizer_name="whitespace", index_option="freq")
            schema.add_integer_field("position", fast=True)
            place = data / SEGMENTS
            place.mkdir()
            with _writing(folder, tantivy.Index(schema.build(), str(place))) as writer:
                for position, passage in enumerate(ids.reading(passages)):
                    tokens = tokens_of(indexed_text(passage))
                    without += not tokens
                    document = tantivy.Document(tokens=" ".join(tokens), position=position)
                    writer.add_document(document)
                known = ids.array()
                writer.commit()
            for lock in place.glob(".*.lock"):
                lock.unlink()
            settings = {"k1": K1, "b": B, "without_words": without}
            return Filled(known, settings, ("tantivy", "PyStemmer", "bm25s", "numpy"))

        write_index(folder, cls.kind, fill, digest)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> TantivyRetriever:
        """Open the index of a folder; its files are memory-mapped.

        Raises:
            PragError: no index there, a damaged or foreign one, or the package is missing.
        """

        def load(data: Path, info: IndexInfo) -> TantivyRetriever:
            index = _package().Index.open(str(data / SEGMENTS))
            index.config_reader(reload_policy="manual")  # it never changes: no thread to watch it
            retriever = cls(index, load_ids(data, info), info)
            if retriever._searcher.num_docs != info.passages:
                raise ValueError(f"{retriever._searcher.num_docs} passages, not {info.passages}")
            return retriever

        return read_index(folder, cls.kind, load)

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`. A question that shares no word with a passage has no hits."""
        return [hits(ranking, self._ids) for ranking in self.rank(questions, k, allowed)]

    def rank(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[Ranking]:
        """As `search`, with positions in place of hits."""
        check_search(questions, k)
        tantivy = _package()
        tokens_of = tokenizer()
        rankings: list[Ranking] = []
        for question in questions:
            words = [
                (tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "tokens", token))
                for token in tokens_of(question)
            ]
            query = tantivy.Query.boolean_query(words)
            find = partial(self._found, query)
            rankings.append(best_found(find, k, self._ids, allowed) if words else [])
        return rankings

    def _found(self, query: Any, depth: int) -> Ranking:
        """The best `depth` passages, as the engine gives them."""
        found = self._searcher.search(query, depth, count=False).hits
        positions = self._searcher.fast_field_values("position", [at for _, at in found])
        # tantivy's scores have a factor k1 + 1 that bm25's have not.
        scores = np.round([score / (K1 + 1) for score, _ in found], _DECIMALS).tolist()
        return list(zip(positions, scores, strict=True))


@contextmanager
def _writing(folder: Path, index: Any) -> Iterator[Any]:
    """A writer whose threads have ended afterwards, so that its files can be named or deleted.

    Raises:
        PragError: it cannot write.
    """
    # One thread: with more, the segments would depend on which was quicker.
    writer = index.writer(BUFFER, 1)
    try:
        try:
            yield writer
        finally:
            writer.wait_merging_threads()
    except ValueError as error:  # its one error, of a full disk as well
        raise PragError(
            f"{folder}: the index cannot be written ({error}); see that the disk has room, then"
            " run `prag build`"
        ) from error


def _package() -> Any:
    try:
        import tantivy
    except ImportError:
        text = "the retriever tantivy needs a package: pip install 'prag[tantivy]'"
        raise PragError(text) from None
    return tantivy

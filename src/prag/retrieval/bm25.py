"""BM25 in the form of Lucene, through `bm25s`: scores made at build time, memory-mapped.

    score(q, p) = sum over tokens t of q of   log(1 + (N - n_t + 0.5) / (n_t + 0.5))
                                            * f / (f + k1 (1 - b + b |p| / avg))

N passages, n_t of them with token t, f times t in p, |p| tokens in p, avg of |p| over all.
Robertson & Zaragoza 2009, as Lucene computes it (Kamphuis et al. 2020, table 1, "accurate").
A token that the question has twice counts twice.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prag.records import Hit, Passage, PragError
from prag.retrieval.base import Ranking, best, check_search, hits, indexed_text
from prag.retrieval.folder import Filled, IdList, IndexInfo, load_ids, read_index, write_index

K1 = 1.2
"""How soon more of the same token stops counting: the value of Elasticsearch and the paper."""

B = 0.75
"""How much long passages are discounted, from 0 to 1."""

_WORD = re.compile(r"\w\w+")


class BM25Retriever:
    """Ranks passages by the words they share with the question; without any there is no hit."""

    kind: str = "bm25"

    def __init__(self, index: Any, ids: NDArray[np.bytes_], info: IndexInfo) -> None:
        self._index = index
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
        k1: float = K1,
        b: float = B,
    ) -> BM25Retriever:
        """Index the passages into a folder and open it.

        Args:
            passages: each once; their order decides between equal scores.
            folder: made if need be; an index that is there is replaced at the end.
            digest: the hash of the corpus to keep with the index; None takes that of the ids.
            k1: at least 0, see the module.
            b: from 0 to 1, see the module.

        Raises:
            PragError: no passages, one given twice, or the folder cannot be written.
        """
        if k1 < 0 or not 0 <= b <= 1:
            raise PragError(f"k1 = {k1}, b = {b}: k1 is at least 0 and b from 0 to 1")

        def fill(data: Path) -> Filled:
            import bm25s

            ids = IdList()
            corpus, vocabulary = _numbered(indexed_text(p) for p in ids.reading(passages))
            known = ids.array()
            index = bm25s.BM25(method="lucene", k1=k1, b=b)
            # Where no passage has a token the mean length is 0, and nothing is divided by it.
            with np.errstate(invalid="ignore"):
                index.index((corpus, vocabulary), create_empty_token=False, show_progress=False)
            index.save(data)
            without = sum(not tokens for tokens in corpus)
            settings = {"method": "lucene", "k1": k1, "b": b, "without_words": without}
            return Filled(known, settings, ("bm25s", "PyStemmer", "numpy"))

        write_index(folder, cls.kind, fill, digest)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> BM25Retriever:
        """Open the index of a folder; its arrays are memory-mapped.

        Raises:
            PragError: no index there, or a damaged or foreign one.
        """

        def load(data: Path, info: IndexInfo) -> BM25Retriever:
            import bm25s

            index = bm25s.BM25.load(data, mmap=True)
            if index.scores["num_docs"] != info.passages:
                raise ValueError(f"{index.scores['num_docs']} passages, not {info.passages}")
            return cls(index, load_ids(data, info), info)

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
        tokens_of = tokenizer()
        rankings: list[Ranking] = []
        for question in questions:
            known = self._index.get_tokens_ids(tokens_of(question))
            if not known:
                rankings.append([])
                continue
            scores = self._index.get_scores_from_ids(known)
            rankings.append(best(scores, np.flatnonzero(scores > 0), k, self._ids, allowed))
        return rankings


def tokenizer() -> Callable[[str], list[str]]:
    """A function from a text to its tokens, for use by one thread.

    Tokens are runs of two or more letters and digits, in lower case, without English stop words,
    reduced to their stem by the Snowball stemmer. Composed and decomposed accents are the same.
    """
    import Stemmer
    from bm25s.stopwords import STOPWORDS_EN

    stem = Stemmer.Stemmer("english").stemWord  # not to be shared between threads
    stop = frozenset(STOPWORDS_EN)

    def tokens(text: str) -> list[str]:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
        return [stem(word) for word in words if word not in stop]

    return tokens


def _numbered(texts: Iterable[str]) -> tuple[list[array[int]], dict[str, int]]:
    """The tokens of each text as numbers, four bytes each, and the number of each token.

    Numbers are given in the order of first sight, so that a corpus always gives the same files.
    """
    tokens_of = tokenizer()
    vocabulary: dict[str, int] = {}
    corpus = [
        array("i", [vocabulary.setdefault(token, len(vocabulary)) for token in tokens_of(text)])
        for text in texts
    ]
    return corpus, vocabulary

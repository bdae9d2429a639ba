"""Synthetic passages and questions, of words as frequent as those of natural text.

The n-th most frequent word has a share proportional to 1 / n (Zipf's law), so that a question's
words are in as many passages as real ones are, and searching does the work that it would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from prag.records import Passage

VOCABULARY = 500_000
"""Words."""

STOP = 33
"""The most frequent words, which are drawn for nothing: BM25 leaves out as many stop words."""

WORDS = 60
"""Words of a passage beside stop words: those of 100 words of English."""

ASKED = 6
"""Words of a question beside stop words."""

BATCH = 10_000
"""Passages drawn at once."""


def passages(n: int) -> Iterator[Passage]:
    """The first n synthetic passages, the same each time."""
    for at in range(0, n, BATCH):
        for row, words in enumerate(_words(min(BATCH, n - at), WORDS, seed=1 + at)):
            yield Passage(f"passage {at + row}", words)


def questions(n: int) -> list[str]:
    """Synthetic questions, the same each time."""
    return _words(n, ASKED, seed=0)


def _words(rows: int, words: int, seed: int) -> list[str]:
    return [" ".join(f"w{rank}" for rank in row) for row in _ranks(rows, words, seed).tolist()]


def _ranks(rows: int, words: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ranks [rows, words] with a density proportional to 1 / rank, above those of stop words."""
    low, high = np.log(STOP + 1), np.log(VOCABULARY)
    share = np.random.default_rng(seed).random((rows, words))
    ranks: np.ndarray[Any, np.dtype[np.int64]] = np.exp(low + share * (high - low)).astype(np.int64)
    return ranks

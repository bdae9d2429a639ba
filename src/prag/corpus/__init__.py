"""The corpus: files are read, chunked into passages, hashed and stored without repeats."""

from prag.corpus.catalogue import Catalogue, Counts, DocumentRow, PutReport, WithdrawReport
from prag.corpus.chunking import chunk
from prag.corpus.readers import ReadReport, read, read_named

__all__ = [
    "Catalogue",
    "Counts",
    "DocumentRow",
    "PutReport",
    "ReadReport",
    "WithdrawReport",
    "chunk",
    "read",
    "read_named",
]

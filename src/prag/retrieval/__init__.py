"""The room `retrieval`: finds the passages that fit a question. docs/retrieval.md describes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prag.records import Passage, PragError
from prag.retrieval.base import Retriever, indexed_text
from prag.retrieval.bm25 import BM25Retriever
from prag.retrieval.dense import DenseRetriever, Embedder, Embeddings, MiniLM
from prag.retrieval.folder import IndexInfo, index_info, verify_index
from prag.retrieval.hybrid import HybridRetriever

__all__ = [
    "KINDS",
    "BM25Retriever",
    "DenseRetriever",
    "Embedder",
    "Embeddings",
    "HybridRetriever",
    "IndexInfo",
    "MiniLM",
    "Retriever",
    "build_retriever",
    "index_info",
    "indexed_text",
    "open_retriever",
    "verify_index",
]

KINDS = ("bm25", "dense", "hybrid")
"""The kinds of retriever, the default first."""


def build_retriever(
    kind: str, passages: Iterable[Passage], folder: Path, digest: str | None = None
) -> Retriever:
    """Build a retriever of a kind into a folder, in place of what is there, and open it.

    Args:
        kind: one of `KINDS`.
        passages: each once; their order decides between equal scores.
        folder: made if need be.
        digest: the hash of the corpus to keep with the index; None takes that of the ids.

    Raises:
        PragError: no such kind, no passages, one given twice, a missing package, or a folder
            that cannot be written.
    """
    if kind == BM25Retriever.kind:
        return BM25Retriever.build(passages, folder, digest)
    if kind == DenseRetriever.kind:
        return DenseRetriever.build(passages, folder, digest)
    if kind == HybridRetriever.kind:
        return HybridRetriever.build(passages, folder, digest)
    raise _no_such(kind)


def open_retriever(folder: Path, kind: str | None = None) -> Retriever:
    """Open the index of a folder, memory-mapped.

    Args:
        folder: one that `build_retriever` wrote.
        kind: refuse an index of another kind; None opens whichever is there.

    Raises:
        PragError: no index there, a damaged one, or one of another kind.
    """
    wanted = kind if kind is not None else index_info(folder).kind
    if wanted == BM25Retriever.kind:
        return BM25Retriever.open(folder)
    if wanted == DenseRetriever.kind:
        return DenseRetriever.open(folder)
    if wanted == HybridRetriever.kind:
        return HybridRetriever.open(folder)
    raise _no_such(wanted)


def _no_such(kind: str) -> PragError:
    return PragError(f"no retriever of kind {kind!r}: use one of {', '.join(KINDS)}")

"""The room `retrieval`: finds the passages that fit a question. docs/retrieval.md describes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prag.records import Passage, PragError
from prag.retrieval.base import ReplacedError, Retriever, indexed_text
from prag.retrieval.bm25 import BM25Retriever
from prag.retrieval.dense import DenseRetriever, Embedder, Embeddings, MiniLM
from prag.retrieval.elasticsearch import ElasticsearchRetriever, OpenSearchRetriever
from prag.retrieval.folder import IndexInfo, index_info, verify_index
from prag.retrieval.hybrid import HybridRetriever
from prag.retrieval.lance import LanceRetriever
from prag.retrieval.server import checked_url
from prag.retrieval.tantivy import TantivyRetriever

__all__ = [
    "KINDS",
    "SERVERS",
    "BM25Retriever",
    "DenseRetriever",
    "ElasticsearchRetriever",
    "Embedder",
    "Embeddings",
    "HybridRetriever",
    "IndexInfo",
    "LanceRetriever",
    "MiniLM",
    "OpenSearchRetriever",
    "ReplacedError",
    "Retriever",
    "TantivyRetriever",
    "build_retriever",
    "checked_address",
    "index_info",
    "indexed_text",
    "open_retriever",
    "verify_index",
]

FOLDERS = {
    r.kind: r
    for r in (BM25Retriever, DenseRetriever, HybridRetriever, TantivyRetriever, LanceRetriever)
}
"""The kinds whose index is in the folder, the default first."""

SERVERS = {r.kind: r for r in (ElasticsearchRetriever, OpenSearchRetriever)}
"""The kinds whose index is on a server."""

KINDS = (*FOLDERS, *SERVERS)
"""The kinds of retriever."""


def build_retriever(
    kind: str,
    passages: Iterable[Passage],
    folder: Path,
    digest: str | None = None,
    url: str | None = None,
) -> Retriever:
    """Build a retriever of a kind into a folder, in place of what is there, and open it.

    Args:
        kind: one of `KINDS`.
        passages: each once; their order decides between equal scores.
        folder: made if need be.
        digest: the hash of the corpus to keep with the index; None takes that of the ids.
        url: the server of a kind in `SERVERS`.

    Raises:
        PragError: no such kind, a server without an address or the other way round, no passages,
            one given twice, a missing package, a folder that cannot be written, or a server that
            does not take the passages.
    """
    url = checked_address(kind, url)
    if url is not None:
        return SERVERS[kind].build(passages, folder, digest, url=url)
    return FOLDERS[kind].build(passages, folder, digest)


def checked_address(kind: str, url: str | None) -> str | None:
    """The address of a server as it is kept, for a kind that has one.

    Raises:
        PragError: no such kind, it needs an address or takes none, or the address will not do.
    """
    if kind not in KINDS:
        raise _no_such(kind)
    if kind in SERVERS and url is None:
        raise PragError(
            f"the retriever {kind} needs the address of its server: --retriever-url"
            " http://127.0.0.1:9200"
        )
    if kind not in SERVERS and url is not None:
        raise PragError(f"--retriever-url goes with {' or '.join(SERVERS)}, not with {kind}")
    return None if url is None else checked_url(url)


def open_retriever(folder: Path, kind: str | None = None) -> Retriever:
    """Open the index of a folder, memory-mapped.

    Args:
        folder: one that `build_retriever` wrote.
        kind: refuse an index of another kind; None opens whichever is there.

    Raises:
        PragError: no index there, a damaged one, or one of another kind; or the server that has
            it is not there or does not have it whole.
    """
    wanted = kind if kind is not None else index_info(folder).kind
    if wanted in SERVERS:
        return SERVERS[wanted].open(folder)
    if wanted in FOLDERS:
        return FOLDERS[wanted].open(folder)
    raise _no_such(wanted)


def _no_such(kind: str) -> PragError:
    return PragError(f"no retriever of kind {kind!r}: use one of {', '.join(KINDS)}")

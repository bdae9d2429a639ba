"""`prag bench retrieve`: what building and searching a BM25 index costs as the corpus grows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prag.bench import zipf
from prag.bench.processes import in_a_process, medians
from prag.progress import Tell, silent
from prag.records import Passage
from prag.retrieval import BM25Retriever

SMALL = 10_000
"""Passages of the smaller of the two indexes."""

QUESTIONS = 500
"""Searched for in each process."""

TURNS = 3
"""Processes that open an index, one after the other."""


def bench_retrieve(passages: int = 1_000_000, progress: Tell = silent) -> dict[str, Any]:
    """Index synthetic passages, a few and many, and search them.

    Args:
        passages: of the larger index; the smaller one has 10,000.

    Returns:
        `indexes`: by number of passages `build_s`, `index_mb` on the disk, and the medians of three
        processes of what `searching.measure` gives. `build_growth` and `search_growth`: how many
        times as long the larger takes, over how many times as many passages it has (1: linear).

    Raises:
        PragError: the disk is full.
    """
    sizes = sorted({min(SMALL, passages), passages})
    with tempfile.TemporaryDirectory() as made:
        found = {n: _index(Path(made) / str(n), n, progress) for n in sizes}
    small, large = found[sizes[0]], found[sizes[-1]]
    more = sizes[-1] / sizes[0]
    return {
        "indexes": {str(n): figures for n, figures in found.items()},
        "build_growth": large["build_s"] / small["build_s"] / more,
        "search_growth": large["search_p50_ms"] / small["search_p50_ms"] / more,
    }


def _index(folder: Path, n: int, progress: Tell) -> dict[str, Any]:
    began = time.perf_counter()
    BM25Retriever.build(_told(n, progress), folder)
    built = time.perf_counter() - began
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    turns = [in_a_process("prag.bench.searching", folder, QUESTIONS) for _ in range(TURNS)]
    return {"build_s": built, "index_mb": size / 1e6, **medians(turns)}


def _told(n: int, progress: Tell) -> Iterator[Passage]:
    for done, passage in enumerate(zipf.passages(n), start=1):
        yield passage
        if done % zipf.BATCH == 0 or done == n:
            progress("index", done, n)

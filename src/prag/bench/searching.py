"""One process that opens an index and searches it: `python -m prag.bench.searching FOLDER N`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from prag.bench.processes import memory_mb, percentiles
from prag.bench.zipf import questions
from prag.retrieval import BM25Retriever


def measure(folder: Path, asked: int) -> dict[str, Any]:
    """Open the index, and search it for 3 hits of each question, one after the other.

    Returns:
        `open_ms`, `search_p50_ms`, `search_p99_ms`, and in MB (None where the system does not
        say) what the process has in memory and how much of that opening and searching brought.
    """
    before = memory_mb()
    began = time.perf_counter()
    retriever = BM25Retriever.open(folder)
    opened = time.perf_counter() - began
    half, most = percentiles(lambda question: retriever.search([question], 3), questions(asked))
    after = memory_mb()
    return {
        "open_ms": 1000 * opened,
        "search_p50_ms": 1000 * half,
        "search_p99_ms": 1000 * most,
        "process_mb": after,
        "index_in_memory_mb": None if before is None or after is None else after - before,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201

"""One process that opens a store and reads from it: `python -m prag.bench.reading FOLDER N READS`.

A process of its own: nothing of the writer is in its memory.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from prag.bench.processes import memory_mb, percentiles
from prag.records import AdapterKey
from prag.store import AdapterStore


def key(n: int) -> AdapterKey:
    """The key of the n-th synthetic adapter."""
    return AdapterKey(f"{n:016x}", "bench", "bench")


def measure(folder: Path, adapters: int, reads: int) -> dict[str, Any]:
    """Open the store, read adapters drawn at random, each once.

    Returns:
        `open_ms`, `read_p50_us`, `read_p99_us`, and in MB (None where the system does not say)
        what the process has in memory and how much of that opening and reading brought.
    """
    before = memory_mb()
    began = time.perf_counter()
    store = AdapterStore.open(folder, readonly=True)
    opened = time.perf_counter() - began
    drawn = random.Random(0).sample(range(adapters), min(reads, adapters))
    half, most = percentiles(lambda n: store.read(key(n)), drawn)
    after = memory_mb()
    return {
        "open_ms": 1000 * opened,
        "read_p50_us": 1e6 * half,
        "read_p99_us": 1e6 * most,
        "process_mb": after,
        "store_mb": None if before is None or after is None else after - before,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201

"""Work measured in a process of its own: its memory is that work's, and nothing is warm."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prag.records import PragError

T = TypeVar("T")


def in_a_process(module: str, *words: object) -> dict[str, Any]:
    """Run `python -m module words...`; what it prints is one JSON object.

    Raises:
        PragError: it failed; the text is what it said.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PragError(f"the process {module} failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def medians(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several such results, for each figure the median; None where none is known."""
    result = {}
    for name in turns[0]:
        known = [turn[name] for turn in turns if turn[name] is not None]
        result[name] = statistics.median(known) if known else None
    return result


def percentiles(run: Callable[[T], object], inputs: Iterable[T]) -> tuple[float, float]:
    """Run each input alone: the seconds that half of the runs are below, and 99 of 100."""
    seconds = []
    for one in inputs:
        began = time.perf_counter()
        run(one)
        seconds.append(time.perf_counter() - began)
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49], cuts[98]


def memory_mb(peak: bool = False) -> float | None:
    """What this process has in memory, or had at its peak, as Linux counts it; None elsewhere.

    The peak that `getrusage` gives would be that of the process which started this one.
    """
    name = "VmHWM" if peak else "VmRSS"
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(li.split()[1]) * 1024 / 1e6 for li in lines if li.startswith(name)), None)

"""Times of alternatives in one run: they take turns, and each has a median with its spread.

The load of a machine drifts, so a figure alone says little; what two alternatives that take turns
differ by, as a ratio, says more.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from prag.progress import Tell, silent

PEAK_SHAPE = (2048, 1536, 576)
"""Rows, inputs and outputs of the matmul whose rate stands for what the machine can do."""


@dataclass(frozen=True)
class Spread:
    """What repeated runs of one thing took: seconds, each run's."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, float | int]:
        """Median, least and most in seconds, and the number of runs."""
        return {
            "median_s": self.median,
            "least_s": min(self.seconds),
            "most_s": max(self.seconds),
            "runs": len(self.seconds),
        }


def alternate(
    runs: Mapping[str, Callable[[], object]], rounds: int, progress: Tell = silent
) -> dict[str, Spread]:
    """Run each of them once a round, in turns, the order reversed in every second round.

    Args:
        rounds: at least 1. What a first run alone costs (caches, compilation) is the caller's to
            get out of the way.
    """
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for step, name in enumerate(names[::-1] if turn % 2 else names):
            began = time.perf_counter()
            runs[name]()
            if torch.cuda.is_available():  # what was asked of a GPU may be under way still
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - began)
            progress("measure", turn * len(runs) + step + 1, rounds * len(runs))
    return {name: Spread(tuple(seconds)) for name, seconds in taken.items()}


def ratio(over: Spread, under: Spread) -> float:
    """The median of the rounds' ratios: what drifts from round to round cancels in each."""
    return statistics.median(a / b for a, b in zip(over.seconds, under.seconds, strict=True))


def matmul(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], int]:
    """One matrix product of a size that a small model's layers have, and its operations."""
    M, I, O = PEAK_SHAPE  # noqa: E741
    x = torch.randn(M, I, dtype=dtype, device=device)  # [M, I]
    W = torch.randn(O, I, dtype=dtype, device=device)  # [O, I]

    def run() -> None:
        torch.nn.functional.linear(x, W)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run, 2 * M * I * O

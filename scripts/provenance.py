"""What every committed result carries: an interval for each mean, and where it comes from."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLES = 10_000
"""Of the bootstrap."""


def interval(values: NDArray[np.float64] | Sequence[float], seed: int) -> dict[str, float]:
    """The mean over the questions with the 95 % percentile interval of the bootstrap."""
    each = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(each), (SAMPLES, len(each)))
    low, high = np.percentile(each[drawn].mean(axis=1), [2.5, 97.5])
    return {
        "mean": round(float(each.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def revision() -> tuple[str | None, bool | None]:
    """The commit of the working tree, and whether the tree differs from it; None without git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None

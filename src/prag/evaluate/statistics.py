"""Intervals and paired contrasts by the bootstrap over questions, and Holm's correction.

The questions are drawn anew, with replacement, 10,000 times (Efron 1979); an interval is what the
middle 95 % of the means span. The same values and seed give the same numbers. The bootstrap takes
the questions for a sample of those that could have been asked; from fewer than about twenty its
intervals are too narrow and its p values too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prag.records import PragError

SAMPLES = 10_000
"""Resamples of the bootstrap."""

LEVEL = 0.95
"""The share of the resampled means that an interval spans."""

Values: TypeAlias = "Sequence[float] | NDArray[np.float64]"
"""One number a question."""

_DRAWN_AT_ONCE = 100_000  # numbers; a batch that stays in the cache is several times faster
_DIGITS = 12  # of a resampled difference; what is smaller is rounding, and counts as 0


@dataclass(frozen=True)
class Interval:
    """A mean over questions with its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """The mean difference of two methods over the same questions, first minus second.

    Args:
        difference: the mean over the questions.
        low, high: its 95 % percentile bootstrap interval.
        p: two-sided; how often, were there no difference, one as large would be seen.
    """

    difference: float
    low: float
    high: float
    p: float


def interval(values: Values, seed: int) -> Interval:
    """The mean of the values and its interval.

    One value, or values that are all equal, have the interval [mean, mean]: the bootstrap cannot
    see further than the sample.

    Raises:
        PragError: no values, a value that is not a finite number, or scipy is not installed.
    """
    return _interval(_checked(values), seed)[0]


def paired(a: Values, b: Values, seed: int) -> Contrast:
    """The contrast a minus b; the n-th values of both are of the same question.

    A question is drawn with both its values, which is to resample the differences. The p value
    is 2 min(P(d* <= 0), P(d* >= 0)) over the resampled mean differences d*, at most 1, with one
    added to each count and to their number (Davison and Hinkley 1997): it is never
    0, the least is 2 / 10,001. From one question alone it is 1.

    Raises:
        PragError: a and b of unlike length, no values, a value that is not a finite number, or
            scipy is not installed.
    """
    mean, resampled = _interval(_differences(a, b), seed)
    d = np.round(resampled, _DIGITS)
    fewer = min(np.count_nonzero(d <= 0), np.count_nonzero(d >= 0))
    p = 1.0 if len(a) == 1 else min(1.0, 2 * (int(fewer) + 1) / (SAMPLES + 1))
    return Contrast(mean.mean, mean.low, mean.high, p)


def share(part: Values, whole: Values, floor: Values, seed: int) -> Interval | None:
    """What `part` keeps of the gain of `whole` over `floor`, a ratio of mean differences.

    The n-th values of all three are of the same question, and are drawn together.

    Returns:
        None where no gain is shown: where the interval of whole - floor is not above 0.

    Raises:
        PragError: values of unlike length, no values, a value that is not a finite number, or
            scipy is not installed.
    """
    kept, gain = _differences(part, floor), _differences(whole, floor)
    if _interval(gain, seed)[0].low <= 0:
        return None
    from scipy.stats import bootstrap

    low, high = bootstrap(
        (kept, gain),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        n_resamples=SAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // len(gain)),
        paired=True,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(kept.mean() / gain.mean()), float(low), float(high))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values adjusted for their number (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m - i + 1, is no smaller than those before it, and at
    most 1. Rejecting what is at most alpha then makes any false rejection at most alpha likely.

    Raises:
        PragError: a p value that is not in [0, 1].
    """
    for p in ps:
        if not 0 <= p <= 1:
            raise PragError(f"p = {p}: a p value is in [0, 1]")
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _differences(a: Values, b: Values) -> NDArray[np.float64]:
    if len(a) != len(b):
        raise PragError(
            f"a paired contrast of {len(a)} and {len(b)} values: give both for the same questions"
        )
    return _checked(a) - _checked(b)


def _checked(values: Values) -> NDArray[np.float64]:
    each = np.asarray(values, dtype=np.float64)
    if each.size == 0:
        raise PragError("no values: a mean needs at least one question")
    if not np.isfinite(each).all():
        at = int(np.flatnonzero(~np.isfinite(each))[0])
        raise PragError(f"value {at} is {each[at]}: leave out the questions that have no number")
    return each


def _interval(each: NDArray[np.float64], seed: int) -> tuple[Interval, NDArray[Any]]:
    """The interval, and the resampled means [10,000]."""
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise PragError("intervals: needs scipy: pip install 'prag[eval]'") from error
    if (each == each[0]).all():
        same = float(each[0])
        return Interval(same, same, same), np.full(SAMPLES, same)
    result = bootstrap(
        (each,),
        np.mean,
        n_resamples=SAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // len(each)),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(each.mean()), float(low), float(high)), result.bootstrap_distribution

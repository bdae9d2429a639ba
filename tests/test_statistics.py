"""Intervals and contrasts against a plain bootstrap, and Holm's correction by hand."""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prag.evaluate.statistics import SAMPLES, Contrast, Interval, holm, interval, paired, share
from prag.records import PragError

pytestmark = pytest.mark.fast

SCORES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 2 / 3, 1.0])
PS = st.lists(st.floats(0, 1), max_size=8)


def plain_bootstrap(values, seed):
    """The resampled means, written out."""
    draw = np.random.default_rng(seed)
    values = np.asarray(values)
    return np.array(
        [values[draw.integers(0, len(values), len(values))].mean() for _ in range(4000)]
    )


@pytest.mark.parametrize("kind", ["exact match", "f1"])
def test_interval_is_the_plain_bootstraps(kind):
    values = np.random.default_rng(5).random(60)
    if kind == "exact match":
        values = np.round(values)
    got = interval(values, seed=0)
    means = plain_bootstrap(values, seed=77)
    assert got.mean == values.mean()
    # An end of the plain interval has itself an error of about 0.04 standard errors.
    error = means.std()
    assert abs(got.low - np.percentile(means, 2.5)) < 0.15 * error
    assert abs(got.high - np.percentile(means, 97.5)) < 0.15 * error


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says():
    draw = np.random.default_rng(1)
    held = 0
    for n in range(200):
        got = interval(draw.exponential(size=50), seed=n)
        held += got.low <= 1.0 <= got.high
    assert 0.89 <= held / 200 <= 0.97  # of a skewed law and 50 values it is about 0.93


@settings(max_examples=30)
@given(st.lists(SCORES, min_size=1, max_size=40), st.integers(0, 2**32))
def test_an_interval_lies_within_the_values_and_around_the_mean(values, seed):
    got = interval(values, seed)
    assert min(values) - 1e-12 <= got.low <= got.mean + 1e-12
    assert got.mean - 1e-12 <= got.high <= max(values) + 1e-12
    assert got.mean == pytest.approx(np.mean(values))
    assert interval(values, seed) == got


def test_seeds_and_values_decide():
    values = np.random.default_rng(2).random(30)
    assert interval(values, 0) == interval(list(values), 0)
    assert interval(values, 0) != interval(values, 1)
    assert interval(values, 1).low == pytest.approx(interval(values, 0).low, abs=0.02)


def test_one_value_and_equal_values_have_no_width_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interval([0.3], 0) == Interval(0.3, 0.3, 0.3)
        assert interval([0.1] * 7, 0) == Interval(0.1, 0.1, 0.1)
        assert paired([1.0], [0.0], 0) == Contrast(1.0, 1.0, 1.0, 1.0)
        assert paired([0.1, 0.7], [0.1, 0.7], 0) == Contrast(0.0, 0.0, 0.0, 1.0)
        all_better = paired([1.0] * 20, [0.0] * 20, 0)
    assert all_better == Contrast(1.0, 1.0, 1.0, 2 / (SAMPLES + 1))


def test_no_values_and_no_numbers_are_refused():
    with pytest.raises(PragError, match="no values"):
        interval([], 0)
    with pytest.raises(PragError, match="no values"):
        paired([], [], 0)
    with pytest.raises(PragError, match="value 1 is nan"):
        interval([0.0, float("nan")], 0)
    with pytest.raises(PragError, match="3 and 2 values"):
        paired([0.0, 1.0, 1.0], [0.0, 1.0], 0)


def test_paired_is_the_plain_bootstraps():
    draw = np.random.default_rng(8)
    b = np.round(draw.random(60))
    a = np.where(draw.random(60) < 0.25, np.round(draw.random(60) + 0.15), b)
    got = paired(a, b, seed=0)
    means = plain_bootstrap(a - b, seed=78)
    assert got.difference == pytest.approx(a.mean() - b.mean())
    assert abs(got.low - np.percentile(means, 2.5)) < 0.2 * means.std()
    assert abs(got.high - np.percentile(means, 97.5)) < 0.2 * means.std()
    p = 2 * min((means <= 1e-9).mean(), (means >= -1e-9).mean())
    assert 0.01 < p < 0.9
    assert got.p == pytest.approx(p, abs=0.03)


@settings(max_examples=30)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30), st.integers(0, 2**32))
@example([(0.1, 0.0), (0.2, 0.0), (0.0, 0.3)], 0)
def test_to_swap_the_sides_is_to_mirror_the_contrast(pairs, seed):
    a, b = zip(*pairs, strict=True)
    one, other = paired(a, b, seed), paired(b, a, seed)
    assert one.difference == -other.difference
    assert one.low == pytest.approx(-other.high, abs=1e-9)
    assert one.high == pytest.approx(-other.low, abs=1e-9)
    assert one.p == other.p
    assert 2 / (SAMPLES + 1) <= one.p <= 1.0
    assert paired(a, b, seed) == one


def test_rounding_is_not_a_difference():
    """0.1 + 0.2 - 0.3 is not 0 in floating point; a resample that cancels counts for both sides."""
    a, b = [0.1, 0.2, 0.0], [0.0, 0.0, 0.3]
    in_tenths = paired([1.0, 2.0, 0.0], [0.0, 0.0, 3.0], 0)
    assert paired(a, b, 0).p == in_tenths.p


def test_pairing_matters():
    """A small gain on every second question is clear within questions, and lost between them."""
    draw = np.random.default_rng(3)
    b = draw.random(100)
    a = b + 0.05 * (np.arange(100) % 2)
    together = paired(a, b, 0)
    apart = paired(draw.permutation(a), b, 0)
    assert together.difference == pytest.approx(apart.difference)
    assert together.p < 0.001 < 0.2 < apart.p
    assert together.low > 0
    assert apart.low < 0 < apart.high
    assert 5 * (together.high - together.low) < apart.high - apart.low


def test_where_nothing_differs_p_is_small_about_as_often_as_it_says():
    draw = np.random.default_rng(4)
    small = sum(paired(draw.random(50), draw.random(50), n).p <= 0.05 for n in range(200))
    assert 0.02 <= small / 200 <= 0.09


def test_p_and_interval_agree():
    """p is under 0.05 where 0 is outside the interval, but for the last resamples."""
    draw = np.random.default_rng(6)
    for n in range(60):
        got = paired(draw.random(40) + 0.1, draw.random(40), n)
        if abs(got.p - 0.05) > 0.002:
            assert (got.p < 0.05) == (not got.low <= 0 <= got.high)


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.04, 0.01], [0.04, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_holm_by_hand(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted)


@given(PS, st.randoms())
def test_holms_properties(ps, random):
    got = holm(ps)
    assert all(p <= q <= min(1.0, len(ps) * p) for p, q in zip(ps, got, strict=True))
    order = sorted(range(len(ps)), key=ps.__getitem__)
    assert [got[i] for i in order] == sorted(got)
    random.shuffle(order)
    assert holm([ps[i] for i in order]) == [got[i] for i in order]


@given(PS, st.floats(0, 0.99))
def test_holm_rejects_what_its_steps_reject(ps, alpha):
    """The steps: from the smallest on, reject while p <= alpha / (number left)."""
    rejected = set()
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[i] * (len(ps) - rank) > alpha:
            break
        rejected.add(i)
    assert {i for i, q in enumerate(holm(ps)) if q <= alpha} == rejected


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_takes_p_values_only(p):
    with pytest.raises(PragError, match=r"in \[0, 1\]"):
        holm([0.5, p])


def test_three_hundred_values_take_a_small_part_of_a_second():
    values = np.random.default_rng(0).random(300)
    interval(values, 0)
    seconds = []
    for n in range(5):
        started = time.perf_counter()
        interval(values, n)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.2


def test_without_scipy_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(PragError, match=r"pip install 'prag\[eval\]'"):
        interval([0.0, 1.0], 0)


def test_a_share_is_its_plain_bootstraps():
    draw = np.random.default_rng(3)
    floor, whole, part = (np.round(draw.random(60) * top) for top in (0.6, 1.3, 1.1))
    got = share(part, whole, floor, seed=0)
    assert got.mean == pytest.approx((part - floor).mean() / (whole - floor).mean())
    ratios = []
    for _ in range(4000):
        n = draw.integers(0, 60, 60)
        ratios.append((part - floor)[n].mean() / (whole - floor)[n].mean())
    error = np.std(ratios)
    assert abs(got.low - np.percentile(ratios, 2.5)) < 0.2 * error
    assert abs(got.high - np.percentile(ratios, 97.5)) < 0.2 * error


def test_where_no_gain_is_shown_there_is_no_share_of_it():
    assert share([1.0] * 9, [0.0, 1.0] * 4 + [0.0], [1.0, 0.0] * 4 + [0.0], seed=0) is None
    assert share([0.5] * 9, [1.0] * 9, [0.0] * 9, seed=0).mean == 0.5

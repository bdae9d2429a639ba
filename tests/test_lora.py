"""The algebra of adapters: vectors and back, sums, and rows of a batch."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prag.lora import (
    Adapter,
    Merged,
    Site,
    delta,
    flatten,
    initial_A,
    merge,
    numbers,
    scale,
    stack_rows,
    unflatten,
)

pytestmark = pytest.mark.fast

SIZES = st.integers(1, 6)
SITES = st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4).map(
    lambda sizes: tuple(Site(f"layer.{i}", a, b) for i, (a, b) in enumerate(sizes))
)
CPU = torch.device("cpu")


def random_adapter(sites, rank, alpha, seed):
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(numbers(sites, rank), generator=generator, dtype=torch.float64)
    return unflatten(vector, sites, rank, alpha)


def dense(merged, site):
    if merged is None or site.name not in merged.factors:
        return torch.zeros(site.outputs, site.inputs, dtype=torch.float64)
    A, B = merged.factors[site.name]
    return B @ A


@st.composite
def adapters(draw):
    """Sites, and adapters that differ in rank, in alpha and in the sites they cover."""
    sites = draw(SITES)
    made = []
    for seed in range(draw(st.integers(1, 4))):
        full = random_adapter(sites, draw(st.integers(1, 3)), draw(st.sampled_from([1, 32])), seed)
        names = draw(st.sets(st.sampled_from([s.name for s in sites])))
        factors = {n: f for n, f in full.factors.items() if n in names}
        made.append(Adapter(factors, full.rank, full.alpha))
    return sites, made


@given(SITES, st.integers(1, 4), st.integers(0, 99))
def test_flatten_and_unflatten_are_inverse(sites, rank, seed):
    adapter = random_adapter(sites, rank, 32.0, seed)
    vector = flatten(adapter, sites)
    assert vector.shape == (rank * sum(s.inputs + s.outputs for s in sites),)
    back = unflatten(vector, sites, rank, 32.0)
    assert (back.rank, back.alpha) == (rank, 32.0)
    for site in sites:
        A, B = back.factors[site.name]
        assert A.shape == (rank, site.inputs)
        assert B.shape == (site.outputs, rank)
        assert torch.equal(A, adapter.factors[site.name][0])
        assert torch.equal(B, adapter.factors[site.name][1])
        assert A.data_ptr() >= vector.data_ptr()  # views: nothing is copied
    assert torch.equal(flatten(back, sites), vector)


def test_the_order_of_the_numbers_is_stated():
    sites = (Site("x", 2, 1), Site("y", 1, 3))
    adapter = unflatten(torch.arange(7.0), sites, 1, 1.0)
    assert adapter.factors["x"][0].tolist() == [[0.0, 1.0]]
    assert adapter.factors["x"][1].tolist() == [[2.0]]
    assert adapter.factors["y"][0].tolist() == [[3.0]]
    assert adapter.factors["y"][1].tolist() == [[4.0], [5.0], [6.0]]


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match="rank 2 has 10 numbers, not 9"):
        unflatten(torch.zeros(9), (Site("x", 2, 3),), 2, 1.0)


def test_delta_of_known_numbers():
    """alpha 32, rank 2: scale 16, as METHOD has it."""
    assert scale(32.0, 2) == 16.0
    A = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    B = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    assert delta(A, B, 32.0).tolist() == [[16.0, 0.0, 32.0], [8.0, -16.0, 16.0]]


@given(adapters())
def test_merging_is_the_sum_of_the_deltas(case):
    sites, made = case
    merged = merge(made)
    for site in sites:
        expected = torch.zeros(site.outputs, site.inputs, dtype=torch.float64)
        covering = [a for a in made if site.name in a.factors]
        for adapter in covering:
            A, B = adapter.factors[site.name]
            expected += (adapter.alpha / adapter.rank) * (B @ A)
        assert (site.name in merged.factors) == bool(covering)
        torch.testing.assert_close(dense(merged, site), expected)
        if covering:
            assert merged.factors[site.name][0].shape[0] == sum(a.rank for a in covering)


@given(adapters(), st.data())
def test_weights_are_those_of_the_deltas(case, data):
    sites, made = case
    weights = [data.draw(st.floats(0, 2)) for _ in made]
    merged = merge(made, weights)
    for site in sites:
        expected = torch.zeros(site.outputs, site.inputs, dtype=torch.float64)
        for adapter, weight in zip(made, weights, strict=True):
            if site.name in adapter.factors:
                expected += weight * delta(*adapter.factors[site.name], adapter.alpha)
        torch.testing.assert_close(dense(merged, site), expected)


RUNS = st.lists(st.sampled_from([(2, 3), (3, 2)]), min_size=1, max_size=6).map(
    lambda sizes: tuple(Site(f"layer.{i}", a, b) for i, (a, b) in enumerate(sizes))
)


@given(RUNS, st.lists(st.integers(1, 3), min_size=1, max_size=3), st.floats(0, 2))
def test_blocks_give_the_bits_of_their_sites_one_by_one(sites, ranks, weight):
    """Sites of one shape in a row are a block, as long as all adapters have the same blocks."""
    made = [random_adapter(sites, rank, 5.0, seed) for seed, rank in enumerate(ranks)]
    made = [Adapter(a.factors, a.rank, a.alpha + n) for n, a in enumerate(made)]
    weights = [weight] * len(made)
    apart = [Adapter(dict(a.factors), a.rank, a.alpha) for a in made]
    merged = [merge(each, weights) for each in (made, apart, [*made[:1], *apart[1:]])]
    lone = [merge(each[:1], weights[:1]) for each in (made, apart)]
    shapes = [(s.inputs, s.outputs) for s in sites]
    assert len(merged[0].factors.blocks) == sum(1 for _ in groupby(shapes))
    for site in sites:
        parts = [(*a.factors[site.name], weight * scale(a.alpha, a.rank)) for a in made]
        A = torch.cat([A for A, _, _ in parts])
        B = torch.cat([B * s for _, B, s in parts], dim=1)
        for each in merged:
            assert all(map(torch.equal, each.factors[site.name], (A, B)))
    for rows in ([0], [0, None, 1], [None, 1, 0, 0]):
        stacked = [
            stack_rows([None if r is None else (m, one)[r] for r in rows], torch.float64, CPU)
            for m, one in ((merged[0], lone[0]), (merged[1], lone[1]), (merged[0], lone[1]))
        ]
        for name in (site.name for site in sites):
            for each in stacked:
                assert all(map(torch.equal, each[name], stacked[0][name]))
                assert all(factor.is_contiguous() for factor in each[name])


def test_nothing_merged_is_nothing():
    assert merge([]).factors == {}
    assert merge([]).rank == 0


@given(adapters(), st.data())
def test_rows_compute_what_each_would_alone(case, data):
    sites, made = case
    rows = [
        merge(data.draw(st.lists(st.sampled_from(made), max_size=3))) if wanted else None
        for wanted in data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    ]
    stacked = stack_rows(rows, torch.float64, CPU)
    for site in sites:
        if site.name not in stacked:
            assert all(not dense(row, site).any() for row in rows)
            continue
        A, B = stacked[site.name]
        for b, row in enumerate(rows):
            torch.testing.assert_close(B[b] @ A[b], dense(row, site))
            own = (
                0 if row is None or site.name not in row.factors else len(row.factors[site.name][0])
            )
            assert not A[b, own:].any()
            assert not B[b, :, own:].any()


def test_a_single_row_is_taken_as_it_is():
    sites = (Site("x", 4, 3), Site("y", 3, 4))
    merged = merge([random_adapter(sites, 2, 4.0, seed) for seed in range(2)])
    same = stack_rows([merged], torch.float64, CPU)
    for name, factors in merged.factors.items():
        for given_, stacked in zip(factors, same[name], strict=True):
            assert stacked.data_ptr() == given_.data_ptr(), "no copy"
            assert torch.equal(stacked, given_[None])
    padded = stack_rows([merged, None], torch.float32, CPU)
    for name, (A, B) in stack_rows([merged], torch.float32, CPU).items():
        assert A.dtype == B.dtype == torch.float32
        assert torch.equal(A[0], padded[name][0][0])
        assert torch.equal(B[0], padded[name][1][0])


def test_rows_without_adapters_stack_to_nothing():
    assert stack_rows([None, Merged({})], torch.float32, CPU) == {}


@pytest.mark.parametrize("inputs", [16, 100])
def test_the_initial_A_is_kaiming_uniform(inputs):
    """As torch draws it, a = sqrt 5; the same numbers in every precision."""
    draw = initial_A(Site("x", inputs, 4), 500, torch.Generator().manual_seed(0), torch.float64)
    assert draw.abs().max() <= inputs**-0.5
    assert draw.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.05)
    assert abs(draw.mean().item()) < 0.05 * inputs**-0.5
    single = initial_A(Site("x", inputs, 4), 500, torch.Generator().manual_seed(0), torch.float32)
    assert torch.equal(draw, single.double())

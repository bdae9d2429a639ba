"""The algebra of low-rank adapters: pure functions on tensors, and the one meaning of scale.

Letters: N adapters, r rank, I inputs, O outputs of a linear map y = W x with W [O, I].
An adapter adds, at every site it covers, the delta

    delta = (alpha / r) B A        A [r, I], B [O, r]        (Hu et al. 2022, section 4.1)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Blocks = Mapping[tuple[str, ...], Pair]


@dataclass(frozen=True)
class Site:
    """A linear map that adapters may change: its module name, I inputs and O outputs."""

    name: str
    inputs: int
    outputs: int


class Factors(Mapping[str, Pair]):
    """A [r, I] and B [O, r] by the name of the site, held in blocks of sites of one shape.

    What is done to a block is done to its S sites in one operation: they are small, so the number
    of operations is what a change of adapters takes.

    Args:
        blocks: for the names of S sites A [S, r, I] and B [S, O, r].
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    @cached_property
    def _pairs(self) -> dict[str, Pair]:
        return {
            name: pair
            for names, block in self.blocks.items()
            for name, pair in _apart(names, block)
        }

    def __getitem__(self, name: str) -> Pair:
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


@dataclass(frozen=True)
class Adapter:
    """The LoRA of one passage.

    Args:
        factors: for each site's name A [r, I] and B [O, r].
        rank: r.
        alpha: the numerator of the scale.
    """

    factors: Mapping[str, Pair]
    rank: int
    alpha: float


@dataclass(frozen=True)
class Merged:
    """Several adapters as one, the scale of each folded into its B: delta = B A.

    Args:
        factors: for each site's name A [R, I] and B [O, R], R the sum of the ranks.
    """

    factors: Mapping[str, Pair]

    @property
    def rank(self) -> int:
        """R, the largest over the sites."""
        return max((A.shape[0] for A, _ in self.factors.values()), default=0)


def scale(alpha: float, rank: int) -> float:
    """alpha / r, the factor before B A; the only place where it is defined."""
    return alpha / rank


def delta(A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """The change [O, I] of a weight under one adapter: (alpha / r) B A."""
    return scale(alpha, A.shape[0]) * (B @ A)


def initial_A(site: Site, rank: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A new A [r, I], Kaiming-uniform with a = sqrt 5, which is U(-1/sqrt I, 1/sqrt I).

    Drawn in float32 whatever the dtype, so that every precision starts from the same numbers.
    """
    bound = 1.0 / math.sqrt(site.inputs)
    draw = torch.rand(rank, site.inputs, generator=generator, dtype=torch.float32)
    return ((2.0 * draw - 1.0) * bound).to(dtype)


def merge(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> Merged:
    """Concatenate adapters on the rank: the delta is the sum of their deltas, exactly.

    A is stacked [r1 + r2 + ..., I], the scaled B stand beside each other [O, r1 + r2 + ...]
    (Su et al. 2025, section 3.3: added up, not averaged). The adapters may differ in rank, in
    alpha, and in the sites they cover.

    Args:
        weights: what each delta counts times; 1 each if not given.
    """
    weights = [1.0] * len(adapters) if weights is None else weights
    scales = [w * scale(a.alpha, a.rank) for w, a in zip(weights, adapters, strict=True)]
    blocks = _alike([adapter.factors for adapter in adapters])
    merged: dict[tuple[str, ...], Pair] = {}
    for names in dict.fromkeys(names for each in blocks for names in each):
        parts = [(*each[names], s) for each, s in zip(blocks, scales, strict=True) if names in each]
        A = torch.cat([A for A, _, _ in parts], dim=1)  # [S, R, I]
        B = torch.cat([B * s for _, B, s in parts], dim=2)  # [S, O, R]
        merged[names] = (A, B)
    return Merged(Factors(merged))


def stack_rows(
    rows: Sequence[Merged | None], dtype: torch.dtype, device: torch.device
) -> dict[str, Pair]:
    """One adapter set a row of a batch, padded with zeros to the largest rank.

    Zeros add nothing: a row without an adapter, or of a smaller rank, computes what it would
    alone.

    Args:
        rows: N merged adapters, or None for a row that has none.

    Returns:
        For each site that a row changes A [N, R, I] and B [N, O, R].
    """
    present = {n: row.factors for n, row in enumerate(rows) if row is not None}
    blocks = dict(zip(present, _alike(list(present.values())), strict=True))
    stacked: dict[str, Pair] = {}
    for names in dict.fromkeys(names for each in blocks.values() for names in each):
        parts = {n: each[names] for n, each in blocks.items() if names in each}
        if len(rows) == 1:  # nothing to pad: the factors as they are
            A, B = (factor.unsqueeze(1).to(device, dtype) for factor in parts[0])
        else:
            rank = max(A.shape[1] for A, _ in parts.values())
            inputs, outputs = next((A.shape[2], B.shape[1]) for A, B in parts.values())
            A = torch.zeros(len(names), len(rows), rank, inputs, dtype=dtype, device=device)
            B = torch.zeros(len(names), len(rows), outputs, rank, dtype=dtype, device=device)
            for n, (A_row, B_row) in parts.items():
                A[:, n, : A_row.shape[1]] = A_row
                B[:, n, :, : B_row.shape[2]] = B_row
        stacked.update(_apart(names, (A, B)))  # [S, N, R, I] and [S, N, O, R], site by site
    return stacked


def _alike(several: Sequence[Mapping[str, Pair]]) -> list[Blocks]:
    """The blocks of each, where all have the same; else every site is a block of its own."""
    blocks = [factors.blocks for factors in several if isinstance(factors, Factors)]
    if len(blocks) == len(several) and len({tuple(each) for each in blocks}) <= 1:
        return blocks
    return [
        {(name,): (A.unsqueeze(0), B.unsqueeze(0)) for name, (A, B) in factors.items()}
        for factors in several
    ]


def _apart(names: tuple[str, ...], block: Pair) -> Iterator[tuple[str, Pair]]:
    """The sites of a block, as views."""
    A, B = block
    return zip(names, zip(A.unbind(), B.unbind(), strict=True), strict=True)


def flatten(adapter: Adapter, sites: Sequence[Site]) -> Tensor:
    """The numbers of an adapter as one vector [P]: for each site in order A, then B, by rows.

    P = r x (sum over sites of I + O).
    """
    return torch.cat([f.reshape(-1) for site in sites for f in adapter.factors[site.name]])


def unflatten(vector: Tensor, sites: Sequence[Site], rank: int, alpha: float) -> Adapter:
    """The inverse of `flatten`; the factors are views of the vector, nothing is copied."""
    expected = numbers(sites, rank)
    if vector.numel() != expected:
        raise ValueError(f"an adapter of rank {rank} has {expected} numbers, not {vector.numel()}")
    blocks: dict[tuple[str, ...], Pair] = {}
    at = 0
    for (inputs, outputs), run in groupby(sites, key=lambda site: (site.inputs, site.outputs)):
        names = tuple(site.name for site in run)  # S of them
        a, b = rank * inputs, outputs * rank
        end = at + len(names) * (a + b)
        A, B = torch.split(vector[at:end].view(-1, a + b), [a, b], dim=1)  # [S, r I], [S, O r]
        blocks[names] = (A.view(-1, rank, inputs), B.view(-1, outputs, rank))
        at = end
    return Adapter(Factors(blocks), rank, alpha)


def numbers(sites: Sequence[Site], rank: int) -> int:
    """How many numbers an adapter has: P = r x (sum over sites of I + O)."""
    return rank * sum(site.inputs + site.outputs for site in sites)

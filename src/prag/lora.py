"""The algebra of low-rank adapters: pure functions on tensors, and the one meaning of scale.

Letters: N adapters, r rank, I inputs, O outputs of a linear map y = W x with W [O, I].
An adapter adds, at every site it covers, the delta

    delta = (alpha / r) B A        A [r, I], B [O, r]        (Hu et al. 2022, section 4.1)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """A linear map that adapters may change: its module name, I inputs and O outputs."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Adapter:
    """The LoRA of one passage.

    Args:
        factors: for each site's name A [r, I] and B [O, r].
        rank: r.
        alpha: the numerator of the scale.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    rank: int
    alpha: float


@dataclass(frozen=True)
class Merged:
    """Several adapters as one, the scale of each folded into its B: delta = B A.

    Args:
        factors: for each site's name A [R, I] and B [O, R], R the sum of the ranks.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]

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
    names = dict.fromkeys(name for adapter in adapters for name in adapter.factors)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name in names:
        parts = [
            (*adapter.factors[name], weight * scale(adapter.alpha, adapter.rank))
            for adapter, weight in zip(adapters, weights, strict=True)
            if name in adapter.factors
        ]
        A = torch.cat([A for A, _, _ in parts], dim=0)  # [R, I]
        B = torch.cat([B * s for _, B, s in parts], dim=1)  # [O, R]
        factors[name] = (A, B)
    return Merged(factors)


def stack_rows(
    rows: Sequence[Merged | None], sites: Sequence[Site], dtype: torch.dtype, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """One adapter set a row of a batch, padded with zeros to the largest rank.

    Zeros add nothing: a row without an adapter, or of a smaller rank, computes what it would
    alone.

    Args:
        rows: B merged adapters, or None for a row that has none.
        sites: the sites of the model; those that no row changes are left out.

    Returns:
        For each site A [B, R, I] and B [B, O, R].
    """
    stacked: dict[str, tuple[Tensor, Tensor]] = {}
    for site in sites:
        present = [
            (b, *row.factors[site.name])
            for b, row in enumerate(rows)
            if row is not None and site.name in row.factors
        ]
        rank = max((A.shape[0] for _, A, _ in present), default=0)
        if rank == 0:
            continue
        if len(rows) == 1:  # nothing to pad: the factors as they are
            ((_, A, B),) = present
            stacked[site.name] = (A[None].to(device, dtype), B[None].to(device, dtype))
            continue
        A = torch.zeros(len(rows), rank, site.inputs, dtype=dtype, device=device)
        B = torch.zeros(len(rows), site.outputs, rank, dtype=dtype, device=device)
        for b, A_row, B_row in present:
            A[b, : A_row.shape[0]] = A_row
            B[b, :, : B_row.shape[1]] = B_row
        stacked[site.name] = (A, B)
    return stacked


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
    factors, at = {}, 0
    for site in sites:
        a, b = rank * site.inputs, site.outputs * rank
        factors[site.name] = (
            vector[at : at + a].view(rank, site.inputs),
            vector[at + a : at + a + b].view(site.outputs, rank),
        )
        at += a + b
    return Adapter(factors, rank, alpha)


def numbers(sites: Sequence[Site], rank: int) -> int:
    """How many numbers an adapter has: P = r x (sum over sites of I + O)."""
    return rank * sum(site.inputs + site.outputs for site in sites)

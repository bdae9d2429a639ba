"""Adapters into a model, a different set for each row of a batch, and out again.

The base weights are never written: while adapters are in, a hook on every site adds the
low-rank term to what the site's linear map gives, and taking them out removes the hooks. So the
weights keep their bits by construction, and rows of one batch can differ.

Letters: N adapter sets, B rows (B a multiple of N), T tokens, R rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prag.lora import Merged, stack_rows
from prag.model import BaseModel


@contextmanager
def injected(base: BaseModel, rows: Sequence[Merged | None]) -> Iterator[None]:
    """Put one adapter set a row into the model; rows that have None compute as the base does.

    Within the block every forward pass must have as many rows as `rows`.
    """
    factors = stack_rows(rows, base.dtype, base.device)
    with hooked(base, factors, scale=1.0):
        yield


@contextmanager
def hooked(
    base: BaseModel, factors: Mapping[str, tuple[Tensor, Tensor]], scale: float
) -> Iterator[None]:
    """Add scale x B A x at every site that `factors` names, differentiable in A and B.

    Args:
        factors: for each site A [N, R, I] and B [N, O, R]; set n serves the rows
            n B/N .. (n+1) B/N - 1 of a batch.
        scale: alpha / r, or 1 where it is folded into B.

    Raises:
        ValueError: from the forward pass, when its rows are not a multiple of N.
    """
    handles = [
        base.modules[name].register_forward_hook(_hook(A, B, scale))
        for name, (A, B) in factors.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(A: Tensor, B: Tensor, scale: float) -> Any:
    sets = A.shape[0]
    A_t, B_t = A.transpose(1, 2), B.transpose(1, 2)  # [N, I, R], [N, R, O]

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = inputs  # [B, T, I]
        if x.shape[0] % sets:
            raise ValueError(f"{x.shape[0]} rows cannot be shared among {sets} adapter sets")
        low = torch.bmm(x.reshape(sets, -1, x.shape[-1]), A_t)  # [N, B/N T, R]
        if x.shape[0] == sets:
            # In place: a linear map keeps nothing of its output for the backward pass.
            return output.baddbmm_(low, B_t, alpha=scale)  # [B, T, O]
        base_out = output.reshape(sets, -1, output.shape[-1])  # [N, B/N T, O]
        return torch.baddbmm(base_out, low, B_t, alpha=scale).view_as(output)  # [B, T, O]

    return add

"""The loss of a training step, made without ever holding all of its logits.

A token that is learnt needs a logit for every word of the vocabulary, and so does the gradient:
with 49,152 words the tensors of a step of 1,000 learnt tokens are 200 MB each, far more than a
processor's cache. Nothing below the output embedding needs them once the gradient of the hidden
states is known, and the embedding itself is frozen. So a few rows at a time are taken to their loss
and back, within the forward pass, and what is kept is a gradient of the size of the hidden states.

Letters: B rows, T tokens, M learnt tokens, H hidden size, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prag.batches import Batch
from prag.model import BaseModel, logits_of
from prag.precision import master

ROWS = 128
"""Learnt tokens whose logits are there at one time: 25 MB in float32 with SmolLM2."""


def batch_loss(base: BaseModel, out: Tensor, batch: Batch) -> Tensor:
    """The sum over the rows of each row's mean cross-entropy over its learnt tokens.

    The rows share no parameter, so the gradient of the sum holds the gradient of each. It may be
    differentiated once.

    Args:
        out: the decoder's output [B, T, H] for the batch.
    """
    hidden = out[batch.rows, batch.columns]  # [M, H]
    loss: Tensor = _WeighedLoss.apply(hidden, base, batch.targets, batch.weights)  # type: ignore[no-untyped-call]
    return loss


class _WeighedLoss(torch.autograd.Function):
    """Cross-entropy of the tokens that follow M hidden states, each times its weight, summed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, base: BaseModel, targets: Tensor, weights: Tensor
    ) -> Tensor:
        exact = master(hidden.dtype)
        gradient = torch.empty_like(hidden)  # [M, H]
        total = torch.zeros((), dtype=exact, device=hidden.device)
        for at in range(0, len(hidden), ROWS):
            part = slice(at, at + ROWS)
            with torch.enable_grad():
                states = hidden[part].detach().requires_grad_()  # [rows, H]
                logits = logits_of(base, states).to(exact)  # [rows, V]
                each = cross_entropy(logits, targets[part], reduction="none")  # [rows]
                loss = (each * weights[part].to(exact)).sum()
            torch.autograd.backward(loss)  # of the states alone: the model is frozen
            gradient[part] = states.grad  # type: ignore[assignment]
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None, None

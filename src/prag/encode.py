"""Train the adapters of many passages at once over one frozen base model.

Every passage has its own A and B, its own optimizer state and its own loss; the base, which
none of them changes, does its work for all of them in one pass. What a passage's adapter
becomes does not depend on the passages beside it, up to rounding.

Letters: N passages of a group, r rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prag.batches import make_batches
from prag.config import TrainConfig
from prag.inject import hooked
from prag.lora import Adapter, Site, initial_A, scale
from prag.loss import batch_loss
from prag.model import BaseModel
from prag.precision import master
from prag.prompts import Lesson
from prag.quiet import NOTHING, Quiet
from prag.replay import Pass, first_layer, last_hidden, sites_of


class StackedAdam:
    """AdamW (Loshchilov and Hutter 2019) over stacked parameters [N, ...], a step count for each n.

    Only passages that are active in a step are changed, as if each had an optimizer of its own.
    """

    def __init__(self, parameters: Sequence[Tensor], config: TrainConfig) -> None:
        self.parameters = list(parameters)
        self.config = config
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.steps = torch.zeros(
            self.parameters[0].shape[0], dtype=torch.float64, device=self.parameters[0].device
        )

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], active: Tensor) -> None:
        """One update. `active` [N] says which passages had a loss in this step."""
        c = self.config
        self.steps += active
        n = active.nonzero().squeeze(1)
        everyone = bool(active.all())
        correct1 = 1.0 - c.beta1 ** self.steps[n]  # [n]
        correct2 = (1.0 - c.beta2 ** self.steps[n]).sqrt()
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            # Views of all, or copies of the active ones that are written back below.
            P, G, M, V = (p, g, m, v) if everyone else (p[n], g[n], m[n], v[n])
            shape = (-1,) + (1,) * (p.dim() - 1)
            rate = (c.learning_rate / correct1).to(p.dtype).view(shape)
            P.mul_(1.0 - c.learning_rate * c.weight_decay)
            M.lerp_(G, 1.0 - c.beta1)
            V.mul_(c.beta2).addcmul_(G, G, value=1.0 - c.beta2)
            denominator = (V.sqrt() / correct2.to(p.dtype).view(shape)).add_(c.epsilon)
            P.sub_(rate * M / denominator)
            if not everyone:
                p[n], m[n], v[n] = P, M, V


def initial_factors(
    sites: Sequence[Site], train: TrainConfig, dtype: torch.dtype
) -> dict[str, tuple[Tensor, Tensor]]:
    """The adapter that all passages of a base model start from: A random, B zero."""
    generator = torch.Generator().manual_seed(train.seed)
    return {
        site.name: (
            initial_A(site, train.rank, generator, dtype),
            torch.zeros(site.outputs, train.rank, dtype=dtype),
        )
        for site in sites
    }


def encode_group(
    base: BaseModel,
    train: TrainConfig,
    lessons: Sequence[Lesson],
    quiet: Quiet = NOTHING,
    after_step: Callable[[int], None] | None = None,
) -> list[Adapter]:
    """The adapters of N passages, trained together, in the order of their lessons.

    A step is one sequence of each passage, or all of them (`train.step`). Of single sequences a
    passage whose lesson is shorter rests until the epoch's end, since the order of its own
    sequences is what its adapter depends on.

    Args:
        base: as `prag.precision.learner` gives it.
        quiet: how A reads; what is read once for all rows, in the precision of `base`.
        after_step: called after each step with how many tokens it trained on.

    Raises:
        ValueError: a lesson without examples, or an example that does not begin as all do.
    """
    if any(not lesson.examples for lesson in lessons):
        raise ValueError("a lesson without examples cannot be encoded")
    begins = () if quiet.beginning is None else quiet.beginning.ids
    if any(e.ids[: len(begins)] != begins for lesson in lessons for e in lesson.examples):
        raise ValueError("an example does not begin with the tokens that were read before")
    N = len(lessons)
    first = first_layer(base, train.layers)
    start = initial_factors(sites_of(base, train), train, master(base.dtype))
    stacked: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (A, B) in start.items():
        stacked[name] = (
            A.to(base.device).repeat(N, 1, 1).requires_grad_(),  # [N, r, I]
            B.to(base.device).repeat(N, 1, 1).requires_grad_(),  # [N, O, r]
        )
    parameters = [factor for pair in stacked.values() for factor in pair]
    optimizer = StackedAdam(parameters, train)
    pad_id, step = base.tokenizer.pad_token_id, train.step
    batches = make_batches(lessons, pad_id, base.device, len(begins), step)
    seen = [Pass() for _ in batches]
    for _ in range(train.epochs):
        for batch, before in zip(batches, seen, strict=True):
            # A is what the filter leaves of what is learnt; the gradient goes through it.
            factors = {
                name: (quiet.filtered(name, D).to(base.dtype), B.to(base.dtype))
                for name, (D, B) in stacked.items()
            }
            with hooked(base, factors, scale(train.alpha, train.rank)):
                out = last_hidden(base, batch, first, before, quiet.beginning)
                loss = batch_loss(base, out, batch)
            optimizer.step(torch.autograd.grad(loss, parameters), batch.active)
            if after_step is not None:
                after_step(batch.tokens)
    return [
        Adapter(
            {
                name: (quiet.filtered(name, D[n]).detach().clone(), B[n].detach().clone())
                for name, (D, B) in stacked.items()
            },
            train.rank,
            train.alpha,
        )
        for n in range(N)
    ]

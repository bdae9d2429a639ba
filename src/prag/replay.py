"""The lower layers run once a sequence: what they give is kept, and the upper ones replayed.

Where only the upper layers carry adapters, nothing that is trained changes what the lower layers
compute. So the first pass over a batch keeps what goes into the lowest adapted layer, and every
later pass begins there: no forward pass of the layers below, and no backward pass either.

Letters: B rows, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prag.lora import Site
from prag.model import BaseModel
from prag.records import PragError


@dataclass
class Pass:
    """What a pass over a batch left behind: the input [B, T, H] of the lowest adapted layer, and
    with which arguments (masks, positions) each layer from there on was called."""

    hidden: Tensor | None = None
    calls: list[Mapping[str, Any]] = field(default_factory=list)


def layers_of(base: BaseModel) -> list[nn.Module]:
    """The layers of the model's decoder, in order.

    Raises:
        PragError: the decoder has no list of them by that name.
    """
    layers = getattr(base.model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise PragError(
            f"the decoder of {base.name!r} has no list `layers`, so a recipe cannot choose among "
            "them: use train.layers = 1.0"
        )
    return list(layers)


def first_layer(base: BaseModel, share: float) -> int:
    """The lowest layer that carries an adapter if a share of them does, counted from the last.

    At least one layer does.
    """
    if share == 1.0:
        return 0
    count = len(layers_of(base))
    return count - max(1, round(share * count))


def sites_from(base: BaseModel, first: int) -> tuple[Site, ...]:
    """The sites of the layers from `first` on, in the model's order."""
    if first == 0:
        return base.sites
    upper = {module for layer in layers_of(base)[first:] for module in layer.modules()}
    return tuple(site for site in base.sites if base.modules[site.name] in upper)


def last_hidden(base: BaseModel, ids: Tensor, mask: Tensor, first: int, seen: Pass) -> Tensor:
    """The decoder's output [B, T, H] for ids [B, T], the layers below `first` run at most once.

    Args:
        seen: of an earlier pass over the same ids and mask, or an empty one, which this fills.
    """
    decoder = base.model.get_decoder()
    if seen.hidden is None:
        with _watched(base, first, seen):
            out = decoder(ids, attention_mask=mask, use_cache=False)
        return out.last_hidden_state  # type: ignore[no-any-return]
    hidden = seen.hidden
    for layer, arguments in zip(layers_of(base)[first:], seen.calls, strict=True):
        out = layer(hidden, **arguments)
        hidden = out[0] if isinstance(out, tuple) else out
    return decoder.norm(hidden)  # type: ignore[no-any-return]


def check_replay(base: BaseModel, first: int) -> None:
    """Make sure that replaying the upper layers is what this model's decoder does.

    Raises:
        PragError: it is not (a decoder that does more than its layers and its norm).
    """
    if first == 0:
        return
    ids = torch.arange(6, device=base.device)[None] % base.model.config.vocab_size
    mask, seen = torch.ones_like(ids), Pass()
    with torch.no_grad():
        whole = last_hidden(base, ids, mask, first, seen)
        try:
            again = last_hidden(base, ids, mask, first, seen)
        except (TypeError, AttributeError, ValueError) as error:
            again, reason = torch.full_like(whole, torch.nan), f": {error}"
        else:
            reason = ""
    if not torch.equal(whole, again):
        raise PragError(
            f"the upper layers of {base.name!r} cannot be run by themselves{reason}: use "
            "train.layers = 1.0"
        )


@contextmanager
def _watched(base: BaseModel, first: int, seen: Pass) -> Iterator[None]:
    """Within the block, note what the layers from `first` on are called with."""
    if first == 0:  # there is nothing below that could be saved
        yield
        return

    def note(_: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        if not seen.calls:
            seen.hidden = inputs[0].detach()
        seen.calls.append(arguments)

    handles = [
        layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers_of(base)[first:]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

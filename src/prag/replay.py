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

from prag.batches import Batch, make_batch, make_batches
from prag.config import TrainConfig
from prag.lora import Site
from prag.model import BaseModel
from prag.prefixes import Prefix, joined, old_cache_name
from prag.prompts import Example, Lesson
from prag.records import PragError


@dataclass
class Pass:
    """What a pass over a batch left behind: the input [B, T, H] of the lowest adapted layer, and
    with which arguments (masks, positions) each layer from there on was called.

    `caches` are the names of those that were the cache of what was read before: each pass grows the
    one it is given, so each gets its own.
    """

    hidden: Tensor | None = None
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    caches: set[str] = field(default_factory=set)


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


def sites_of(base: BaseModel, train: TrainConfig) -> tuple[Site, ...]:
    """The sites that a recipe gives adapters, in the model's order."""
    sites = base.sites
    first = first_layer(base, train.layers)
    if first > 0:
        upper = {module for layer in layers_of(base)[first:] for module in layer.modules()}
        sites = tuple(site for site in sites if base.modules[site.name] in upper)
    if train.sites == "in":
        hidden = base.model.get_input_embeddings().weight.shape[1]
        sites = tuple(site for site in sites if site.inputs == hidden)
    return sites


def last_hidden(
    base: BaseModel,
    batch: Batch,
    first: int,
    seen: Pass,
    beginning: Prefix | None = None,
) -> Tensor:
    """The decoder's output [B, T, H] for a batch, the layers below `first` run at most once.

    Args:
        seen: of an earlier pass over the same batch, or an empty one, which this fills.
        beginning: what stands before every row and was read before; the batch's ids are without it.
    """
    decoder = base.model.get_decoder()
    read = None if beginning is None else joined(base, [beginning] * len(batch.ids))[0]
    if seen.hidden is None:
        with _watched(base, first, seen), old_cache_name():
            out = decoder(
                batch.ids,
                attention_mask=_mask(base, batch, 0 if beginning is None else len(beginning.ids)),
                position_ids=batch.positions,
                past_key_values=read,
                use_cache=read is not None,
            )
        return out.last_hidden_state  # type: ignore[no-any-return]
    hidden = seen.hidden
    for layer, arguments in zip(layers_of(base)[first:], seen.calls, strict=True):
        out = layer(hidden, **arguments, **dict.fromkeys(seen.caches, read))
        hidden = out[0] if isinstance(out, tuple) else out
    return decoder.norm(hidden)  # type: ignore[no-any-return]


def _mask(base: BaseModel, batch: Batch, before: int) -> Tensor:
    """What a decoder takes: of rows where tokens are [B, P + T], of trees what is added to the
    scores of attention [B, 1, T, P + T].
    """
    mask = batch.mask
    if batch.positions is None:
        return torch.cat([mask.new_ones(len(mask), before), mask], dim=1)
    hidden = torch.zeros(mask.shape, dtype=base.dtype, device=mask.device)
    return hidden.masked_fill_(~mask, torch.finfo(base.dtype).min)[:, None]


def check_replay(base: BaseModel, first: int) -> None:
    """Make sure that replaying the upper layers is what this model's decoder does.

    Raises:
        PragError: it is not (a decoder that does more than its layers and its norm).
    """
    if first == 0:
        return
    ids, seen = tuple(n % base.model.config.vocab_size for n in range(6)), Pass()
    batch = make_batch([Example(ids, 1)], 0, base.device)
    with torch.no_grad():
        whole = last_hidden(base, batch, first, seen)
        try:
            again = last_hidden(base, batch, first, seen)
        except (TypeError, AttributeError, ValueError) as error:
            again, reason = torch.full_like(whole, torch.nan), f": {error}"
        else:
            reason = ""
    if not torch.equal(whole, again):
        raise PragError(
            f"the upper layers of {base.name!r} cannot be run by themselves{reason}: use "
            "train.layers = 1.0"
        )


def check_trees(base: BaseModel) -> None:
    """Make sure that the model's attention keeps to a mask of its caller's (`prag.tree`).

    Raises:
        PragError: it does not: a token saw one of another sequence, or not all of its own.
    """
    words = base.model.config.vocab_size
    texts = [tuple(n * n % words for n in range(start, start + 6)) for start in (2, 3)]
    examples = tuple(Example((*texts[0], *text), 1) for text in texts)
    lesson = [Lesson("", examples)]
    with torch.no_grad():
        apart = [
            last_hidden(base, batch, 0, Pass())[0, -6:]
            for batch in make_batches(lesson, 0, base.device)
        ]
        (tree,) = make_batches(lesson, 0, base.device, step="passage")
        whole = last_hidden(base, tree, 0, Pass())[0, 6:]
    if not torch.allclose(whole, torch.cat(apart), atol=0.05 * float(whole.abs().max())):
        raise PragError(
            f"the attention of {base.name!r} does not keep to a mask that it is given: use "
            'train.step = "sequence"'
        )


@contextmanager
def _watched(base: BaseModel, first: int, seen: Pass) -> Iterator[None]:
    """Within the block, note what the layers from `first` on are called with."""
    if first == 0:  # there is nothing below that could be saved
        yield
        return

    from transformers import Cache

    def note(_: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        if not seen.calls:
            seen.hidden = inputs[0].detach()
        seen.caches |= {k for k, v in arguments.items() if isinstance(v, Cache)}
        seen.calls.append({k: v for k, v in arguments.items() if k not in seen.caches})

    handles = [
        layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers_of(base)[first:]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

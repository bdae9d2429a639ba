"""Prompts that were read, kept to be read on from: a shared beginning is computed once.

Keys and values at a position depend on the tokens up to it and on the weights alone, so those of a
prompt's beginning serve any later prompt that begins alike, as long as the weights are the base
model's own: with adapters in them nothing is taken from here and nothing kept. The exception is a
beginning to which adapters add nothing (`prag.quiet.shared_beginning`): it serves every prompt.

Letters: B rows, P tokens of a prefix, R tokens after it, H key-value heads, D numbers a head.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from prag.model import BaseModel

SHORTEST = 32
"""A shared beginning of fewer tokens is not worth its copying."""

MOST_BYTES = 2 << 30
"""What is kept by default: about 46,000 tokens of SmolLM2, 16,000 of an 8 B model in bfloat16."""


@dataclass(frozen=True)
class Prefix:
    """Tokens that were read [P], and for each layer their keys and values [H, P, D] each."""

    ids: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def bytes(self) -> int:
        """What it takes of memory."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)

    def first(self, length: int) -> Prefix:
        """Its first tokens; the tensors are views."""
        layers = tuple((k[:, :length], v[:, :length]) for k, v in self.layers)
        return Prefix(self.ids[:length], layers)

    def within(self, ids: Sequence[int]) -> Prefix | None:
        """As much of it as a prompt begins with, but for its last token; None for nothing."""
        shared = _shared(self.ids, tuple(ids[:-1]))
        return self.first(shared) if shared else None

    def to(self, dtype: torch.dtype) -> Prefix:
        """The same in another precision."""
        return Prefix(self.ids, tuple((k.to(dtype), v.to(dtype)) for k, v in self.layers))


class Prefixes:
    """The prefixes of one base model, the oldest forgotten when there is no room."""

    def __init__(self, base: BaseModel, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes if attends_to_all(base) else 0
        self._kept: list[Prefix] = []  # the last used at the end

    def find(self, ids: Sequence[int]) -> Prefix | None:
        """The longest beginning of a prompt that is kept, short of its last token."""
        before = tuple(ids[:-1])
        best, length = None, SHORTEST - 1
        for prefix in self._kept:
            shared = _shared(prefix.ids, before)
            if shared > length:
                best, length = prefix, shared
        if best is None:
            return None
        self._kept.remove(best)
        self._kept.append(best)
        return best.first(length)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def keep(self, prefix: Prefix) -> None:
        """Keep what was read; what it begins with need not be kept any more."""
        self._kept = [p for p in self._kept if _shared(p.ids, prefix.ids) < len(p.ids)]
        self._kept.append(prefix)
        while self._kept and sum(p.bytes for p in self._kept) > self.most_bytes:
            self._kept.pop(0)


def longer(kept: Prefix | None, beginning: Prefix | None, ids: Sequence[int]) -> Prefix | None:
    """The longer of what is kept of a prompt and what it shares with a beginning."""
    shared = None if beginning is None else beginning.within(ids)
    if kept is None or (shared is not None and len(shared.ids) > len(kept.ids)):
        return shared
    return kept


def joined(base: BaseModel, prefixes: Sequence[Prefix | None]) -> tuple[Any, int]:
    """The prefixes of B rows as one cache, padded on the left to the longest; and that length P.

    None has length 0. The mask of the batch must be 0 at the padding.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=base.model.config)
    P = max((len(p.ids) for p in prefixes if p is not None), default=0)
    if P == 0:
        return cache, 0
    some = next(p for p in prefixes if p is not None)
    for layer, (key, value) in enumerate(some.layers):
        rows = []
        for kind, like in ((0, key), (1, value)):
            empty = like[:, :0]
            parts = [empty if p is None else p.layers[layer][kind] for p in prefixes]
            rows.append(torch.stack([pad(t, (0, 0, P - t.shape[1], 0)) for t in parts]))
        cache.update(rows[0], rows[1], layer)  # [B, H, P, D] each
    return cache, P


def common(texts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all texts begin with."""
    if not texts:
        return ()
    # What the first and the last in order begin with, all between them do.
    first, last = min(texts), max(texts)
    return first[: _shared(first, last)]


def read(base: BaseModel, ids: tuple[int, ...]) -> Prefix:
    """Read a text alone."""
    from transformers import DynamicCache

    cache = DynamicCache(config=base.model.config)
    with torch.no_grad(), old_cache_name():
        base.model(
            torch.tensor([ids], device=base.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return read_row(cache, 0, torch.arange(len(ids), device=base.device), ids)


def read_row(cache: Any, row: int, positions: Tensor, ids: Sequence[int]) -> Prefix:
    """What a cache holds of one row at some positions, whose tokens are `ids`."""
    layers = tuple(
        (layer.keys[row][:, positions].clone(), layer.values[row][:, positions].clone())
        for layer in cache.layers
    )
    return Prefix(tuple(ids), layers)


@contextmanager
def old_cache_name() -> Iterator[None]:
    """`past_key_values` is the one name that every transformers 5 knows; newer ones warn of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*past_key_values.*", category=FutureWarning)
        yield


def attends_to_all(base: BaseModel) -> bool:
    """Whether every layer keeps every position; one with a window forgets what it slid over."""
    kinds = getattr(base.model.config, "layer_types", None)
    if kinds is None:
        return getattr(base.model.config, "sliding_window", None) is None
    return all(kind == "full_attention" for kind in kinds)


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two texts begin with alike."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    low, high = 0, length  # the first difference is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low

"""Adapters in memory: those used last, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from prag.lora import Adapter

MOST_BYTES = 256 << 20
"""What is kept by default: about 250 adapters of SmolLM2 with recipe `small`."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Shelf(Generic[Key, Value]):
    """Things that were loaded, the one used longest ago forgotten when there is no room.

    May be used from any thread. Two threads that miss the same thing at once both load it.
    """

    def __init__(self, size: Callable[[Value], int], most_bytes: int = MOST_BYTES) -> None:
        """Empty.

        Args:
            size: the bytes of one of them; what is larger than all the room is not kept.
        """
        self.most_bytes = most_bytes
        self.bytes = self.hits = self.misses = 0
        self._size = size
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, load: Callable[[], Value]) -> Value:
        """What is kept under a key, or else what `load` gives, kept from now on."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self.hits += 1
                return self._kept[key]
        value = load()
        with self._lock:
            self.misses += 1
            if key not in self._kept and self._size(value) <= self.most_bytes:
                self._kept[key] = value
                self.bytes += self._size(value)
            while self.bytes > self.most_bytes:
                _, old = self._kept.popitem(last=False)
                self.bytes -= self._size(old)
        return value


def adapter_bytes(adapter: Adapter) -> int:
    """What an adapter takes of memory."""
    return sum(f.numel() * f.element_size() for pair in adapter.factors.values() for f in pair)

"""What is kept in memory: loaded once, within its bytes, and the same thing that was loaded."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prag.knowledge_base.shelf import Shelf, adapter_bytes
from prag.lora import Adapter

pytestmark = pytest.mark.fast


@given(
    room=st.integers(0, 12),
    asked=st.lists(st.integers(0, 6), max_size=40),
)
def test_the_last_used_are_kept_within_the_room(room: int, asked: list[int]) -> None:
    """The thing n takes n bytes; a plain list of what was used says which are there."""
    shelf: Shelf[int, int] = Shelf(lambda n: n, room)
    loaded: list[int] = []
    used: list[int] = []  # kept ones, the last used at the end

    def load(n: int) -> int:
        loaded.append(n)
        return n

    for n in asked:
        expected = n not in used
        before = len(loaded)
        assert shelf.get(n, lambda n=n: load(n)) == n
        assert (len(loaded) > before) == expected
        if not expected:
            used.remove(n)
        if n <= room:
            used.append(n)
        while sum(used) > room:
            used.pop(0)
        assert (len(shelf), shelf.bytes) == (len(used), sum(used))


def test_what_fails_to_load_is_asked_for_again() -> None:
    shelf: Shelf[str, int] = Shelf(lambda _: 1)
    with pytest.raises(KeyError):
        shelf.get("a", lambda: {}["a"])
    assert shelf.get("a", lambda: 7) == 7
    assert shelf.get("a", lambda: 8) == 7


def test_threads_that_miss_at_once_count_the_bytes_once() -> None:
    shelf: Shelf[str, int] = Shelf(lambda _: 5)
    both = threading.Barrier(2)
    threads = [threading.Thread(target=shelf.get, args=("a", both.wait)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(shelf), shelf.bytes) == (1, 5)


def test_bytes_of_an_adapter() -> None:
    pair = (torch.zeros(2, 3), torch.zeros(4, 2, dtype=torch.float64))
    assert adapter_bytes(Adapter({"up": pair}, 2, 32.0)) == 4 * 6 + 8 * 8

"""The questions that are being answered, and what each rests on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Question:
    """One that is being answered. `passages` are None until they are found."""

    passages: frozenset[str] | None = None
    over: threading.Event = field(default_factory=threading.Event)
    withdrawn: threading.Event = field(default_factory=threading.Event)

    def concerned(self, visible: Callable[[str], bool]) -> bool:
        """Whether it may rest on a passage that is not visible."""
        return self.passages is None or not all(map(visible, self.passages))


class UnderWay:
    """All of them. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._questions: set[Question] = set()

    @contextmanager
    def one(self) -> Iterator[Question]:
        """A question, under way until the end of the block."""
        one = Question()
        with self._lock:
            self._questions.add(one)
        try:
            yield one
        finally:
            with self._lock:
                self._questions.discard(one)
            one.over.set()

    def stop(self, visible: Callable[[str], bool]) -> list[Question]:
        """Tell those that rest on what is not visible any more that it is withdrawn.

        Returns:
            Those, and the ones that have not found yet what they will rest on.
        """
        with self._lock:
            now = list(self._questions)
        stopped = [one for one in now if one.concerned(visible)]
        for one in stopped:
            if one.passages is not None:
                one.withdrawn.set()
        return stopped


def until_over(
    questions: Sequence[Question], visible: Callable[[str], bool], seconds: float
) -> bool:
    """Wait until no question may rest on what is not visible; whether that came to be in time."""
    end = time.monotonic() + seconds
    for one in questions:
        while not one.over.wait(0.05) and one.concerned(visible):
            if time.monotonic() > end:
                return False
            if one.passages is not None:
                one.withdrawn.set()
    return True

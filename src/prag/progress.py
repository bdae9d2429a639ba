"""Progress: a bar a stage with its rate and the time left, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Tell = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, of how much.

`check` counts adapters, `answer` rows of an evaluation, `read` texts that the package brings along
(`prag.quiet`), `measure` timed runs (`prag bench`), the other stages (`augment`, `encode`, `index`)
passages; `encode` by the part of their tokens that is trained, and its total falls as it turns out
which passages have an adapter already.
"""


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


EVERY = 10.0
"""Seconds between two lines where the console is no terminal."""

_UNITS = {
    "check": "adapters",
    "store": "adapters",
    "answer": "rows",
    "read": "texts",
    "measure": "runs",
}


@contextmanager
def shown(console: Console) -> Iterator[Tell]:
    """Show progress on a console; gives the function to tell it."""
    if console.is_terminal:
        with _bars(console) as tell:
            yield tell
    else:
        yield _lines(console)


@contextmanager
def _bars(console: Console) -> Iterator[Tell]:
    with Progress(
        TextColumn("{task.description:8}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if total == 0:
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, unit=_unit(stage), rate="")
            elapsed = bars.tasks[tasks[stage]].elapsed or 0.0
            bars.update(tasks[stage], completed=done, total=total, rate=_rate(stage, done, elapsed))

        yield tell


def _lines(console: Console) -> Tell:
    began: dict[str, float] = {}
    said: dict[str, float] = {}

    def tell(stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        began.setdefault(stage, now)
        if total == 0 or (done < total and now - said.get(stage, -EVERY) < EVERY):
            return
        said[stage] = now
        elapsed = now - began[stage]
        left = f", {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        rate = _rate(stage, done, elapsed)
        console.print(
            f"{stage} {done}/{total} {_unit(stage)}{', ' + rate if rate else ''}, "
            f"{elapsed:.0f} s{left}"
        )

    return tell


def _unit(stage: str) -> str:
    return _UNITS.get(stage, "passages")


def _rate(stage: str, done: int, elapsed: float) -> str:
    return f"{done / elapsed:.1f} {_unit(stage)}/s" if elapsed > 0.1 and done else ""

"""Progress on a terminal: a bar a stage, with its rate and the time left."""

from __future__ import annotations

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

_UNITS = {"encode": "tokens", "check": "adapters"}


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a console; gives the function to tell them (stage, done, total)."""
    with Progress(
        TextColumn("{task.description:8}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if total == 0:
                return
            unit = _UNITS.get(stage, "passages")
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, unit=unit, rate="")
            elapsed = bars.tasks[tasks[stage]].elapsed
            rate = f"{done / elapsed:.1f} {unit}/s" if elapsed and done else ""
            bars.update(tasks[stage], completed=done, total=total, rate=rate)

        yield tell

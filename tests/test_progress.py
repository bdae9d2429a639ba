"""What progress looks like where there is no terminal, and where there is one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from prag import progress

pytestmark = pytest.mark.fast


def told(terminal, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    out = io.StringIO()
    with progress.shown(Console(file=out, force_terminal=terminal, width=120)) as tell:
        for done in range(0, 101, 10):
            tell("encode", done, 100)
        tell("augment", 0, 0)
    return out.getvalue()


def test_lines_come_at_most_every_ten_seconds_and_at_the_end(monkeypatch):
    lines = told(False, monkeypatch).splitlines()
    assert [line.split()[1] for line in lines] == ["0/100", "30/100", "60/100", "90/100", "100/100"]
    assert lines[1] == "encode 30/100 passages, 2.5 passages/s, 12 s, 28 s left"
    assert lines[-1] == "encode 100/100 passages, 2.5 passages/s, 40 s"


def test_a_terminal_gets_a_bar(monkeypatch):
    shown = told(True, monkeypatch)
    assert "100/100 passages" in shown
    assert "left" in shown
    assert "augment" not in shown

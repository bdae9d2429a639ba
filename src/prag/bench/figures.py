"""Figures of what `prag bench` printed, each thing beside its alternatives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prag.disk import explain
from prag.drawing import Drawing, canvas, drawing, finish
from prag.records import PragError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _THEIRS, _LIGHT = "#d55e00", "#8a8a8a", "#f0b98d"
_PUBLISHED = "as published"


@dataclass(frozen=True)
class _Bar:
    """A bar: its name, how long it is, from where to where its runs went, whether it is ours."""

    name: str
    value: float
    low: float
    high: float
    ours: bool


def plot(results: Sequence[Path], out: Path) -> list[Path]:
    """Write the figures of files that hold what `prag bench` printed as its last line.

    Args:
        out: the folder of the figures, `bench-encode.svg`, `.png` and so on; made if missing.

    Raises:
        PragError: a file cannot be read or is not of a bench, or matplotlib is not installed.
    """
    written = []
    with drawing():
        figures = [_figure(path, _read(path)) for path in results]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            for ending, data in (("svg", figure.svg), ("png", figure.png)):
                path = out / f"bench-{figure.kind}.{ending}"
                path.write_bytes(data)
                written.append(path)
    except OSError as error:
        raise PragError(explain(error, out, "writing the figures")) from error
    return written


def encode(found: Mapping[str, Any]) -> Drawing:
    """Seconds of training a passage, of both recipes and the loops written with peft."""
    runs = found["runs"]
    bars = []
    for prefix, recipe in (("", "default"), ("paper_", "paper")):
        steps = found[f"{prefix}steps"]
        bars.append(_bar(f"{recipe}: published loop", runs["published"], steps))
        bars.append(_bar(f"{recipe}: peft, not padded", runs[f"{prefix}unpadded"]))
        if f"{prefix}unpadded_mixed" in runs:
            mixed = runs[f"{prefix}unpadded_mixed"]
            bars.append(_bar(f"{recipe}: peft, not padded, bfloat16", mixed))
        each = 1 / found["passages"]
        bars.append(_bar(f"{recipe}: prag", runs[f"{prefix}ours"], each, ours=True))
    return _bars("encode", bars, "seconds of training a passage", "Encoding, by recipe")


def answer(found: Mapping[str, Any]) -> Drawing:
    """Seconds of an answer of 20 tokens: to the first token (pale), and the others."""
    ways = found["ways"]
    figure, axes = canvas(1.1 + 0.3 * len(ways))
    for row, (name, way) in enumerate(ways.items()):
        ours = name in ("parametric", "combined")
        strong, pale = (_OURS, _LIGHT) if ours else (_THEIRS, "#d0d0d0")
        first, whole = way["first_token_s"], way["seconds"]
        axes.barh(row, first, color=pale)
        axes.barh(row, whole - first, left=first, color=strong)
        axes.text(whole, row, f" {whole:.2f}", va="center", fontsize=8)
    _named(axes, list(ways), max(way["seconds"] for way in ways.values()))
    axes.set_xlabel("seconds for 20 tokens; pale: to the first one")
    axes.set_title("Answering", loc="left")
    return finish("answer", figure, "Seconds of an answer without passages, with text, by adapters")


def store(found: Mapping[str, Any]) -> Drawing:
    """Bytes of an adapter by codec, beside one as published."""
    sizes = {_PUBLISHED: found["published_bytes"]}
    sizes |= {codec: way["bytes"] for codec, way in found["codecs"].items()}
    bars = [
        _Bar(name, size / 1000, size / 1000, size / 1000, name != _PUBLISHED)
        for name, size in sizes.items()
    ]
    return _bars("store", bars, "kilobytes of an adapter", "Storing")


def retrieve(found: Mapping[str, Any]) -> Drawing:
    """Milliseconds of a search by the size of the corpus: the median, and up to 99 of 100."""
    bars = [
        _Bar(
            f"{int(n):,} passages",
            way["search_p50_ms"],
            way["search_p50_ms"],
            way["search_p99_ms"],
            True,
        )
        for n, way in found["indexes"].items()
    ]
    label = "milliseconds of a search; line: to 99 of 100"
    return _bars("retrieve", bars, label, "Retrieving")


_KINDS = {"passages_per_s": encode, "ways": answer, "codecs": store, "indexes": retrieve}
"""What only this bench's result has, and what draws it."""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8").strip().splitlines()[-1])
    except (OSError, UnicodeDecodeError) as error:
        raise PragError(f"{path} cannot be read: {error}") from error
    except (ValueError, IndexError):
        found = None
    if not isinstance(found, dict) or not _KINDS.keys() & found.keys():
        raise PragError(
            f"{path} does not end with a line of `prag bench`: keep it by "
            "`prag bench encode --json > encode.json`"
        )
    return found


def _figure(path: Path, found: dict[str, Any]) -> Drawing:
    kind = next(draw for key, draw in _KINDS.items() if key in found)
    try:
        return kind(found)
    except (KeyError, TypeError) as error:
        raise PragError(
            f"{path} is not whole, or of another version of `prag bench`: {error!r}; run it again"
        ) from error


def _bar(name: str, run: Mapping[str, float], times: float = 1.0, ours: bool = False) -> _Bar:
    median, least, most = (run[key] * times for key in ("median_s", "least_s", "most_s"))
    return _Bar(name, median, least, most, ours)


def _bars(kind: str, bars: Sequence[_Bar], label: str, title: str) -> Drawing:
    figure, axes = canvas(1.0 + 0.28 * len(bars))
    low = min(bar.value for bar in bars)
    for row, bar in enumerate(bars):
        axes.barh(row, bar.value, left=0, color=_OURS if bar.ours else _THEIRS)
        if bar.high > bar.low:
            axes.plot([bar.low, bar.high], [row, row], color="#222222", linewidth=1.2)
        axes.text(bar.high, row, f" {_short(bar.value)}", va="center", fontsize=8)
    high = max(bar.high for bar in bars) * 3
    axes.set_xscale("log")
    axes.set_xlim(low / 2, high)
    ticks = [10.0**e for e in range(-6, 12) if low / 2 <= 10.0**e <= high]
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    _named(axes, [bar.name for bar in bars], None)
    axes.set_xlabel(f"{label} (logarithmic)")
    axes.set_title(title, loc="left")
    said = "; ".join(f"{bar.name} {_short(bar.value)}" for bar in bars)
    return finish(kind, figure, f"{title}, {label}: {said}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _named(axes: Axes, names: Sequence[str], most: float | None) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    if most is not None:
        axes.set_xlim(0, most * 1.15)

"""The figures: one set a figure. All show answer presence with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prag.drawing import WIDTH, Drawing, canvas, finish, settle
from prag.report.labels import contrast_name, ordered, style
from prag.report.load import Estimate, Run
from prag.report.placing import MARKER, Box, apart, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = 60  # letters of a title
TYPES_SHOWN = 12  # of a set, the largest

# Behind a label: what it crosses is faint there, the markers (zorder 3) stay.
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3}
_AXES = {
    "seconds": "seconds a question",
    "prompt_tokens": "prompt tokens a question",
    "adapter_bytes": "adapters read, MB a question",
}


def forest(run: Run, name: str) -> Drawing | None:
    """The contrasts: each a difference in presence with its interval and p after Holm."""
    shown = [c for c in run.contrasts if "presence" in c.difference]
    if not shown:
        return None
    figure, axes = canvas(0.9 + 0.42 * len(shown))
    for row, contrast in enumerate(shown):
        estimate = contrast.difference["presence"]
        drawn = style(contrast.first)
        _dot(axes, estimate, row, drawn.colour, "o", False)
        p = "" if contrast.p_holm is None else f"p {_p(contrast.p_holm)}"
        for x, text, side in ((0.0, contrast_name(contrast), "left"), (1.0, p, "right")):
            axes.text(
                *(x, row - 0.3, _plain(text)),
                transform=axes.get_yaxis_transform(),
                ha=side,
                va="bottom",
                fontsize=8.5,
                bbox=_PAPER,
            )
    axes.axvline(0, color="#666666", linewidth=1)
    axes.set_ylim(len(shown) - 0.5, -1)
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference in presence (right: the first is better); p after Holm")
    axes.set_title(_plain(name, TITLE), loc="left")
    return finish("contrasts", figure, f"Forest plot of {len(shown)} contrasts on {name}")


def tradeoff(run: Run, name: str, cost: str) -> Drawing | None:
    """Presence against what a question costs: seconds, prompt tokens or bytes of adapters."""
    unit = 1e6 if cost == "adapter_bytes" else 1.0
    points = [
        (label, run.methods[label].costs[cost] / unit, run.methods[label].measures["presence"])
        for label in ordered(run.methods)
        if cost in run.methods[label].costs and "presence" in run.methods[label].measures
    ]
    if not points or not any(x for _, x, _ in points):
        return None
    figure, axes = canvas(3.9)
    _cost_axis(axes, [x for _, x, _ in points])
    axes.set_xlabel(_AXES[cost])
    axes.set_ylabel("answer presence")
    low = min(y.value if y.low is None else y.low for _, _, y in points)
    high = max(y.value if y.high is None else y.high for _, _, y in points)
    margin = 0.12 * max(high - low, 0.05)
    axes.set_ylim(max(low - margin, -0.04), min(high + margin, 1.06))
    axes.set_title(_plain(name, TITLE), loc="left")
    settle(figure)  # before labels are measured
    pixels = [tuple(axes.transData.transform((x, y.value))) for _, x, y in points]
    at = axes.transData.inverted().transform(apart(pixels))
    for (label, _, y), (x, _) in zip(points, at, strict=True):
        drawn = style(label)
        if y.low is not None and y.high is not None:
            axes.plot([x, x], [y.low, y.high], color=drawn.colour, linewidth=1, alpha=0.45)
        _mark(axes, x, y.value, drawn.colour, drawn.marker, drawn.hollow)
    _label(axes, [(label, x, y) for (label, *_), (x, y) in zip(points, at, strict=True)])
    return finish(cost.replace("_", "-"), figure, f"Presence against {_AXES[cost]} on {name}")


def types(run: Run, name: str) -> Drawing | None:
    """Presence by question type: a panel a type, a line a method."""
    shown = sorted(run.types, key=lambda t: -t.n)[:TYPES_SHOWN]
    labels = ordered(label for t in shown for label in t.methods)
    if not shown or not labels:
        return None
    from matplotlib.figure import Figure

    columns = 2 if len(shown) in (2, 4) else min(len(shown), 3)
    lines = math.ceil(len(shown) / columns)
    height = lines * (0.7 + 0.17 * len(labels)) + 0.3
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, kind in zip(panels.flat, shown, strict=False):
        for row, label in enumerate(labels):
            result = kind.methods.get(label)
            if result is not None and "presence" in result.measures:
                drawn = style(label)
                estimate = result.measures["presence"]
                _dot(axes, estimate, row, drawn.colour, drawn.marker, drawn.hollow)
        axes.set_yticks(range(len(labels)), [_plain(label) for label in labels], fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        heading = _cut(_plain(kind.name) or "no type", 20)
        axes.set_title(f"{heading}\nn {kind.n}", fontsize=8.5)
    for axes in list(panels.flat)[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(_plain(name, TITLE), x=0.01, ha="left", fontsize=10)
    figure.supxlabel("answer presence", fontsize=9)
    return finish("types", figure, f"Presence by question type and method on {name}")


def noise(run: Run, name: str) -> Drawing | None:
    """Presence against the number of passages, one of them gold and the others noise.

    The method without the control has no place here: its passages are the retriever's.
    """
    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for label in ordered(run.noise):
        points = [
            (p.k, p.measures["presence"]) for p in run.noise[label] if "presence" in p.measures
        ]
        if points:
            curves[label] = points
    if not curves:
        return None
    figure, axes = canvas(3.2)
    for label, points in curves.items():
        drawn = style(label)
        ks, means = [k for k, _ in points], [e.value for _, e in points]
        lows = [e.value if e.low is None else e.low for _, e in points]
        highs = [e.value if e.high is None else e.high for _, e in points]
        axes.fill_between(ks, lows, highs, color=drawn.colour, alpha=0.13, linewidth=0)
        fill = "white" if drawn.hollow else drawn.colour
        axes.plot(ks, means, color=drawn.colour, marker=drawn.marker, mfc=fill, label=_plain(label))
    axes.set_xticks(sorted({k for points in curves.values() for k, _ in points}))
    axes.set_xlabel("passages, one of them gold")
    axes.set_ylabel("answer presence")
    axes.set_ylim(bottom=0)
    axes.set_title(_plain(name, TITLE), loc="left")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8.5)
    return finish("noise", figure, f"Presence with one gold passage among several, on {name}")


def codecs(run: Run, name: str) -> Drawing | None:
    """Presence against the bytes of the adapters, a point a codec; all the bits are the last."""
    curves = {label: _by_bytes(run, label) for label in ordered(run.codecs)}
    curves = {label: points for label, points in curves.items() if points}
    if not curves:
        return None
    figure, axes = canvas(3.2)
    for label, points in curves.items():
        drawn = style(label)
        sizes, means = [x for _, x, _ in points], [e.value for *_, e in points]
        lows = [e.value if e.low is None else e.low for *_, e in points]
        highs = [e.value if e.high is None else e.high for *_, e in points]
        axes.fill_between(sizes, lows, highs, color=drawn.colour, alpha=0.13, linewidth=0)
        fill = "white" if drawn.hollow else drawn.colour
        axes.plot(
            sizes, means, color=drawn.colour, marker=drawn.marker, mfc=fill, label=_plain(label)
        )
    longest = max(curves.values(), key=len)
    axes.set_xscale("log")
    axes.set_xticks([x for _, x, _ in longest], [f"{n}\n{x / 1000:,.0f}" for n, x, _ in longest])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("adapters of a question, kB")
    axes.set_ylabel("answer presence")
    axes.set_ylim(bottom=0)
    axes.set_title(_plain(name, TITLE), loc="left")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8.5)
    return finish("codecs", figure, f"Presence against the bytes of stored adapters, on {name}")


def _by_bytes(run: Run, label: str) -> list[tuple[str, float, Estimate]]:
    points = [
        (p.codec, p.bytes, p.measures["presence"])
        for p in run.codecs[label]
        if "presence" in p.measures and p.bytes > 0
    ]
    whole = run.methods.get(label)
    if whole is not None and "presence" in whole.measures and whole.costs.get("adapter_bytes"):
        as_stored = str(run.about.get("codec") or "float32")
        points.append((as_stored, whole.costs["adapter_bytes"], whole.measures["presence"]))
    return sorted(points, key=lambda p: p[1])


def conflict(run: Run, name: str) -> Drawing | None:
    """How often each method follows the substituted answer (filled) or keeps the old (hollow)."""
    if run.conflict is None or not run.conflict.methods:
        return None
    labels = ordered(run.conflict.methods)
    figure, axes = canvas(1.25 + 0.4 * len(labels))
    for row, label in enumerate(labels):
        result, colour = run.conflict.methods[label], style(label).colour
        _dot(axes, result.follows, row - 0.14, colour, "o", False)
        _dot(axes, result.keeps, row + 0.14, colour, "o", True)
    axes.set_yticks(range(len(labels)), [_plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of questions\n● follows the passage    ○ keeps the old answer")
    axes.set_title(_plain(name, TITLE), loc="left")
    return finish("conflict", figure, f"Following and keeping answers under conflict on {name}")


def _mark(axes: Axes, x: float, y: float, colour: str, marker: str, hollow: bool) -> None:
    fill: dict[str, Any] = {"mfc": "white" if hollow else colour, "mec": colour, "mew": 1.3}
    axes.plot([x], [y], marker=marker, markersize=5.5, linestyle="none", zorder=3, **fill)


def _dot(
    axes: Axes, estimate: Estimate, row: float, colour: str, marker: str, hollow: bool
) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=1.4)
    _mark(axes, estimate.value, row, colour, marker, hollow)


def _cost_axis(axes: Axes, values: Sequence[float]) -> None:
    """A log axis where the costs above 0 differ more than eightfold; with zeros, one that has 0."""
    paid = sorted(value for value in values if value > 0)
    low, high = paid[0], paid[-1]
    if high / low <= 8:
        span = high - min(values) or high
        axes.set_xlim(min(values) - 0.3 * span, high + 0.35 * span)
        axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= high + 0.35 * span])
        return
    ticks = [
        m * 10.0**e for e in range(-9, 13) for m in (1, 2, 5) if low / 2 <= m * 10.0**e <= high * 3
    ]
    if len(ticks) > 7:
        ticks = [10.0**e for e in range(-9, 13) if low / 2 <= 10.0**e <= high * 3]
    if len(paid) < len(values):
        axes.set_xscale("symlog", linthresh=low / 2)
        axes.set_xlim(-low / 4, high * 3)
        ticks = [0.0, *ticks]
    else:
        axes.set_xscale("log")
        axes.set_xlim(low / 2, high * 3)
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()


def _label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write each point's method beside it, where it covers neither another label nor a marker.

    A label that found no room near its point is tied to it by a thin line.
    """
    at = [tuple(axes.transData.transform((x, y))) for _, x, y in points]
    texts = [
        axes.text(x, y, _plain(label), fontsize=8, ha="center", va="center", bbox=_PAPER)
        for label, x, y in points
    ]
    sizes = [(box.width, box.height) for box in (text.get_window_extent() for text in texts)]
    frame = axes.get_window_extent()
    inside = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    centres = place(at, sizes, inside)
    back = axes.transData.inverted()
    for text, size, (x, y), (cx, cy) in zip(texts, sizes, at, centres, strict=True):
        text.set_position(tuple(back.transform((cx, cy))))
        nearest = (
            min(max(x, cx - size[0] / 2), cx + size[0] / 2),
            min(max(y, cy - size[1] / 2), cy + size[1] / 2),
        )
        if math.dist(nearest, (x, y)) > 2.5 * MARKER:
            ends = back.transform([nearest, (x, y)])
            axes.plot(ends[:, 0], ends[:, 1], color="#999999", linewidth=0.6, zorder=1)


def _plain(text: str, length: int = 44) -> str:
    """The text on one line, cut where it would fill the figure, and without lone surrogates."""
    return _cut(" ".join(text.split()), length).encode("utf-8", "replace").decode("utf-8")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"

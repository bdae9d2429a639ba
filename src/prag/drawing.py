"""What figures are drawn on: white, one width, as SVG for pages and PNG for papers.

Only matplotlib's Figure objects are used and its settings are put back, so a caller's own plots are
left as they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prag.records import PragError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches; 460 pixels of a screen, so that a telephone shrinks it little
PNG_DPI = 200

_INK, _FAINT = "#222222", "#d9d9d9"
_SETTINGS: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a dollar sign in a name begins no formula
    "svg.hashsalt": "prag",  # the same runs give the same bytes
}


@dataclass(frozen=True)
class Drawing:
    """A figure as it is shown (`svg`) and saved (`png`); `alt` says in words what it shows."""

    kind: str
    alt: str
    svg: bytes
    png: bytes


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with the settings of the figures, and without a user's own, for the block.

    Raises:
        PragError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise PragError(
            "the figures of a report need matplotlib: pip install 'prag[eval]'"
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty figure of that height, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def finish(kind: str, figure: Figure, alt: str) -> Drawing:
    """The figure in both forms."""
    settle(figure)
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=PNG_DPI)
    return Drawing(kind, alt, svg.getvalue(), png.getvalue())


def settle(figure: Figure) -> None:
    """Lay the figure out once: each format would do it again."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")

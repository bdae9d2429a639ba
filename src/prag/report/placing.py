"""Where points and their labels go, so that none covers another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MARKER = 5.0  # pixels from a point's centre that stay free
GAP = 1.0  # pixels between two labels
_DISTANCES = (7.0, 12.0, 18.0, 26.0, 36.0, 48.0, 64.0, 84.0, 110.0, 140.0)  # pixels
_ANGLES = (0, 180, 90, 270, 45, 315, 135, 225, 22, 338, 158, 202, 67, 293, 113, 247)  # degrees


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0

    def holds(self, other: Box) -> bool:
        """Whether the other lies wholly within this one."""
        return (
            self.left <= other.left
            and self.bottom <= other.bottom
            and self.right >= other.right
            and self.top >= other.top
        )


def apart(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points, in pixels, with those that would cover an earlier one moved sideways."""
    placed: list[tuple[float, float]] = []
    for x, y in points:
        steps = (step * side for step in range(len(points)) for side in (1, -1))
        moved = ((x + step * 2 * MARKER, y) for step in steps)
        free = (p for p in moved if all(math.dist(p, other) >= 1.6 * MARKER for other in placed))
        placed.append(next(free, (x, y)))
    return placed


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], frame: Box
) -> list[tuple[float, float]]:
    """The centre of each point's label.

    One label after the other takes the nearest free place around its point, the most crowded
    point first. Where no place is free it takes the one that covers the least.

    Args:
        points: where they are drawn, in pixels.
        sizes: width and height of each label, in pixels.
        frame: what the labels stay within.
    """
    markers = [Box(x - MARKER, y - MARKER, x + MARKER, y + MARKER) for x, y in points]
    taken: list[Box] = []
    centres = [(0.0, 0.0)] * len(points)
    for i in sorted(range(len(points)), key=lambda i: _room(points, i)):
        width, height = sizes[i]
        best, least = centres[i], math.inf
        for x, y in _around(points[i], width, height):
            box = Box(x - width / 2 - GAP, y - height / 2, x + width / 2 + GAP, y + height / 2)
            covered = sum(box.overlap(other) for other in (*taken, *markers))
            if not frame.holds(box):
                covered += width * height
            if covered < least:
                best, least = (x, y), covered
            if not covered:
                break
        centres[i] = best
        x, y = best
        taken.append(Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return centres


def _around(
    point: tuple[float, float], width: float, height: float
) -> Iterator[tuple[float, float]]:
    """Centres of a label around a point, the nearest first."""
    for distance in _DISTANCES:
        for angle in _ANGLES:
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            yield (
                point[0] + across * (distance + width / 2),
                point[1] + up * (distance + height / 2),
            )


def _room(points: Sequence[tuple[float, float]], i: int) -> float:
    others = (math.dist(points[i], other) for j, other in enumerate(points) if j != i)
    return sum(sorted(others)[:3])

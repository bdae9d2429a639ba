"""How methods, controls and runs are named, ordered, grouped and drawn, on the whole page alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prag.report.load import Contrast, Run

WITHOUT, WITH, CONTROLS = "without adapters", "with adapters", "controls"

# Colours of Okabe and Ito that hold on white, two darker ones added; the marker tells the rest.
_DRAWN = {
    "closed-book": (WITHOUT, "#3d3d3d", "o"),
    "in-context": (WITHOUT, "#0072b2", "s"),
    "da-rag": (WITHOUT, "#56b4e9", "D"),
    "flare": (WITHOUT, "#009e73", "^"),
    "dragin": (WITHOUT, "#cc79a7", "v"),
    "ircot": (WITHOUT, "#7a5c00", "<"),
    "parametric": (WITH, "#d55e00", "o"),
    "combined": (WITH, "#e69f00", "P"),
    "shuffled": (CONTROLS, "#8a8a8a", "X"),
    "format-only": (CONTROLS, "#6b5b95", "d"),
}
_ORDER = list(_DRAWN)

KNOWLEDGE, FORMAT = "knowledge", "format"
_MEANING = {("parametric", "shuffled"): KNOWLEDGE, ("shuffled", "closed-book"): FORMAT}


@dataclass(frozen=True)
class Style:
    """How a method is drawn: chain of thought keeps the colour and leaves the marker hollow."""

    colour: str
    marker: str
    hollow: bool


def style(label: str) -> Style:
    """The style of a method or of a condition of it (`METHOD@noise-5`)."""
    base, thought = _base(label)
    _, colour, marker = _DRAWN.get(base, (WITHOUT, "#000000", "*"))
    return Style(colour, marker, thought)


def ordered(labels: Iterable[str]) -> list[str]:
    """Known methods in the order of the paper, chain of thought after direct; then the others."""

    def place(label: str) -> tuple[int, bool, str]:
        base, thought = _base(label)
        return (_ORDER.index(base) if base in _ORDER else len(_ORDER), thought, label)

    return sorted(set(labels), key=place)


def grouped(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The methods of all runs under the headings of the main table.

    A method that is not known here belongs to those with adapters if it read any.
    """
    groups: dict[str, list[str]] = {WITHOUT: [], WITH: [], CONTROLS: []}
    for label in ordered(label for run in runs for label in run.methods):
        known = _DRAWN.get(_base(label)[0])
        results = [run.methods[label] for run in runs if label in run.methods]
        reads = any(result.costs.get("adapter_bytes", 0) > 0 for result in results)
        groups[known[0] if known else (WITH if reads else WITHOUT)].append(label)
    return [(heading, labels) for heading, labels in groups.items() if labels]


def contrast_name(contrast: Contrast) -> str:
    """`a − b`, with what it stands for where it is one of the two that split the gain."""
    if not contrast.second:
        return contrast.first
    meaning = _MEANING.get((contrast.first, contrast.second))
    name = f"{contrast.first} − {contrast.second}"
    return f"{name} ({meaning})" if meaning else name


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name a run, each once: the set, and what tells it from other runs of that set."""
    names = []
    for run in runs:
        others = [r for r in runs if r.set == run.set]
        parts = [run.set]
        for field, form in _TELLS.items():
            if len({str(r.about.get(field)) for r in others}) > 1:
                parts.append(form.format(_short(run.about.get(field))))
        names.append(", ".join(parts))
    return [
        name if names.count(name) == 1 else f"{name}, run {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


_TELLS = {
    "model": "{}",
    "recipe": "recipe {}",
    "merge": "merge {}",
    "beside_text": "beside text x {}",
    "offered": "offered: {}",
    "combine": "combine: {}",
    "codec": "stored as {}",
    "seed": "seed {}",
    "gold": "gold passages: {}",
    "top_k": "k = {}",
    "origins": "pairs: {}",
}


def origin_name(origin: str) -> str:
    """Who wrote augmentations of this origin, in words."""
    kind, _, name = origin.partition(":")
    if kind == "self":
        return "pairs by the model itself"
    if kind == "file":
        return f"pairs from the file {name}"
    if kind == "endpoint":
        return f"pairs by {name} at an endpoint"
    return f"pairs of origin {origin}"


def slug(name: str) -> str:
    """`name` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "run"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return " and ".join("self" if o.startswith("self:") else o for o in map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).rstrip("/").rsplit("/", 1)[-1]


def _base(label: str) -> tuple[str, bool]:
    bare = label.partition("@")[0]
    return bare.removesuffix("-cot"), bare.endswith("-cot")

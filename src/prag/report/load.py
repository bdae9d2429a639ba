"""Read finished or unfinished run folders into small typed tables."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prag.records import PragError

MEASURES = ("presence", "em", "f1")
"""What the tables show, the default first."""

COSTS = ("seconds", "prompt_tokens", "adapter_bytes")
"""What accuracy is set against."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; the ends are None where the run gives no interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MethodResult:
    """One method on one set: its measures, and its mean costs a question."""

    n: int
    errors: int
    measures: dict[str, Estimate]
    costs: dict[str, float]


@dataclass(frozen=True)
class TypeResult:
    """The questions of one type, by method."""

    name: str
    n: int
    methods: dict[str, MethodResult]


@dataclass(frozen=True)
class Contrast:
    """The paired difference `first` minus `second`; `second` is "" if the key names no two."""

    first: str
    second: str
    n: int
    difference: dict[str, Estimate]
    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class NoisePoint:
    """A method that was given k passages, one of them gold.

    `kept` is the share of its gain over closed-book with the gold passage alone that is left.
    """

    k: int
    n: int
    measures: dict[str, Estimate]
    kept: Estimate | None = None


@dataclass(frozen=True)
class CodecPoint:
    """A method whose adapters went through a codec; `change` is from the adapters as they are."""

    codec: str
    n: int
    bytes: float  # of adapters, a question
    measures: dict[str, Estimate]
    change: dict[str, Estimate]


@dataclass(frozen=True)
class ConflictResult:
    """How often a method follows a substituted answer, and how often it keeps the old one."""

    n: int
    errors: int
    follows: Estimate
    keeps: Estimate


@dataclass(frozen=True)
class Conflict:
    """The conflict section; `without` questions had no passage to put a substitute into."""

    n: int
    without: int
    methods: dict[str, ConflictResult]


@dataclass(frozen=True)
class Forgetting:
    """One measure of forgetting: with and without adapters, and the change between them."""

    name: str
    n: int
    without: Estimate
    with_: Estimate
    change: Estimate | None  # a difference of accuracies, a ratio of perplexities
    p: float | None


@dataclass(frozen=True)
class Run:
    """One run folder: one set, one model, one recipe, one seed.

    `about` is the rest of summary.json as it stands; `rows` are those of rows.jsonl.
    """

    folder: Path
    set: str
    n: int
    complete: bool
    about: dict[str, Any]
    methods: dict[str, MethodResult]
    types: tuple[TypeResult, ...]
    contrasts: tuple[Contrast, ...]
    retrieval: dict[str, Estimate]
    noise: dict[str, tuple[NoisePoint, ...]]
    conflict: Conflict | None
    codecs: dict[str, tuple[CodecPoint, ...]]
    forgetting: tuple[Forgetting, ...]
    errors: tuple[dict[str, Any], ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def load_run(folder: Path) -> Run:
    """The run in `folder`: summary.json, and rows.jsonl or rows.jsonl.gz where there is one.

    Lines of the rows that cannot be read (the last one of a run that was killed, say) are left
    out and counted in `notes`.

    Raises:
        PragError: no summary.json, or it is not what `prag eval` writes.
    """
    path = folder / "summary.json"
    again = "run `prag eval` again with this folder to have it written"
    if not path.is_file():
        raise PragError(f"{folder}: no summary.json, so this is no run that was evaluated; {again}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise PragError(f"{path}: cannot be read ({error}); {again}") from error
    try:
        rows, notes = _rows(folder)
        return _run(folder, data, rows, notes)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise PragError(f"{path}: not as `prag eval` writes it ({error!r}); {again}") from error


def _run(folder: Path, data: Any, rows: list[dict[str, Any]], notes: list[str]) -> Run:
    if not isinstance(data, dict):
        raise TypeError("it holds no JSON object")
    methods = {str(label): _method(m) for label, m in data["methods"].items()}
    conflict = data.get("conflict")
    return Run(
        folder=folder,
        set=str(data["set"]),
        n=int(data["n"]),
        complete=data["complete"] is True,
        about=data,
        methods=methods,
        types=tuple(
            TypeResult(
                str(name), int(t["n"]), {str(k): _method(m) for k, m in _items(t, "methods")}
            )
            for name, t in _items(data, "types")
        ),
        contrasts=tuple(contrast_of(str(k), c, methods) for k, c in _items(data, "contrasts")),
        retrieval=_estimates(data.get("retrieval") or {}, _retrieval_names(data)),
        noise={
            str(label): tuple(
                NoisePoint(int(p["k"]), int(p["n"]), _estimates(p, MEASURES), _estimate(p, "kept"))
                for p in sorted(points, key=lambda p: int(p["k"]))
            )
            for label, points in _items(data, "noise")
        },
        conflict=_conflict(conflict) if conflict else None,
        codecs={
            str(label): tuple(_codec(p) for p in points) for label, points in _items(data, "codecs")
        },
        forgetting=tuple(_forgetting(data.get("forgetting") or {})),
        errors=tuple(dict(e) for e in data.get("errors") or ()),
        rows=tuple(rows),
        notes=(*(str(note) for note in data.get("notes") or ()), *notes),
    )


def _items(data: dict[str, Any], name: str) -> Iterable[tuple[Any, Any]]:
    section = data.get(name) or {}
    if not isinstance(section, dict):
        raise TypeError(f"{name!r} holds no JSON object")
    return section.items()


def _number(value: Any) -> float | None:
    """A finite number, or None for null: NaN has no place on an axis."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _estimate(data: dict[str, Any], name: str, interval: str | None = None) -> Estimate | None:
    """`name` with its interval, which stands under `name`_ci unless told otherwise."""
    value = _number(data.get(name))
    if value is None:
        return None
    ends = data.get(interval or f"{name}_ci")
    if ends is None:
        return Estimate(value)
    low, high = (_number(end) for end in ends)
    return Estimate(value) if low is None or high is None else Estimate(value, low, high)


def _estimates(data: dict[str, Any], names: Iterable[str]) -> dict[str, Estimate]:
    found = {name: _estimate(data, name) for name in names}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _needed(data: dict[str, Any], name: str) -> Estimate:
    estimate = _estimate(data, name)
    if estimate is None:
        raise ValueError(f"{name!r} is missing")
    return estimate


def _method(data: dict[str, Any]) -> MethodResult:
    costs = {name: _number(data.get(name)) for name in COSTS}
    return MethodResult(
        n=int(data["n"]),
        errors=int(data.get("errors") or 0),
        measures=_estimates(data, MEASURES),
        costs={name: cost for name, cost in costs.items() if cost is not None},
    )


def _codec(data: dict[str, Any]) -> CodecPoint:
    changes = {measure: _estimate(data, f"{measure}_change") for measure in ("presence", "f1")}
    return CodecPoint(
        str(data["codec"]),
        int(data["n"]),
        float(data["adapter_bytes"]),
        _estimates(data, MEASURES),
        {measure: change for measure, change in changes.items() if change is not None},
    )


def contrast_of(key: str, data: dict[str, Any], labels: Iterable[str]) -> Contrast:
    """A contrast of a summary, its key cut in two.

    Labels hold hyphens themselves, so it is cut where both halves are methods.
    """
    known = set(labels)
    cuts = [(key[:i], key[i + 1 :]) for i, letter in enumerate(key) if letter == "-"]
    first, second = next((c for c in cuts if c[0] in known and c[1] in known), (key, ""))
    difference = _estimates(data, ("em", "f1"))
    if (presence := _estimate(data, "presence", "ci")) is not None:
        difference["presence"] = presence
    p, p_holm = _number(data.get("p")), _number(data.get("p_holm"))
    return Contrast(first, second, int(data["n"]), difference, p, p_holm)


def _retrieval_names(data: dict[str, Any]) -> list[str]:
    recalls = [name for name, _ in _items(data, "retrieval") if name.startswith("recall@")]
    recalls = [name for name in recalls if not name.endswith("_ci")]
    return [*sorted(recalls, key=lambda name: int(name.split("@")[1])), "mrr"]


def _conflict(data: dict[str, Any]) -> Conflict:
    methods = {
        str(label): ConflictResult(
            int(m["n"]), int(m.get("errors") or 0), _needed(m, "follows"), _needed(m, "keeps")
        )
        for label, m in _items(data, "methods")
        if m.get("follows") is not None  # null where every question ended in an error
    }
    return Conflict(int(data["n"]), int(data.get("without") or 0), methods)


def _forgetting(data: dict[str, Any]) -> Iterator[Forgetting]:
    if accuracy := data.get("accuracy"):
        yield Forgetting(
            "accuracy",
            int(accuracy["n"]),
            _needed(accuracy, "without"),
            _needed(accuracy, "with"),
            _estimate(accuracy, "difference", "ci"),
            _number(accuracy.get("p")),
        )
    if perplexity := data.get("perplexity"):
        yield Forgetting(
            "perplexity",
            int(perplexity["n"]),
            _needed(perplexity, "without"),
            _needed(perplexity, "with"),
            _estimate(perplexity, "ratio"),
            None,
        )


def _rows(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    plain, packed = folder / "rows.jsonl", folder / "rows.jsonl.gz"
    path = plain if plain.is_file() else packed
    if not path.is_file():
        return [], ["no rows.jsonl: the rows cannot be browsed"]
    notes = [f"{packed.name} stands beside it and was not read"] if packed.is_file() else []
    notes = notes if path == plain else []
    rows: list[dict[str, Any]] = []
    broken = 0
    try:
        data = path.read_bytes() if path == plain else gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        return [], [f"{path.name} cannot be read ({error}): the rows cannot be browsed"]
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("method"), str) and "id" in row:
            rows.append(row)
        else:
            broken += 1
    if broken:
        notes.append(f"{path.name}: {broken} lines cannot be read and were left out")
    return rows, notes

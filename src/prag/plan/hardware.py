"""What a machine achieves and costs: each figure with its unit and where it comes from.

A figure is `measured` (here, or in a committed run that its note names), `given` by the user, from
a `data sheet`, or `assumed`. What is planned is no better than the least of them, so all are shown.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from prag.records import PragError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Origin = Literal["measured", "given", "data sheet", "assumed"]


@dataclass(frozen=True)
class Figure:
    """A number, where it comes from, and what a reader should know of it."""

    value: float
    origin: Origin
    note: str = ""


def assumed(value: float, note: str) -> Figure:
    """A figure that nobody measured."""
    return Figure(value, "assumed", note)


_BENCH = "measured on other machines, two x86-64 cores"
_STORE = assumed(0.004, "tokens, codec and a synced shard a group: a guess")


@dataclass(frozen=True)
class Hardware:
    """What a machine achieves, and what it costs.

    The first three have no sensible default; the others have one that is named as assumed.
    """

    name: str
    train_flop_per_s: Figure  # operations of training a second, as `operations` counts them
    prefill_flop_per_s: Figure  # operations of reading prompts a second
    memory_bytes_per_s: Figure  # bytes a second that a pass for one new token reads
    bytes_per_number: Figure = field(
        default_factory=lambda: assumed(2.0, "weights, keys and values in bfloat16")
    )  # of the base model that answers
    step_s: Figure = field(
        default_factory=lambda: assumed(0.0, "what a training step costs whatever its size")
    )  # seconds
    question_s: Figure = field(
        default_factory=lambda: assumed(0.0, "what a batch of answers costs whatever its size")
    )  # seconds
    adapted: Figure = field(
        default_factory=lambda: assumed(1.06, "bench answer on two cores: 15.4 for 16.2 tokens/s")
    )  # times as long a pass takes with adapters in the weights
    load_numbers_per_s: Figure = field(
        default_factory=lambda: assumed(
            1.7e8, f"stored adapters read, decoded, merged and put in; {_BENCH} (bench answer)"
        )
    )  # numbers of adapters a second
    rule_s: Figure = field(
        default_factory=lambda: assumed(0.001, "pairs by rule, written to a synced file: a guess")
    )  # seconds a passage
    keep_s: Figure = field(default_factory=lambda: _STORE)  # seconds a passage, beside training
    index_s: Figure = field(
        default_factory=lambda: assumed(2.6e-4, f"results/bench/retrieve.json, {_BENCH}")
    )  # seconds a passage
    search_s: Figure = field(
        default_factory=lambda: assumed(6.7e-9, f"results/bench/retrieve.json, {_BENCH}")
    )  # seconds a question and passage of the corpus
    fixed_s: Figure = field(
        default_factory=lambda: assumed(
            60.0, "everyday texts of a quiet recipe, once: what two cores take at most"
        )
    )  # seconds a build
    price_per_hour: Figure = field(default_factory=lambda: assumed(0.0, "no price was given"))
    storage_per_gb_month: Figure = field(default_factory=lambda: assumed(0.0, "no price was given"))

    def __post_init__(self) -> None:
        for name, figure in self.figures.items():
            above = name in RATES
            least = "above 0" if above else "at least 0"
            if not math.isfinite(figure.value) or figure.value < 0 or (above and not figure.value):
                raise PragError(f"hardware {self.name}: {name} is {least}, not {figure.value}")

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}

    def priced(self, per_hour: float | None, per_gb_month: float | None) -> Hardware:
        """The same machine at these prices; None leaves a price as it is."""
        changed: dict[str, Any] = {}
        if per_hour is not None:
            changed["price_per_hour"] = Figure(per_hour, "given")
        if per_gb_month is not None:
            changed["storage_per_gb_month"] = Figure(per_gb_month, "given")
        return replace(self, **changed)


RATES = (
    "train_flop_per_s",
    "prefill_flop_per_s",
    "memory_bytes_per_s",
    "bytes_per_number",
    "adapted",
    "load_numbers_per_s",
)
"""Figures that something is divided by or multiplied with, so that 0 makes no sense."""

UNITS: Mapping[str, str] = {
    "train_flop_per_s": "operations/s",
    "prefill_flop_per_s": "operations/s",
    "memory_bytes_per_s": "bytes/s",
    "bytes_per_number": "bytes",
    "step_s": "s a training step",
    "question_s": "s a batch of answers",
    "adapted": "times as long",
    "load_numbers_per_s": "numbers/s",
    "rule_s": "s a passage",
    "keep_s": "s a passage",
    "index_s": "s a passage",
    "search_s": "s a question, a passage",
    "fixed_s": "s a build",
    "price_per_hour": "money/h",
    "storage_per_gb_month": "money a GB and month",
}
"""Of each figure."""

_PEAK, _BANDWIDTH = 989.4e12, 3.35e12
_TRAINS, _READS, _WRITES = 0.3, 0.4, 0.5


def built_in(name: str) -> Hardware | None:
    """A machine known by its data sheet; None for another name."""
    if name != "h100":
        return None
    sheet = "H100 SXM data sheet: 989.4 TFLOP/s bfloat16, dense, and 3.35 TB/s"

    def share(of: float, part: float, what: str) -> Figure:
        return assumed(of * part, f"{part:g} of the peak, for {what}: a guess. {sheet}")

    return Hardware(
        name="h100",
        train_flop_per_s=share(_PEAK, _TRAINS, "training with the base model in bfloat16"),
        prefill_flop_per_s=share(_PEAK, _READS, "reading prompts"),
        memory_bytes_per_s=share(_BANDWIDTH, _WRITES, "writing answers"),
    )


def read_hardware(path: Path) -> Hardware:
    """A machine from a TOML file: its `name`, and figures by their names.

        name = "two A100"
        train_flop_per_s = 180e12
        prefill_flop_per_s = 240e12
        memory_bytes_per_s = 2e12
        price_per_hour = 3.2

    What the file leaves out has the default of `Hardware`, which is then named as assumed.

    Raises:
        PragError: it cannot be read, a field is unknown, missing, or no number of its kind.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PragError(f"the hardware file {path} cannot be read: {error}") from error
    unknown = data.keys() - {"name", *UNITS}
    if unknown:
        raise PragError(
            f"{path} has fields that are not known: {', '.join(sorted(unknown))}; "
            f"there are name, {', '.join(UNITS)}"
        )
    missing = {"train_flop_per_s", "prefill_flop_per_s", "memory_bytes_per_s"} - data.keys()
    if missing:
        raise PragError(f"{path} lacks {', '.join(sorted(missing))}, which nothing can stand for")
    figures: dict[str, Any] = {}
    for key, value in data.items():
        if key == "name":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise PragError(f"{path}: {key} = {value!r} is not a number")
        figures[key] = Figure(float(value), "given", str(path))
    return Hardware(name=str(data.get("name", path.stem)), **figures)


def hardware_named(name: str) -> Hardware:
    """A built-in machine, or one of a TOML file.

    Raises:
        PragError: there is none of that name.
    """
    found = built_in(name)
    if found is not None:
        return found
    if Path(name).is_file():
        return read_hardware(Path(name))
    raise PragError(
        f"no hardware {name!r}: use here (this machine is timed), h100, or a TOML file that holds "
        "train_flop_per_s, prefill_flop_per_s and memory_bytes_per_s"
    )

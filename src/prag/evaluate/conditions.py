"""What is compared: a method, how it answers, and which passages or adapters it is given.

A condition has a label, which is what a user writes and what rows and tables call it:

    METHOD              the method, with the passages retrieved (or gold) for the question
    METHOD-cot          the same with few-shot chain of thought
    shuffled            parametric with the adapters of another question's passages
    format-only         parametric with an adapter trained on passages outside the corpus
    METHOD@noise-K      1 gold passage among K, the others of other questions
    METHOD@conflict     gold passages whose answer is replaced by another one
    METHOD@CODEC        the adapters as a store with that codec would give them back
    closed-book@general, parametric@general, perplexity     forgetting
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prag.methods import METHODS
from prag.records import PragError
from prag.store import CODECS, Codec

Control: TypeAlias = Literal[
    "none", "shuffled", "format-only", "noise", "conflict", "codec", "general", "perplexity"
]

NOISE_SIZES = (1, 3, 5, 10)
"""Passages given, one of them gold."""

_WITH_NOISE = ("in-context", "parametric", "combined")
_WITH_CONFLICT = ("closed-book", "in-context", "parametric", "combined")
_COT = ("closed-book", "in-context", "parametric", "combined")


@dataclass(frozen=True)
class Condition:
    """One thing to compare; `k` is the number of passages of the noise control.

    `codec` is what its adapters go through first.
    """

    label: str
    method: str
    reasons: bool = False
    control: Control = "none"
    k: int | None = None
    codec: Codec | None = None

    @property
    def uses_adapters(self) -> bool:
        """Whether adapters are put into the weights."""
        return self.control == "perplexity" or METHODS[self.method].uses_adapters


def _noise() -> list[str]:
    return [f"{m}@noise-{k}" for k in NOISE_SIZES for m in _WITH_NOISE]


GROUPS: dict[str, Callable[[], list[str]]] = {
    "methods": lambda: list(METHODS),
    "cot": lambda: [f"{m}-cot" for m in _COT],
    "noise": _noise,
    "conflict": lambda: [f"{m}@conflict" for m in _WITH_CONFLICT],
    "codecs": lambda: [f"parametric@{codec}" for codec in CODECS[1:]],
    "forgetting": lambda: ["closed-book@general", "parametric@general", "perplexity"],
    "controls": lambda: [
        "shuffled",
        "format-only",
        *GROUPS["conflict"](),
        *GROUPS["forgetting"](),
        *_noise(),
    ],
    "all": lambda: [*METHODS, *GROUPS["controls"]()],
}
"""Names that stand for several conditions. `all` is every method and control that answers
directly; `cot` adds the chain-of-thought variants, which the paper uses for 2Wiki and HotpotQA;
`codecs` is parametric in fewer bytes."""


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """The conditions that a comma-separated list names, each once, in the order given.

    Raises:
        PragError: a name is neither a condition nor a group; says what there is.
    """
    labels: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name:
            labels += GROUPS[name]() if name in GROUPS else [name]
    if not labels:
        raise PragError(f"no method is named in {text!r}: {_choices()}")
    return tuple(condition_named(label) for label in dict.fromkeys(labels))


def condition_named(label: str) -> Condition:
    """The condition of that label.

    Raises:
        PragError: there is none; says what there is.
    """
    if label in ("shuffled", "format-only"):
        return Condition(label, "parametric", control=label)  # type: ignore[arg-type]
    if label == "perplexity":
        return Condition(label, "parametric", control="perplexity")
    method, _, control = label.partition("@")
    reasons = method.endswith("-cot") and method not in METHODS
    if reasons:
        method = method.removesuffix("-cot")
    if method not in METHODS:
        raise PragError(f"no method {label!r}: {_choices()}")
    if not control:
        return Condition(label, method, reasons)
    noise = re.fullmatch(r"noise-([1-9]\d*)", control)
    if noise and not METHODS[method].searches and METHODS[method].given_passages:
        return Condition(label, method, reasons, "noise", int(noise[1]))
    if control == "conflict" and not METHODS[method].searches:
        return Condition(label, method, reasons, "conflict")
    if control == "general" and method in ("closed-book", "parametric"):
        return Condition(label, method, reasons, "general")
    codec = next((codec for codec in CODECS if codec == control), None)
    if codec is not None and METHODS[method].uses_adapters:
        return Condition(label, method, reasons, "codec", codec=codec)
    raise PragError(f"no control {control!r} of {method!r}: {_choices()}")


def _choices() -> str:
    return (
        f"use {', '.join(METHODS)}, each also with -cot, shuffled, format-only, METHOD@noise-K, "
        f"METHOD@conflict, METHOD@CODEC, or a group: {', '.join(GROUPS)}"
    )

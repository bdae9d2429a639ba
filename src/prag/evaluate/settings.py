"""What an evaluation is: the settings that decide its rows, and where its results come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from prag.config import GenerateConfig
from prag.evaluate.conditions import Condition
from prag.evaluate.measures import Rule
from prag.methods import METHODS
from prag.records import PragError
from prag.worked_examples import WORKED

DEPTHS = (1, 3, 5, 10)
"""Of recall@k."""


@dataclass(frozen=True)
class EvalSettings:
    """How question sets are answered and scored.

    Args:
        conditions: what is compared.
        top_k: passages retrieved for a question.
        gold: give the gold passages in place of retrieved ones, which separates retrieval from
            injection.
        seed: of every draw (shuffling, noise, substitutes) and of the bootstrap.
        rule: how tokens are scored.
        generate: how answers are generated.
    """

    conditions: tuple[Condition, ...]
    top_k: int = 3
    gold: bool = False
    seed: int = 0
    rule: Rule = "squad"
    generate: GenerateConfig = field(default_factory=GenerateConfig)

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise PragError("top_k is at least 1")
        if self.gold and not self.asked:
            raise PragError(f"nothing is left to do: {'; '.join(self.notes)}")

    @property
    def asked(self) -> tuple[Condition, ...]:
        """The conditions that are run: with gold passages, those that do not search."""
        return tuple(c for c in self.conditions if not (self.gold and METHODS[c.method].searches))

    @property
    def notes(self) -> tuple[str, ...]:
        """Which conditions are not run, and why."""
        left_out = [c.label for c in self.conditions if c not in self.asked]
        return tuple(
            f"{label} is left out: it searches for itself, and --gold gives the gold passages"
            for label in left_out
        )


def examples_for(set_name: str) -> str:
    """Whose worked examples chain of thought uses: the set's own, or else HotpotQA's."""
    return set_name if set_name in WORKED else "hotpotqa"

"""What an evaluation is: the settings that decide its rows, and where its results come from."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from prag.config import GenerateConfig
from prag.evaluate.conditions import Condition
from prag.evaluate.measures import Rule
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
        alone = [c.label for c in self.conditions if c.method in ("flare", "dragin", "ircot")]
        if self.gold and alone:
            raise PragError(
                f"{', '.join(alone)} search for themselves, and --gold gives every method the gold "
                "passages: leave them out, or leave out --gold"
            )


def examples_for(set_name: str) -> str:
    """Whose worked examples chain of thought uses: the set's own, or else HotpotQA's."""
    return set_name if set_name in WORKED else "hotpotqa"


def revision() -> tuple[str | None, bool | None]:
    """The commit of the code that runs, and whether it differs from it; None where unknown."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", Path(__file__).name):
            return None, None  # installed somewhere inside another project's work tree
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "../../.."))
    except (OSError, subprocess.CalledProcessError):
        return None, None

"""`prag bench encode`: passages a second, beside the same training written with plain `peft`.

Two recipes are timed: `paper`, whose adapters are the same numbers as the loops' (a test holds them
together), and the model's default. The published loop pads every sequence to 3,000 tokens, so all
its steps cost the same: one is timed, and counted as often as a passage has steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from prag.augment import taught
from prag.batches import TOKENS_A_STEP, group_lessons
from prag.bench.peft_loops import PUBLISHED_LENGTH, PeftLoop
from prag.bench.processes import in_a_process
from prag.bench.profile import shares
from prag.bench.timing import Spread, alternate, matmul, ratio
from prag.config import PAPER, RECIPES, Recipe, default_recipe
from prag.encode import encode_group
from prag.evaluate.texts import format_passages
from prag.model import PACKAGED, BaseModel
from prag.precision import learner
from prag.progress import Tell, silent
from prag.prompts import Lesson, lesson
from prag.quiet import Quiet, quiet_of
from prag.replay import sites_of

PRODUCTS = 20
"""Matrix products of one run: about a second on one core."""

PROFILED = 2
"""Epochs of the run whose time is looked into."""

COUNTED = 2
"""Passages of the group whose operations are counted: those of a group grow with it."""


@dataclass(frozen=True)
class _Work:
    """One recipe's lessons, the model that they are trained on, and what its adapters read."""

    recipe: Recipe
    lessons: list[Lesson]
    trained: BaseModel
    quiet: Quiet

    @property
    def tokens(self) -> float:
        """Tokens that a passage is trained on, those of every epoch."""
        whole = sum(le.tokens - self.quiet.read * len(le.examples) for le in self.lessons)
        return whole * self.recipe.train.epochs / len(self.lessons)

    @property
    def groups(self) -> list[list[Lesson]]:
        """The lessons in the groups of a build."""
        return group_lessons(self.lessons, TOKENS_A_STEP, self.quiet.read)

    @property
    def steps(self) -> int:
        """Training steps of one passage when it trains alone."""
        examples = sum(len(le.examples) for le in self.lessons) / len(self.lessons)
        return round(examples * self.recipe.train.epochs)


def bench_encode(
    base: BaseModel,
    passages: int = 36,
    rounds: int = 3,
    published: bool = True,
    progress: Tell = silent,
) -> dict[str, Any]:
    """Time the encoder and the loops in turns.

    Args:
        passages: how many the encoder trains, in the groups of a build; the loops train the first
            of them. The package brings 12, and every further one is one of them again.
        rounds: of turns.
        published: time the loop that pads to 3,000 tokens too (SmolLM2 on two cores: a minute a
            round).

    Returns:
        `dtype` (what the base model computed in), `steps` and `tokens` of a passage,
        `tokens_published`, `passages_per_s`, `ratio_published`, `ratio_unpadded`,
        `flop_per_passage`, `peak_fraction`, `shares` (of the time, by kind of operation) and
        `memory` (`prag.bench.training`; None for a model that cannot be loaded by its name again)
        of the default recipe, the same of `paper` with `paper_` before the name, and under `runs`
        every spread they come from. A ratio is of the seconds a passage. The loops train in the
        precision that the base was loaded in; where the encoder does not, `ratio_unpadded_mixed` is
        over the loop in the encoder's.

    Raises:
        PragError: `peft` is not installed.
    """
    works = {"": _work(base, default_recipe(base.parameters), passages, progress)}
    works["paper_"] = _work(base, PAPER, passages, progress)
    runs: dict[str, Callable[[], object]] = {}
    matmuls: dict[str, int] = {}  # operations of a run, by its name
    for name, work in works.items():
        train = work.recipe.train
        one = work.lessons[0].examples
        runs[f"{name}ours"] = _ours(work)
        runs[f"{name}unpadded"] = _loop(PeftLoop(base, train), one)
        if work.trained is not base:
            runs[f"{name}unpadded_mixed"] = _loop(PeftLoop(work.trained, train), one)
        dtype = work.trained.dtype
        product, operations = matmul(dtype, base.device)
        product()
        runs[_matmul(dtype)] = _repeated(product, PRODUCTS)
        matmuls[_matmul(dtype)] = PRODUCTS * operations
    if published:
        # A step of either recipe costs the same there: it is as long, and all layers are adapted.
        runs["published"] = _loop(
            PeftLoop(base, PAPER.train, PUBLISHED_LENGTH), works["paper_"].lessons[0].examples[:1]
        )
    spreads = alternate(runs, rounds, progress)
    peaks = {name: operations / spreads[name].median for name, operations in matmuls.items()}

    def times(name: str, by: float = 1.0) -> Spread:
        return Spread(tuple(s * by for s in spreads[name].seconds))

    result: dict[str, Any] = {}
    for name, work in works.items():
        ours = times(f"{name}ours", 1 / len(work.lessons))
        flop = _flop_per_passage(work)
        dtype = work.trained.dtype
        result[f"{name}dtype"] = str(dtype).removeprefix("torch.")
        result[f"{name}steps"] = work.steps
        result[f"{name}tokens"] = work.tokens
        result[f"{name}tokens_published"] = work.steps * PUBLISHED_LENGTH
        result[f"{name}passages_per_s"] = 1 / ours.median
        result[f"{name}ratio_unpadded"] = ratio(times(f"{name}unpadded"), ours)
        if f"{name}unpadded_mixed" in spreads:
            result[f"{name}ratio_unpadded_mixed"] = ratio(times(f"{name}unpadded_mixed"), ours)
        if published:
            result[f"{name}ratio_published"] = ratio(times("published", work.steps), ours)
        result[f"{name}flop_per_passage"] = flop
        result[f"{name}peak_fraction"] = flop / ours.median / peaks[_matmul(dtype)]
        result[f"{name}shares"] = _shares(work)
        result[f"{name}memory"] = _memory(base, work.recipe)
    result["flop_per_s"] = peaks
    result["passages"] = len(works[""].lessons)
    result["runs"] = {name: spread.as_dict() for name, spread in spreads.items()}
    return result


def packaged_lessons(base: BaseModel, recipe: Recipe) -> list[Lesson]:
    """What the packaged passages are trained on."""
    made = []
    for passage, augmentation in format_passages():
        used = taught(augmentation, passage, recipe)
        made.append(lesson(base.tokenizer, passage, used, recipe.train, recipe.wording))
    return made


def _work(base: BaseModel, recipe: Recipe, passages: int, progress: Tell) -> _Work:
    made = packaged_lessons(base, recipe)
    lessons = [made[n % len(made)] for n in range(passages)]
    trained = learner(base, recipe.train.precision)
    quiet = quiet_of(base, sites_of(base, recipe.train), recipe, progress)
    return _Work(recipe, lessons, trained, quiet.to(trained.dtype))


def _ours(work: _Work) -> Callable[[], object]:
    groups = work.groups

    def run() -> None:
        for group in groups:
            encode_group(work.trained, work.recipe.train, group, work.quiet)

    return run


def _matmul(dtype: torch.dtype) -> str:
    """The name of the runs of a plain matrix product."""
    return f"matmul_{dtype}".replace("torch.", "")


def _loop(loop: PeftLoop, examples: Sequence[Any]) -> Callable[[], object]:
    return lambda: loop.encode(examples)


def _repeated(run: Callable[[], object], times: int) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def _memory(base: BaseModel, recipe: Recipe) -> dict[str, Any] | None:
    """What the training of a full group takes; None for a model that has no name to load it by."""
    if recipe.name not in RECIPES or not (base.name == PACKAGED or Path(base.name).is_dir()):
        return None
    return in_a_process(
        "prag.bench.training", base.name, recipe.name, TOKENS_A_STEP, str(base.device)
    )


def _shares(work: _Work) -> dict[str, float]:
    """Where the time of a group goes, with as many epochs as show both a first and a later one."""
    group = max(work.groups, key=len)
    train = replace(work.recipe.train, epochs=min(work.recipe.train.epochs, PROFILED))
    return shares(lambda: encode_group(work.trained, train, group, work.quiet))


def _flop_per_passage(work: _Work) -> float:
    """Operations of the encoder's matrix products and attention, forward and backward."""
    few = work.lessons[:COUNTED]
    with FlopCounterMode(display=False) as counter:
        encode_group(work.trained, work.recipe.train, few, work.quiet)
    total: int = counter.get_total_flops()
    return total / len(few)

"""The stages of a build after augmentation: what is missing is encoded, the rest is kept.

Each stage writes what it has done before it goes on, so a build that is killed continues where
it was. Nothing that a question is answered from changes before the last line of the build.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prag.augment import taught
from prag.batches import group_lessons
from prag.config import Recipe
from prag.crew import Crew
from prag.knowledge_base.augmentations import fingerprints
from prag.lora import Adapter
from prag.model import BaseModel
from prag.precision import computed_in
from prag.progress import Tell
from prag.prompts import Lesson, lesson
from prag.records import AdapterKey, Augmentation, Passage
from prag.store import AdapterStore, Codec, StoredItem
from prag.trainer import Trainer

TOLD = 1000
"""Passages between two words of progress while they are indexed."""


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    `left_out` are passages without a valid pair, which have no adapter; `dtype` is what the base
    model computed in while adapters were trained; `retried` are requests to an object store that
    were made again, `workers_lost` those that died, whose batch another one
    did; `notes` is what the making of the index met.
    """

    passages: int
    augmented: int
    encoded: int
    kept: int
    damaged: int
    discarded: int
    left_out: tuple[str, ...]
    rejects: int
    origins: dict[str, int]
    dtype: str
    retried: int
    workers_lost: int
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._began = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap was this stage's."""
        now = time.perf_counter()
        self.laps[stage] = now - self._began
        self._began = now


def told(passages: Sequence[Passage], tell: Tell) -> Iterator[Passage]:
    """The passages, told of as they are drawn by what indexes them."""
    for done, passage in enumerate(passages):
        if done and done % TOLD == 0:
            tell("index", done, len(passages))
        yield passage


@dataclass(frozen=True)
class Plan:
    """The lessons of a corpus, each under the key of its adapter, and who has none."""

    lessons: dict[AdapterKey, Lesson]
    left_out: tuple[str, ...]


def plan_lessons(
    base: BaseModel,
    recipe: Recipe,
    passages: Sequence[Passage],
    augmentations: dict[str, Augmentation],
) -> Plan:
    """What each passage's adapter is to be trained on, and under which key it is kept."""
    lessons: dict[AdapterKey, Lesson] = {}
    left_out = []
    prints = fingerprints(recipe, augmentations)
    for passage in passages:
        used = taught(augmentations[passage.id], passage, recipe)
        if not used.pairs:
            left_out.append(passage.id)
            continue
        key = AdapterKey(passage.id, base.fingerprint, prints[used.origin])
        lessons[key] = lesson(base.tokenizer, passage, used, recipe.train, recipe.wording)
    return Plan(lessons, tuple(left_out))


def dtype_of_training(base: BaseModel, recipe: Recipe) -> str:
    """What the base model computes in while adapters of a recipe are trained, as `bfloat16`."""
    return str(computed_in(base, recipe.train.precision)).removeprefix("torch.")


def keep_good(
    store: AdapterStore, plan: Plan, check: bool, progress: Tell
) -> tuple[set[AdapterKey], int]:
    """The keys whose adapters are there, whole, and trained on this very lesson.

    A damaged adapter is discarded, to be made again.

    Args:
        check: read all that is stored, at an address too.

    Returns:
        Those keys, and how many were damaged.
    """
    look = store.verify if check else store.survey
    damage = look(progress=lambda done, total: progress("check", done, total))
    damaged = [key for d in damage.damaged for key in d.keys]
    if damaged:
        store.discard(damaged)
    there = store.examples(plan.lessons)
    good = {key for key, digest in there.items() if digest == plan.lessons[key].digest}
    return good, len(damaged)


def encode_missing(
    base: BaseModel,
    recipe: Recipe,
    store: AdapterStore,
    plan: Plan,
    good: set[AdapterKey],
    tokens_a_step: int,
    codec: Codec,
    progress: Tell,
    crew: Crew | None = None,
) -> int:
    """Train what is not there, a group at a time, each committed when it is done.

    What a kill leaves to do falls into the groups it would have had (`group_lessons`), and gets the
    same bits, whichever groups were done.

    Args:
        tokens_a_step: padded tokens that passages which train together may have in a step.
        codec: in which adapters are stored.
        crew: who trains; by default this process.

    Returns:
        How many adapters were trained.
    """
    if len(good) == len(plan.lessons):
        return 0
    trainer = Trainer.ready(base, recipe, progress)
    skip = trainer.quiet.read
    key_of = {le.passage_id: key for key, le in plan.lessons.items()}
    missing = [le for key, le in plan.lessons.items() if key not in good]
    groups = group_lessons(missing, tokens_a_step, skip)
    epochs = recipe.train.epochs
    sizes = [epochs * sum(le.tokens - skip * len(le.examples) for le in g) for g in groups]
    total = sum(sizes)
    encoded = done = 0
    progress("encode", 0, total)

    def after_step(tokens: int) -> None:
        nonlocal done
        done += tokens
        if done < total:  # the last word comes when all is committed
            progress("encode", done, total)

    made: Iterable[tuple[int, list[Adapter]]]
    if crew is None:
        made = ((i, trainer.encode(group, after_step)) for i, group in enumerate(groups))
    else:
        made = crew.encode(trainer, groups)
    for index, adapters in made:
        group = groups[index]
        store.commit(
            [
                StoredItem(key_of[le.passage_id], adapter, le.digest)
                for le, adapter in zip(group, adapters, strict=True)
            ],
            trainer.sites,
            codec,
        )
        encoded += len(group)
        if crew is not None:
            after_step(sizes[index])
    if crew is not None:
        crew.check()
    progress("encode", total, total)
    return encoded

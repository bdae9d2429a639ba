"""The stages of a build after augmentation: what is missing is encoded, the rest is kept.

Each stage writes what it has done before it goes on, so a build that is killed continues where
it was. Nothing that a question is answered from changes before the last line of the build. Texts
and lessons go by a slice of the corpus at a time, so memory does not grow with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from prag.augment import taught
from prag.batches import epoch_tokens, group_lessons
from prag.config import Recipe
from prag.crew import Crew
from prag.knowledge_base.augmentations import Augmentations, Entry, fingerprints, slices
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

T = TypeVar("T")


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


def told(passages: Iterable[Passage], total: int, tell: Tell) -> Iterator[Passage]:
    """The passages, told of as they are drawn by what indexes them."""
    for done, passage in enumerate(passages):
        if done and done % TOLD == 0:
            tell("index", done, total)
        yield passage


@dataclass(frozen=True)
class Plan:
    """The lessons of passages, each under the key of its adapter, and who has none."""

    lessons: dict[AdapterKey, Lesson]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """What became of the lessons: how many were trained, how many kept; who had none."""

    encoded: int
    kept: int
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
    prints = fingerprints(recipe, (a.origin for a in augmentations.values()))
    for passage in passages:
        used = taught(augmentations[passage.id], passage, recipe)
        if not used.pairs:
            left_out.append(passage.id)
            continue
        key = AdapterKey(passage.id, base.fingerprint, prints[used.origin])
        lessons[key] = lesson(base.tokenizer, passage, used, recipe.train, recipe.wording)
    return Plan(lessons, tuple(left_out))


def plan_corpus(
    base: BaseModel,
    recipe: Recipe,
    passages: Iterable[Passage],
    augmentations: Augmentations,
    entries: dict[str, Entry],
) -> Iterator[Plan]:
    """The same for a corpus, a slice at a time, each made while the one before is trained.

    Args:
        passages: those that have an entry, in the order of the corpus: a build that was stopped
            goes on with the slices it would have had.
    """

    def planned() -> Iterator[Plan]:
        for some in slices(passages):
            known = augmentations.read({p.id: entries[p.id] for p in some})
            yield plan_lessons(base, recipe, some, known)

    return _one_ahead(planned())


def _one_ahead(things: Iterator[T]) -> Iterator[T]:
    """The things, the next one made in another thread while this one is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, things, end)
        while (thing := coming.result()) is not end:
            coming = pool.submit(next, things, end)
            yield thing  # type: ignore[misc]


def dtype_of_training(base: BaseModel, recipe: Recipe) -> str:
    """What the base model computes in while adapters of a recipe are trained, as `bfloat16`."""
    return str(computed_in(base, recipe.train.precision)).removeprefix("torch.")


def discard_damaged(store: AdapterStore, check: bool, progress: Tell) -> int:
    """Discard the adapters that are damaged, to be made again; how many they were.

    Args:
        check: read all that is stored, at an address too.
    """
    look = store.verify if check else store.survey
    damage = look(progress=lambda done, total: progress("check", done, total))
    damaged = [key for d in damage.damaged for key in d.keys]
    if damaged:
        store.discard(damaged)
    return len(damaged)


class _Left:
    """What the plans of a corpus leave to train: not what is stored and learnt this very lesson.

    Args:
        total: passages of all the plans.
    """

    def __init__(self, store: AdapterStore, plans: Iterable[Plan], total: int) -> None:
        self._store, self._plans = store, plans
        self.total = total
        self.kept = 0
        self.left_out: list[str] = []
        self.keys: dict[str, AdapterKey] = {}  # of what was drawn and is not trained yet

    def lessons(self) -> Iterator[list[Lesson]]:
        """Those of a plan at a time, where it has any."""
        for plan in self._plans:
            there = self._store.examples(plan.lessons)
            missing = [(k, le) for k, le in plan.lessons.items() if there.get(k) != le.digest]
            self.kept += len(plan.lessons) - len(missing)
            self.left_out += plan.left_out
            self.total -= len(plan.lessons) - len(missing) + len(plan.left_out)
            self.keys |= {le.passage_id: key for key, le in missing}
            if missing:
                yield [le for _, le in missing]


class _Meter:
    """Tells how much is trained, in passages.

    Passages of a slice train in the order of their length, so how many are done says little of
    the time: a slice counts as many as it has, and a group of it by its part of their tokens.
    """

    def __init__(self, progress: Tell, left: _Left) -> None:
        self._progress, self._left = progress, left
        self._done = 0.0
        self._groups: dict[str, tuple[float, int]] = {}  # by the first passage

    def expect(self, group: Sequence[Lesson], counts: float, tokens: int) -> None:
        """A group is to be trained: what it counts, and its tokens in all epochs."""
        self._groups[group[0].passage_id] = counts, tokens

    def within(self, group: Sequence[Lesson]) -> Callable[[int], None]:
        """To be called with the tokens of each step of a group."""
        counts, tokens = self._groups[group[0].passage_id]
        trained = 0

        def after_step(step: int) -> None:
            nonlocal trained
            trained += step
            self._tell(self._done + counts * trained / tokens)

        return after_step

    def over(self, group: Sequence[Lesson]) -> None:
        """A group is committed."""
        counts, _ = self._groups.pop(group[0].passage_id)
        self._done += counts
        self._tell(self._done)

    def _tell(self, done: float) -> None:
        if int(done) < self._left.total:  # the last word comes when all is committed
            self._progress("encode", int(done), self._left.total)


def encode_missing(
    base: BaseModel,
    recipe: Recipe,
    store: AdapterStore,
    plans: Iterable[Plan],
    total: int,
    tokens_a_step: int,
    codec: Codec,
    progress: Tell,
    crew: Crew | None = None,
) -> Encoded:
    """Train what is not there, a group at a time, each committed when it is done.

    What a kill leaves to do falls into the groups it would have had (`group_lessons`), and gets the
    same bits, whichever groups were done.

    Args:
        total: passages of all the plans.
        tokens_a_step: padded tokens that passages which train together may have in a step.
        codec: in which adapters are stored.
        crew: who trains; by default this process.
    """
    left = _Left(store, plans, total)
    drawn = left.lessons()
    first = next(drawn, None)
    if first is None:
        return Encoded(0, left.kept, tuple(left.left_out))
    trainer = Trainer.ready(base, recipe, progress)
    skip, step = trainer.quiet.read, recipe.train.step
    meter = _Meter(progress, left)

    def grouped() -> Iterator[list[Lesson]]:
        for lessons in chain([first], drawn):
            groups = group_lessons(lessons, tokens_a_step, skip, step)
            sizes = [sum(epoch_tokens(le, skip, step) for le in group) for group in groups]
            share = len(lessons) / sum(sizes)  # passages that a token stands for
            for group, size in zip(groups, sizes, strict=True):
                meter.expect(group, size * share, recipe.train.epochs * size)
                yield group

    encoded = 0
    groups = grouped()
    progress("encode", 0, left.total)
    made: Iterable[tuple[Sequence[Lesson], list[Adapter]]]
    if crew is None:
        made = ((group, trainer.encode(group, meter.within(group))) for group in groups)
    else:
        made = crew.encode(trainer, groups)
    for group, adapters in made:
        store.commit(
            [
                StoredItem(left.keys.pop(le.passage_id), adapter, le.digest)
                for le, adapter in zip(group, adapters, strict=True)
            ],
            trainer.sites,
            codec,
        )
        encoded += len(group)
        meter.over(group)
    if crew is not None:
        crew.check()
    progress("encode", encoded, encoded)
    return Encoded(encoded, left.kept, tuple(left.left_out))

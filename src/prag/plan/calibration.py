"""This machine, timed at the project's own work for about a minute.

Training steps of a few groups of the sample, each by itself: the first epoch of a group reads all
layers and later ones the upper ones, and groups have many sizes, so the steps tell what one costs
whatever its size from what its operations cost. What a build does beside training, and answers with
and without adapters, are timed likewise. The first run of everything warms up and does not count.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from prag.augment import AugmentationFile, Cloze, taught
from prag.bench.answering import drawn
from prag.config import Codec, GenerateConfig
from prag.encode import encode_group
from prag.generate import Request, TransformersEngine
from prag.inject import injected
from prag.knowledge_base.augmentations import BATCH
from prag.lora import Adapter, merge
from prag.model import BaseModel
from prag.plan.costs import Use, pass_bytes, weights
from prag.plan.hardware import Figure, Hardware
from prag.plan.operations import reading, training_steps
from prag.plan.shape import Adapted, Shape
from prag.plan.sizes import Sizes
from prag.plan.workload import Workload
from prag.progress import Tell, silent
from prag.prompts import Lesson, lesson, passage_text, question_ids, style_named
from prag.provenance import made_by
from prag.quiet import Quiet, quiet_of, shared_beginning
from prag.records import AdapterKey, PragError
from prag.store import AdapterStore, StoredItem
from prag.trainer import Trainer

EPOCHS = 2
"""Of a timed group: a first one, which reads all layers, and one that replays the upper ones."""

SEARCH_S = 6.7e-9
"""Seconds of a search, a passage of the corpus: a million took 6.7 ms."""


@dataclass(frozen=True)
class Timed:
    """A training step: its operations and its seconds."""

    operations: float
    seconds: float


def calibrate(
    base: BaseModel,
    shape: Shape,
    adapted: Adapted,
    work: Workload,
    sizes: Sizes,
    codec: Codec,
    use: Use,
    seconds: float = 60.0,
    progress: Tell = silent,
) -> Hardware:
    """Time this machine at the work that is planned.

    Args:
        base: the loaded model of `shape`.
        seconds: for training steps, about; at least the groups of one turn are timed.

    Raises:
        PragError: the model cannot be trained or asked.
    """
    sites = adapted.sites
    first = _seconds(lambda: quiet_of(base, sites, work.recipe, progress))
    began = time.perf_counter()
    trainer = Trainer.ready(base, work.recipe)
    trained, quiet = trainer.base, trainer.quiet
    fixed = time.perf_counter() - began
    groups, _ = work.groups()
    chosen = spread(groups)
    encode_group(trained, replace(work.recipe.train, epochs=1), chosen[-1], quiet)  # warms up
    timed: list[Timed] = []
    beside: list[float] = []  # seconds a passage, after the last step
    turn, began = 0, time.perf_counter()
    while turn < len(chosen) or time.perf_counter() - began < seconds:
        progress("measure", min(turn, len(chosen)), len(chosen) + 1)
        group = chosen[turn % len(chosen)]
        steps, after = _train(trained, shape, adapted, work, group, quiet)
        timed += steps
        beside.append(after / len(group))
        turn += 1
    progress("measure", len(chosen) + 1, len(chosen) + 1)
    step_s, rate = fitted(timed)
    rule_s, keep_s = _beside(base, work, adapted, codec)
    keep_s += statistics.median(beside)
    where = made_by("prag plan")
    note = f"{where['processor']}, {where['cores']} cores, {where['threads']} threads"
    return Hardware(
        name=f"this machine: {note}",
        train_flop_per_s=Figure(
            rate, "measured", f"{len(timed)} steps of {turn} groups of {shape.name}"
        ),
        step_s=Figure(step_s, "measured", "of the same steps"),
        keep_s=Figure(keep_s, "measured", "lessons, codec and store, a synced shard a group"),
        rule_s=Figure(rule_s, "measured", "pairs by rule, written to a synced file"),
        index_s=Figure(sizes.index_s, "measured", "BM25 of the sample, several times over"),
        search_s=Figure(SEARCH_S, "assumed", "results/bench/retrieve.json, another machine"),
        fixed_s=Figure(
            fixed,
            "measured",
            "a copy of the base if need be, and what a quiet recipe keeps in the cache; here, now, "
            f"{first:.1f} s with what was not in the cache",
        ),
        **_answering(base, shape, adapted, work, codec, use),
    )


def spread(groups: Sequence[list[Lesson]]) -> list[list[Lesson]]:
    """The largest group, one of the middle and the smallest, by their padded tokens."""
    ordered = sorted(
        groups, key=lambda g: len(g) * max(len(e.ids) for le in g for e in le.examples)
    )
    places = dict.fromkeys((len(ordered) - 1, len(ordered) // 2, 0))
    return [ordered[at] for at in places]


def fitted(timed: Sequence[Timed]) -> tuple[float, float]:
    """Seconds that a step costs whatever its size, and operations a second of the rest.

    The line whose relative errors have the least squares, neither number below 0.

    Raises:
        PragError: no step was timed.
    """
    if not timed:
        raise PragError("no training step was timed")
    flop = np.array([t.operations for t in timed])
    seconds = np.array([t.seconds for t in timed])
    rows = np.stack([1 / seconds, flop / seconds], axis=1)  # [M, 2]
    scale = rows.max(axis=0)
    (a, b), *_ = np.linalg.lstsq(rows / scale, np.ones(len(timed)), rcond=None)
    step_s, a_flop = a / scale[0], b / scale[1]
    if step_s < 0 or a_flop <= 0:
        step_s, a_flop = 0.0, float(seconds.sum() / flop.sum())
    return float(step_s), float(1 / a_flop)


def _train(
    trained: BaseModel,
    shape: Shape,
    adapted: Adapted,
    work: Workload,
    group: list[Lesson],
    quiet: Quiet,
) -> tuple[list[Timed], float]:
    """Train a group for `EPOCHS`: its steps, and the seconds that it took after the last one."""
    train = replace(work.recipe.train, epochs=min(EPOCHS, work.recipe.train.epochs))
    began = time.perf_counter()
    at = [began]
    encode_group(trained, train, group, quiet, lambda _: at.append(time.perf_counter()))
    after = time.perf_counter() - at[-1]
    counted = training_steps(shape, adapted, group, work.begins, train.epochs)
    # What a group prepares counts to its first step.
    taken = [end - start for start, end in itertools.pairwise(at)]
    return [Timed(c.total, s) for c, s in zip(counted, taken, strict=True)], after


def _beside(base: BaseModel, work: Workload, adapted: Adapted, codec: Codec) -> tuple[float, float]:
    """Seconds a passage of pairs by rule, and of all that surrounds the training of adapters."""
    recipe = work.recipe
    rule_s = 0.0 if work.asked else _by_rule(base, work)
    began = time.perf_counter()
    for passage, augmentation in zip(work.sample, work.augmentations, strict=True):
        used = taught(augmentation, passage, recipe)
        if used.pairs:
            lesson(base.tokenizer, passage, used, recipe.train, recipe.wording)
    keep_s = (time.perf_counter() - began) / len(work.sample)
    groups, _ = work.groups()
    group = sorted(groups, key=len)[len(groups) // 2]
    adapter = _small(base, work, adapted)
    taken = []
    with tempfile.TemporaryDirectory() as folder, AdapterStore.open(Path(folder)) as store:
        for turn in range(3):
            items = [
                StoredItem(AdapterKey(le.passage_id, base.fingerprint, f"{turn:016x}"), adapter, "")
                for le in group
            ]
            began = time.perf_counter()
            store.commit(items, adapted.sites, codec)
            taken.append(time.perf_counter() - began)
    return rule_s, keep_s + statistics.median(taken) / len(group)


def _by_rule(base: BaseModel, work: Workload) -> float:
    """Seconds a passage of making pairs by rule, in batches that are written and read again."""
    maker = Cloze(base, work.recipe.augment)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = AugmentationFile(Path(folder) / "made.jsonl")
        for at in range(0, len(work.sample), BATCH):
            file.append(maker.augment(work.sample[at : at + BATCH]))
        file.load()
    return (time.perf_counter() - began) / len(work.sample)


def _answering(
    base: BaseModel, shape: Shape, adapted: Adapted, work: Workload, codec: Codec, use: Use
) -> dict[str, Figure]:
    """Figures of reading prompts and writing answers, with adapters and without."""
    recipe, rows = work.recipe, use.rows
    engine = TransformersEngine(base)
    start = shared_beginning(base, adapted.sites, recipe)
    style = style_named("direct", recipe.wording)
    texts = [passage_text(p, recipe.wording) for p in work.sample]
    merged = merge([_small(base, work, adapted)] * use.top_k)
    config = GenerateConfig(max_new_tokens=use.answer_tokens, rows=rows)
    room = shape.context - use.answer_tokens

    def timed(k: int, adapters: bool) -> tuple[float, float, float]:
        """Tokens left to read; and the medians of the seconds to the first, of each further one."""
        ids: list[int] = []
        first, then = [], []
        for turn in range(4):
            some = [texts[(turn + i) % len(texts)] for i in range(k)]
            ids = question_ids(
                base.tokenizer, f"Who wrote number {turn}?", some, recipe.wording, style
            )
            if len(ids) > room:
                raise PragError(
                    f"a prompt with {k} passages does not fit the {shape.context} of {shape.name}"
                )
            request = Request(tuple(ids), merged if adapters else None, beginning=start)
            engine.begin()
            made = engine.generate([request] * rows, config)
            if turn:  # the first one warms up
                total, begun = made[0].seconds * rows, made[0].first_token_seconds * rows
                first.append(begun)
                written = max(len(m.ids) for m in made)
                if written > 1:
                    then.append((total - begun) / (written - 1 + made[0].ended))
        if not then:
            raise PragError(
                f"{base.name} ends its answers at once: nothing says how fast it writes"
            )
        return len(ids) - work.begins, statistics.median(first), statistics.median(then)

    most = max(use.contexts)
    bare, first_bare, a_token = timed(0, adapters=False)
    long, first_long, _ = timed(most, adapters=False)
    _, _, a_token_adapted = timed(0, adapters=True)
    few, many = (rows * reading(shape, n, work.begins).total for n in (bare, long))
    prefill = (many - few) / max(first_long - first_bare, 1e-9)
    width = float(base.model.get_input_embeddings().weight.element_size())
    halfway = work.begins + bare + use.answer_tokens / 2
    moved = pass_bytes(shape, width, rows, halfway) / a_token
    read = max(few / prefill, weights(shape) * width / moved)
    load = _loading(base, work, adapted, codec, use.top_k)
    n = f"of {rows} questions together, medians of 3"
    return {
        "prefill_flop_per_s": Figure(prefill, "measured", f"0 and {most} passages, {n}"),
        "memory_bytes_per_s": Figure(moved, "measured", f"writing closed-book, {n}"),
        "bytes_per_number": Figure(width, "measured", "as the model was loaded"),
        "question_s": Figure(max(0.0, first_bare - read), "measured", n),
        "adapted": Figure(max(1.0, a_token_adapted / a_token), "measured", n),
        "load_numbers_per_s": Figure(load, "measured", f"{use.top_k} adapters in {codec}"),
    }


def _loading(base: BaseModel, work: Workload, adapted: Adapted, codec: Codec, k: int) -> float:
    """Numbers a second of reading k adapters, merging them and putting them in."""
    adapter = _small(base, work, adapted)
    keys = [AdapterKey(f"{n:016x}", base.fingerprint, "0" * 16) for n in range(k)]
    with tempfile.TemporaryDirectory() as folder, AdapterStore.open(Path(folder)) as store:
        store.commit([StoredItem(key, adapter, "") for key in keys], adapted.sites, codec)

        def change() -> None:
            with injected(base, [merge([store.read(key) for key in keys])]):
                pass

        change()
        return k * adapted.numbers / statistics.median(_seconds(change) for _ in range(5))


def _small(base: BaseModel, work: Workload, adapted: Adapted) -> Adapter:
    """An adapter that changes nothing of what the model says."""
    generator = torch.Generator().manual_seed(0)
    return drawn(adapted.sites, work.recipe, base.dtype, generator)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began

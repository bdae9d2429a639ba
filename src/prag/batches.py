"""Lessons of many passages -> groups that train together -> the tensors of each step.

A row of a step is one passage: one of its sequences, or all of them as a tree (`prag.tree`).

Letters: N passages of a group, B = N rows of a step, T tokens, P tokens read before every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prag.config import Step
from prag.prompts import Example, Lesson
from prag.tree import grow, sight

TOKENS_A_STEP = 1024
"""Padded tokens of one training step: enough to keep two cores busy. With SmolLM2 a step takes 1 GB
of memory on top of the models with recipe `small`, 2 GB with `paper` (`prag bench encode`)."""


@dataclass(frozen=True)
class Batch:
    """The tensors of one training step, one row a passage, padded on the right.

    Args:
        ids: token ids [B, T].
        mask: 1 where a token is, 0 where padding is [B, T]; of trees what each token sees
            [B, T, P + T].
        rows, columns: the M positions whose next token is learnt [M] each.
        targets: those next tokens [M].
        weights: of each in the loss [M]: 1 / (learnt tokens of its sequence), so that every
            sequence counts its own mean, whatever else is in the batch.
        active: which of the N passages have a sequence in this step [N].
        tokens: how many there are in the rows, padding not counted.
        positions: of the tokens of trees [B, T]; None where they stand as they follow.
    """

    ids: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    active: Tensor
    tokens: int
    positions: Tensor | None = None


def group_lessons(
    lessons: Sequence[Lesson], tokens_a_step: int, skip: int = 0, step: Step = "sequence"
) -> list[list[Lesson]]:
    """Lessons of like length into groups that fit `tokens_a_step` padded tokens in a step.

    The groups depend on the lessons alone, not on the order they come in; without its first
    groups a corpus falls into the others, so a build that was stopped goes on with the groups it
    would have had. A lesson longer than the budget is a group of its own.

    Args:
        tokens_a_step: padded tokens that the rows of a step may have.
        skip: tokens at the beginning of every example that the rows are without.
        step: what one step learns of a passage.
    """

    def form(le: Lesson) -> tuple[int, int]:
        """The steps of an epoch, and the most tokens that its row has in one."""
        if step == "passage":
            return 1, len(grow(le.examples, skip).ids)
        return len(le.examples), max((len(e.ids) for e in le.examples), default=0) - skip

    ordered = sorted(((*form(le), le.passage_id, le) for le in lessons), key=lambda row: row[:3])
    groups: list[list[Lesson]] = []
    steps = 0  # of the last group
    for count, longest, _, le in ordered:
        if groups and count == steps and (len(groups[-1]) + 1) * longest <= tokens_a_step:
            groups[-1].append(le)
        else:
            groups.append([le])
            steps = count
    return groups


def epoch_tokens(lesson: Lesson, skip: int = 0, step: Step = "sequence") -> int:
    """Tokens that the rows of a passage have in all steps of an epoch."""
    if step == "passage":
        return len(grow(lesson.examples, skip).ids)
    return lesson.tokens - skip * len(lesson.examples)


def make_batches(
    lessons: Sequence[Lesson],
    pad_id: int,
    device: torch.device,
    skip: int = 0,
    step: Step = "sequence",
) -> list[Batch]:
    """The steps of an epoch of passages that train together; arguments as of `group_lessons`."""
    if step == "passage":
        return [_of_trees(lessons, pad_id, device, skip)]
    longest = max(len(lesson.examples) for lesson in lessons)
    return [
        make_batch(
            [le.examples[index] if index < len(le.examples) else None for le in lessons],
            pad_id,
            device,
            skip,
        )
        for index in range(longest)
    ]


def make_batch(
    examples: Sequence[Example | None], pad_id: int, device: torch.device, skip: int = 0
) -> Batch:
    """The tensors of a step in which passage n learns `examples[n]` (None: it has no more).

    Args:
        skip: tokens at the beginning of every example that are left out of the rows, as they were
            read before. What they themselves predict is not learnt, but counts in the mean.
    """
    length = max(len(e.ids) for e in examples if e is not None) - skip
    ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    mask = torch.zeros(len(examples), length, dtype=torch.long)
    rows, columns, targets, weights = [], [], [], []
    for row, example in enumerate(examples):
        if example is None:
            mask[row, 0] = 1  # a row must see one token, or its attention is 0 / 0
            continue
        size = len(example.ids)
        ids[row, : size - skip] = torch.tensor(example.ids[skip:])
        mask[row, : size - skip] = 1
        counted = size - max(1, example.learn_from)
        learnt = range(max(1 + skip, example.learn_from), size)
        rows += [row] * len(learnt)
        columns += [t - 1 - skip for t in learnt]
        targets += [example.ids[t] for t in learnt]
        weights += [1.0 / counted] * len(learnt)
    return Batch(
        ids.to(device),
        mask.to(device),
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(weights, dtype=torch.float64, device=device),
        torch.tensor([e is not None for e in examples], device=device),
        sum(len(e.ids) - skip for e in examples if e is not None),
    )


def _of_trees(lessons: Sequence[Lesson], pad_id: int, device: torch.device, skip: int) -> Batch:
    """The tensors of a step in which every passage learns all its examples."""
    trees = [grow(lesson.examples, skip) for lesson in lessons]
    length = max(len(tree.ids) for tree in trees)
    ids = torch.full((len(trees), length), pad_id, dtype=torch.long)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)] = torch.tensor(tree.ids)
    seen, positions = sight(trees, length, skip)
    learnt = [(row, *at, w) for row, tree in enumerate(trees) for at, w in tree.learnt.items()]
    rows, columns, targets, weights = zip(*learnt, strict=True)
    return Batch(
        ids.to(device),
        seen.to(device),
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(weights, dtype=torch.float64, device=device),
        torch.ones(len(trees), dtype=torch.bool, device=device),
        sum(len(tree.ids) for tree in trees),
        positions.to(device),
    )

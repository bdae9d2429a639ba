"""Lessons of many passages -> groups that train together -> the tensors of each step.

Letters: N passages of a group, S sequences of a passage in one step, B = N S rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prag.prompts import Example, Lesson

TOKENS_A_STEP = 1024
"""Padded tokens of one training step: enough to keep two cores busy. With SmolLM2 a step takes 1 GB
of memory on top of the models with recipe `small`, 2 GB with `paper` (`prag bench encode`)."""


@dataclass(frozen=True)
class Batch:
    """The tensors of one training step, one row a sequence, padded on the right.

    Args:
        ids: token ids [B, T].
        mask: 1 where a token is, 0 where padding is [B, T].
        rows, columns: the M positions whose next token is learnt [M] each.
        targets: those next tokens [M].
        weights: of each in the loss [M]: 1 / (learnt tokens of its sequence), so that every
            sequence counts its own mean, whatever else is in the batch.
        active: which of the N passages have a sequence in this step [N].
        tokens: how many there are in the rows, padding not counted.
    """

    ids: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    active: Tensor
    tokens: int


def group_lessons(
    lessons: Sequence[Lesson], tokens_a_step: int, skip: int = 0
) -> list[list[Lesson]]:
    """Lessons of like length into groups that fit `tokens_a_step` padded tokens in a step.

    The groups depend on the lessons alone, not on the order they come in; without its first
    groups a corpus falls into the others, so a build that was stopped goes on with the groups it
    would have had. A lesson longer than the budget is a group of its own.

    Args:
        tokens_a_step: padded tokens that the rows of a step may have.
        skip: tokens at the beginning of every example that the rows are without.
    """
    ordered = sorted(lessons, key=lambda le: (len(le.examples), _longest(le), le.passage_id))
    groups: list[list[Lesson]] = []
    for le in ordered:
        fits = (
            groups
            and len(groups[-1][0].examples) == len(le.examples)
            and (len(groups[-1]) + 1) * (_longest(le) - skip) <= tokens_a_step
        )
        if fits:
            groups[-1].append(le)
        else:
            groups.append([le])
    return groups


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


def _longest(lesson: Lesson) -> int:
    return max((len(e.ids) for e in lesson.examples), default=0)

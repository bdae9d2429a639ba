"""The sequences of a passage as one: what they begin with alike stands there once.

Where all sequences of a passage are learnt in one step (`train.step = "passage"`), the instruction
and the passage before its questions are the same tokens in the same places. Under a causal mask
what a token computes depends on the tokens before it alone, so a shared beginning may be computed
once, forward and backward, with each sequence going on from it: a tree of tokens, each of which
sees those between the root and itself. Its loss is the sum of the sequences' own, so the gradients
are those of the separate sequences, added up.

Letters: T tokens of the tree, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prag.prompts import Example


@dataclass(frozen=True)
class Tree:
    """A passage's sequences, each token that several share once.

    Args:
        ids: of the tokens [T], each behind the one that it follows.
        parents: the place [T] of the token that each follows, -1 at the beginning.
        learnt: what is learnt behind a token, by its place and the token that is to come, with its
            weight in the loss.
    """

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    learnt: dict[tuple[int, int], float]


def grow(examples: Sequence[Example], skip: int = 0) -> Tree:
    """The tree of some sequences.

    Each counts the mean over its own learnt tokens; a token that several learn in one place counts
    as much as it does in all of them.

    Args:
        skip: tokens at the beginning of every example that are left out, as they were read before.
            What they themselves predict is not learnt, but counts in the mean.
    """
    ids: list[int] = []
    parents: list[int] = []
    after: dict[tuple[int, int], int] = {}  # the place of a token that follows a place
    learnt: dict[tuple[int, int], float] = {}
    for example in examples:
        weight = 1.0 / (len(example.ids) - max(1, example.learn_from))
        here = -1
        for t in range(skip, len(example.ids)):
            token = example.ids[t]
            if t >= max(1 + skip, example.learn_from):
                learnt[here, token] = learnt.get((here, token), 0.0) + weight
            place = after.setdefault((here, token), len(ids))
            if place == len(ids):
                ids.append(token)
                parents.append(here)
            here = place
    return Tree(tuple(ids), tuple(parents), learnt)


def sight(trees: Sequence[Tree], length: int, before: int = 0) -> tuple[Tensor, Tensor]:
    """What each token of B rows sees, and where in its sequence it stands.

    Args:
        length: T, to which the rows are padded on the right; padding sees itself alone.
        before: P, tokens that were read before every row: all see them.

    Returns:
        True where row b's token t sees position p [B, T, P + T]; positions [B, T].
    """
    seen = torch.zeros(len(trees), length, before + length, dtype=torch.bool)
    places = torch.zeros(len(trees), length, dtype=torch.long)
    own = torch.arange(length)
    seen[:, own, before + own] = True
    seen[:, :, :before] = True
    for row, tree in enumerate(trees):
        depth: list[int] = []
        for t, parent in enumerate(tree.parents):
            depth.append(before if parent < 0 else depth[parent] + 1)
            if parent >= 0:
                seen[row, t] |= seen[row, parent]
        places[row, : len(depth)] = torch.tensor(depth)
    return seen, places

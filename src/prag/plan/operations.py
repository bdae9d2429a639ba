"""Operations of the passes that a build and an answer make, by formula.

An operation is a multiplication or an addition, as torch counts them: a product of [M, K] and
[K, N] has 2 M K N. Counted are matrix products (linear maps, adapters, filters, logits) and the two
products of attention, which the torch counter leaves out where attention is fused on a processor.

Letters: N passages of a group, T tokens of a row, P tokens read before, M learnt tokens, r rank,
I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prag.plan.shape import Adapted, Shape
from prag.prompts import Lesson


@dataclass(frozen=True)
class Operations:
    """Of matrix products, and of attention's own (scores, and values weighed by them)."""

    products: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.products + self.attention

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.products + other.products, self.attention + other.attention)


def training_steps(
    shape: Shape, adapted: Adapted, lessons: Sequence[Lesson], begins: int, epochs: int
) -> list[Operations]:
    """Operations of every step of `prag.encode.encode_group`, forward and backward, in order.

    Every passage of a group has a row in every step, one that rests too, since the rows are padded.

    Args:
        begins: P, tokens at the beginning of every sequence that were read before.
        epochs: the first runs every layer, the others those from the lowest adapted one on.
    """
    steps = []
    for epoch in range(epochs):
        for index in range(max(len(le.examples) for le in lessons)):
            there = [le.examples[index] for le in lessons if index < len(le.examples)]
            T = max(len(e.ids) for e in there) - begins
            M = sum(len(e.ids) - max(1 + begins, e.learn_from) for e in there)
            below = 0 if epoch else adapted.first
            steps.append(_step(shape, adapted, len(lessons), T, begins, M, below))
    return steps


def finishing(adapted: Adapted, passages: int) -> Operations:
    """Of what a group does after its last step: the filter of each finished A."""
    return Operations(_filtering(adapted, passages))


def reading(shape: Shape, tokens: float, begins: float, low: float = 0.0) -> Operations:
    """Operations of reading a prompt and of the logits of its last token.

    Args:
        tokens: of the prompt, those that were not read before.
        begins: P, those that were.
        low: multiply-adds a token of the adapters in the weights (`low_rank`).
    """
    products = 2 * tokens * (shape.layers * shape.linear + low)
    products += 2 * shape.hidden * shape.vocabulary
    attention = shape.layers * _attention(shape, tokens, begins + tokens)
    return Operations(products, attention)


def low_rank(adapted: Adapted, k: int) -> int:
    """Multiply-adds a token that the merged adapters of k passages add."""
    return k * adapted.numbers


def _step(shape: Shape, adapted: Adapted, N: int, T: int, P: int, M: int, below: int) -> Operations:
    upper = shape.layers - adapted.first
    tokens = N * T
    forward = 2 * tokens * shape.linear * (below + upper)
    # Down to the lowest adapted layer, where only the maps behind its own adapters pass it on.
    behind = sum(i * o for i, o in shape.feed_forward if i != shape.hidden)
    backward = 2 * tokens * (shape.linear * (upper - 1) + behind)
    low = sum(i + o for i, o in adapted.maps) * adapted.rank  # a layer, a token
    reads = sum(i for i, _ in adapted.maps if i == shape.hidden) * adapted.rank
    forward += 2 * tokens * low * upper
    backward += 2 * tokens * (2 * low * upper - reads)  # of factors and of inputs
    filters = 2 * _filtering(adapted, N)
    logits = 2 * 2 * M * shape.hidden * shape.vocabulary
    once = N * _attention(shape, T, P + T)
    attention = once * (below + upper) + 2 * once * (upper - 1)
    return Operations(forward + backward + filters + logits, attention)


def _filtering(adapted: Adapted, N: int) -> float:
    if not adapted.quiet:
        return 0.0
    return 2.0 * N * adapted.rank * sum(site.inputs**2 for site in adapted.sites)


def _attention(shape: Shape, queries: float, keys: float) -> float:
    """Of one layer and one row: scores, and the values that they weigh."""
    return 2 * 2 * shape.heads * shape.head_dim * queries * keys

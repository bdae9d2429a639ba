"""What is looked at while a continuation is made: how sure the model was, and where it looked.

Letters: B rows, T tokens of a prompt, n new ones, V words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prag.model import BaseModel
from prag.records import PragError

Watch = Literal["nothing", "confidence", "attention"]
"""What is looked at while a continuation is made: each kind includes those before it."""


@dataclass(frozen=True)
class Trace:
    """What was seen while n tokens were made after a prompt of T.

    Args:
        probabilities: of each new token when it was chosen, without temperature.
        entropies: in nats, of the distribution that each new token was chosen from; nothing from an
            engine that tells of the chosen tokens alone.
        attention: [n, T + n] or None: row i is what new token i, as a query, pays to each position
            up to itself in the last layer, averaged over its heads. A last token that nothing was
            made after was never a query: its row is zero.
        end: the probability of the end token; nothing where a limit or `until` ended it.
    """

    probabilities: tuple[float, ...]
    entropies: tuple[float, ...]
    attention: Tensor | None = None
    end: tuple[float, ...] = ()


def trace_of(
    logits: Sequence[Tensor],
    written: Sequence[int],
    queries: Sequence[Tensor],
    prompt: int,
    n: int,
) -> Trace:
    """The trace of a row.

    Args:
        written: its n new tokens, and the end token if the model came to it.
        queries: attention [T + i] of the query of each step i.
    """
    chosen: list[float] = []
    entropies: list[float] = []
    if written:
        logs = torch.log_softmax(torch.stack(list(logits)), dim=-1)  # [n or n + 1, V]
        entropies = (-(logs.exp() * logs).nan_to_num().sum(-1)).tolist()
        chosen = logs[torch.arange(len(written)), torch.tensor(written)].exp().tolist()
    attention = None
    if queries:
        attention = torch.zeros(n, prompt + n)
        # Step 0 has the last prompt token as its query, step i the new token i - 1.
        for i, query in enumerate(queries[1 : n + 1]):
            attention[i, : prompt + i + 1] = query.float().cpu()
    return Trace(tuple(chosen[:n]), tuple(entropies[:n]), attention, tuple(chosen[n:]))


@contextmanager
def last_attention(base: BaseModel) -> Iterator[list[Tensor]]:
    """Within the block, the attention of each forward pass's last query in the last layer.

    The model computes its attention plainly meanwhile, since fused kernels give no weights.

    Returns:
        A list that grows by one tensor [B, keys] a pass, averaged over the heads.

    Raises:
        PragError: the model's last layer has no module `self_attn`, or it is in float64.
    """
    layer = getattr(base.model.get_decoder(), "layers", [None])[-1]
    module = getattr(layer, "self_attn", None)
    if module is None:
        raise PragError(
            f"the last layer of {base.name!r} has no self_attn whose attention could be read; a "
            "method that retrieves by attention (dragin) cannot be used with it"
        )
    if base.dtype == torch.float64:
        # Plain attention takes its softmax in float32, where float64's mask of padding is -inf
        # and gives NaN.
        raise PragError(f"{base.name!r} is in float64: load it in float32 to read its attention")
    seen: list[Tensor] = []

    def keep(_: Any, __: Any, output: tuple[Tensor, Tensor]) -> None:
        seen.append(output[1][:, :, -1].mean(dim=1))  # [B, heads, queries, keys] -> [B, keys]

    usual = base.model.config._attn_implementation
    base.model.set_attn_implementation("eager")
    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
        base.model.set_attn_implementation(usual)


def pieces_of(base: BaseModel, ids: Sequence[int]) -> tuple[str, ...]:
    """The parts of the decoded text that the tokens make; joined they are the text.

    A token that ends within a character has an empty part, the one that completes it the whole.
    """
    pieces, before = [], ""
    for n in range(1, len(ids) + 1):
        text = base.tokenizer.decode(ids[:n], skip_special_tokens=False)
        if text.endswith("\ufffd") and n < len(ids):
            text = before
        pieces.append(text[len(before) :])
        before = text
    return tuple(pieces)

"""The control of forgetting: what adapters cost of what the model could do without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prag.inject import injected
from prag.lora import Merged
from prag.model import BaseModel, logits_of
from prag.prompts import text_ids

ADAPTER_SETS = 20
"""Sets of adapters, each that of one question, whose perplexity is measured."""


def perplexity(base: BaseModel, texts: Sequence[str], adapters: Merged | None) -> float:
    """exp of the mean next-token cross-entropy over all tokens of the texts, each read alone.

    Args:
        adapters: in the weights meanwhile, or None for the base model.
    """
    rows = [text_ids(base.tokenizer, text) for text in texts]
    T = max(map(len, rows))
    ids = torch.full((len(rows), T), base.tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), T, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row)
        mask[b, : len(row)] = 1
    ids, mask = ids.to(base.device), mask.to(base.device)
    with torch.no_grad(), injected(base, [adapters] * len(rows)):
        hidden = base.model.get_decoder()(ids, attention_mask=mask, use_cache=False)[0]
        learnt = mask[:, 1:].bool()  # [B, T - 1]
        logits = logits_of(base, hidden[:, :-1][learnt]).float()  # [M, V]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learnt])
    return float(loss.exp())

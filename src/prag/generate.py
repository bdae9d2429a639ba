"""Engines: what generates. They know tokens and adapters, nothing of retrieval.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from prag.config import GenerateConfig
from prag.inject import injected
from prag.lora import Merged
from prag.model import BaseModel
from prag.records import PragError


@dataclass(frozen=True)
class Request:
    """One prompt [T] and the adapters that are in the weights while it is answered, if any."""

    ids: tuple[int, ...]
    adapters: Merged | None = None


@dataclass(frozen=True)
class Generated:
    """What a request gave: new tokens without the end token, and their text.

    `seconds` is the time of its batch divided by the rows of the batch.
    """

    text: str
    ids: tuple[int, ...]
    seconds: float


class Engine(Protocol):
    """Anything that answers requests, each with its own adapters, in the order given."""

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """The continuation of each request."""


class TransformersEngine:
    """Generation in process, by transformers, rows of one batch with different adapters."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """Continue each prompt. Prompts of like length share a batch, whatever their adapters.

        Raises:
            PragError: a prompt is empty, or it and its answer do not fit the model's context.
        """
        for request in requests:
            if not request.ids:
                raise PragError("a prompt without tokens cannot be continued")
            if len(request.ids) + config.max_new_tokens > self.base.context:
                raise PragError(
                    f"a prompt of {len(request.ids)} tokens and {config.max_new_tokens} new ones "
                    f"do not fit the model's context of {self.base.context}: give fewer passages "
                    "(top-k) or shorter ones"
                )
        results: dict[int, Generated] = {}
        for chosen in batches_of_like_length([len(r.ids) for r in requests], config.rows):
            made = self._batch([requests[i] for i in chosen], config)
            results.update(zip(chosen, made, strict=True))
        return [results[i] for i in range(len(requests))]

    def _batch(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        base, began = self.base, time.perf_counter()
        ids, mask = left_padded([r.ids for r in requests], base)  # [B, T] each
        with torch.no_grad(), injected(base, [r.adapters for r in requests]), seeded(config.seed):
            out = base.model.generate(  # [B, T + new]
                ids,
                attention_mask=mask,
                generation_config=generation_config(base, config),
            )
        seconds = (time.perf_counter() - began) / len(requests)
        return [self._generated(row, seconds) for row in out[:, ids.shape[1] :].tolist()]

    def _generated(self, row: list[int], seconds: float) -> Generated:
        ends = end_ids(self.base)
        new = []
        for token in row:
            if token in ends:
                break
            new.append(token)
        text = self.base.tokenizer.decode(new, skip_special_tokens=True)
        return Generated(text, tuple(new), seconds)


def batches_of_like_length(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Indices in batches of up to `rows`, at most a fifth of whose tokens are padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        grown = [*batches[-1], index] if batches else []
        whole = len(grown) * lengths[index]
        if grown and len(grown) <= rows and 5 * sum(lengths[i] for i in grown) >= 4 * whole:
            batches[-1] = grown
        else:
            batches.append([index])
    return batches


def left_padded(rows: Sequence[Sequence[int]], base: BaseModel) -> tuple[Tensor, Tensor]:
    """Prompts as one batch [B, T], padded so that all end together; the mask is 0 at padding."""
    T, pad = max(map(len, rows)), base.tokenizer.pad_token_id
    ids = [[pad] * (T - len(row)) + list(row) for row in rows]
    mask = [[0] * (T - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=base.device), torch.tensor(mask, device=base.device)


def end_ids(base: BaseModel) -> set[int]:
    """The tokens that end an answer: the model's own, and the tokenizer's end token."""
    ends = base.model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {e for e in (*listed, base.tokenizer.eos_token_id) if e is not None}


def generation_config(base: BaseModel, config: GenerateConfig, **more: Any) -> Any:
    """The transformers configuration of these settings; nothing else of the model's own counts."""
    from transformers import GenerationConfig

    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
        }
    return GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        eos_token_id=sorted(end_ids(base)) or None,
        pad_token_id=base.tokenizer.pad_token_id,
        **sampling,
        **more,
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Sampling from a seed, the caller's random state restored afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

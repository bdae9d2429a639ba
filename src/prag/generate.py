"""Engines: what generates. They know tokens and adapters, nothing of retrieval.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from prag.config import GenerateConfig
from prag.inject import injected
from prag.lora import Merged
from prag.model import BaseModel
from prag.prefixes import (
    MOST_BYTES,
    SHORTEST,
    Prefix,
    Prefixes,
    common,
    joined,
    longer,
    old_cache_name,
    read,
    read_row,
)
from prag.records import PragError
from prag.trace import Trace, Watch, last_attention, pieces_of, trace_of

Until = Callable[[str], bool]
"""Told the text of a continuation after each token; true ends it there."""


@dataclass(frozen=True)
class Request:
    """One prompt [T] and the adapters that are in the weights while it is answered, if any.

    `max_new_tokens` goes before the engine's setting; `until` ends the continuation early;
    `watch` asks for a `Trace`; `again` says that a later prompt will begin alike. `beginning` was
    read by the base model alone; as much of it as the prompt begins with is not read again, and the
    adapters add nothing to it.
    """

    ids: tuple[int, ...]
    adapters: Merged | None = None
    max_new_tokens: int | None = None
    until: Until | None = None
    watch: Watch = "nothing"
    again: bool = False
    beginning: Prefix | None = None


@dataclass(frozen=True)
class Generated:
    """What a request gave: new tokens without the end token, and their text.

    `seconds` is the time of its batch divided by the rows of the batch, and
    `first_token_seconds` the part of it before the first token was there. `ended` says that the
    model ended it, not a limit or `until`. `pieces`, given with a trace, are the parts of `text`
    that the tokens make.
    """

    text: str
    ids: tuple[int, ...]
    seconds: float
    first_token_seconds: float = 0.0
    ended: bool = True
    trace: Trace | None = None
    pieces: tuple[str, ...] = ()


class Engine(Protocol):
    """Anything that answers requests, each with its own adapters, in the order given."""

    def begin(self) -> None:
        """Other questions come now: nothing is used of what was read for earlier ones."""

    def check(self, request: Request, config: GenerateConfig) -> None:
        """Refuse a request that cannot be answered; a `PragError` says why."""

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """The continuation of each request."""


class TransformersEngine:
    """Generation in process, by transformers, rows of one batch with different adapters."""

    def __init__(self, base: BaseModel, prefix_bytes: int = MOST_BYTES) -> None:
        """Serve a base model.

        Args:
            prefix_bytes: memory for the beginnings of prompts that are read again (`prefixes`).
        """
        self.base = base
        self.prefixes = Prefixes(base, prefix_bytes)

    def begin(self) -> None:
        """Forget beginnings of prompts, so that no answer depends on what was asked before it.

        Not even by rounding: a run that was stopped gives the answers of one that was not.
        """
        self.prefixes.clear()

    def check(self, request: Request, config: GenerateConfig) -> None:
        """Refuse what does not fit.

        Raises:
            PragError: the prompt is empty, or it and its answer do not fit the model's context.
        """
        check_length(request, config, self.base.context)

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """Continue each prompt. Prompts of like length share a batch, whatever their adapters.

        Raises:
            PragError: as of `check`, for any of them.
        """
        for request in requests:
            self.check(request, config)
        self._read_shared([r.ids for r in requests if r.again and r.adapters is None])
        begun = [self._read_before(r) for r in requests]
        left = [len(r.ids) - len(p.ids if p else ()) for r, p in zip(requests, begun, strict=True)]
        results: dict[int, Generated] = {}
        kinds: dict[tuple[int, Watch], list[int]] = {}
        for i, r in enumerate(requests):
            kinds.setdefault((r.max_new_tokens or config.max_new_tokens, r.watch), []).append(i)
        for (new, watch), members in kinds.items():
            for chosen in batches_of_like_length([left[i] for i in members], config.rows):
                batch = [members[j] for j in chosen]
                settings = replace(config, max_new_tokens=new)
                made = self._batch(
                    [requests[i] for i in batch], [begun[i] for i in batch], settings, watch
                )
                results.update(zip(batch, made, strict=True))
        return [results[i] for i in range(len(requests))]

    def _read_before(self, request: Request) -> Prefix | None:
        """The longest beginning of a prompt that need not be read again."""
        kept = self.prefixes.find(request.ids) if request.adapters is None else None
        return longer(kept, request.beginning, request.ids)

    def _read_shared(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Read what all prompts begin with once, before they are read side by side."""
        ids = common(prompts)
        if len(prompts) < 2 or len(ids) < SHORTEST or not self.prefixes.most_bytes:
            return
        known = self.prefixes.find((*ids, 0))
        if known is None or len(known.ids) < len(ids):
            self.prefixes.keep(read(self.base, ids))

    def _batch(
        self,
        requests: Sequence[Request],
        prefixes: Sequence[Prefix | None],
        config: GenerateConfig,
        watch: Watch,
    ) -> list[Generated]:
        base = self.base
        cache, P = joined(base, prefixes)
        begun = [p.ids if p else () for p in prefixes]
        rest = [r.ids[len(b) :] for r, b in zip(requests, begun, strict=True)]
        ids, mask = left_padded(rest, base)  # [B, R] each
        if P:  # padding may stand before the prefix and behind it: the mask says what is read
            ids, mask = (
                torch.cat([a, b], dim=1)
                for a, b in zip(left_padded(begun, base), (ids, mask), strict=True)
            )  # [B, P + R] each
        T = ids.shape[1]
        stop = _Stop(base, T, [r.until for r in requests])
        attending: AbstractContextManager[list[Tensor]] = (
            last_attention(base) if watch == "attention" else nullcontext([])
        )
        began = time.perf_counter()
        with (
            torch.no_grad(),
            injected(base, [r.adapters for r in requests]),
            seeded(config.seed),
            attending as attention,
            old_cache_name(),
        ):
            out = base.model.generate(
                ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=generation_config(
                    base, config, output_logits=watch != "nothing", return_dict_in_generate=True
                ),
                stopping_criteria=[stop],
            )
        rows = len(requests)
        seconds = (time.perf_counter() - began) / rows
        first = (stop.first_token_at - began) / rows
        made = []
        for b, row in enumerate(out.sequences[:, T:].tolist()):
            new, ended = cut(row[: stop.length[b]], end_ids(base))
            trace: Trace | None = None
            pieces: tuple[str, ...] = ()
            if watch != "nothing":
                logits = [step[b].float() for step in out.logits[: len(new) + ended]]
                written = row[: len(new) + ended]
                seen = mask[b].nonzero()[:, 0]  # [T of the prompt]
                queries = [torch.cat([step[b][seen], step[b][T:]]) for step in attention]
                trace = trace_of(logits, written, queries, len(requests[b].ids), len(new))
                pieces = pieces_of(base, new)
            if requests[b].again and requests[b].adapters is None and self.prefixes.most_bytes:
                read_on = (*requests[b].ids, *new[: cache.get_seq_length() - T])
                where = torch.cat([mask[b], mask.new_ones(len(new))]).nonzero()[: len(read_on), 0]
                self.prefixes.keep(read_row(cache, b, where, read_on))
            text = base.tokenizer.decode(new, skip_special_tokens=True)
            made.append(Generated(text, tuple(new), seconds, first, ended, trace, pieces))
        return made


def check_length(request: Request, config: GenerateConfig, context: int) -> None:
    """Refuse a prompt that, with its answer, does not fit a context of so many tokens.

    Raises:
        PragError: it does not fit, or is empty.
    """
    if not request.ids:
        raise PragError("a prompt without tokens cannot be continued")
    new = request.max_new_tokens or config.max_new_tokens
    if len(request.ids) + new > context:
        raise PragError(
            f"a prompt of {len(request.ids)} tokens and {new} new ones do not fit the model's "
            f"context of {context}: give fewer passages (top-k) or shorter ones"
        )


class _Stop:
    """Ends rows whose `until` says so, and notes when the first token came.

    A stopping criterion of transformers is any callable of ids [B, T + new] and scores.
    """

    def __init__(self, base: BaseModel, prompt: int, untils: Sequence[Until | None]) -> None:
        self.base, self.prompt, self.untils = base, prompt, untils
        self.first_token_at = time.perf_counter()
        self.length: list[int | None] = [None] * len(untils)
        self._begun = False

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if not self._begun:
            self.first_token_at, self._begun = time.perf_counter(), True
        new = ids.shape[1] - self.prompt
        for b, until in enumerate(self.untils):
            if until is None or self.length[b] is not None:
                continue
            text = self.base.tokenizer.decode(ids[b, self.prompt :], skip_special_tokens=True)
            if until(text):
                self.length[b] = new
        stopped = [length is not None for length in self.length]
        return torch.tensor(stopped, device=ids.device)  # [B]


def cut(row: list[int], ends: set[int]) -> tuple[list[int], bool]:
    """The new tokens before the first end token, and whether there was one."""
    for at, token in enumerate(row):
        if token in ends:
            return row[:at], True
    return row, False


def batches_of_like_length(lengths: Sequence[int], rows: int, spare: int = 0) -> list[list[int]]:
    """Indices in batches of up to `rows`; a fifth of the tokens, or `spare`, may be padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        grown = [*batches[-1], index] if batches else []
        whole = len(grown) * lengths[index]
        padding = whole - sum(lengths[i] for i in grown)
        if grown and len(grown) <= rows and (5 * padding <= whole or padding <= spare):
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

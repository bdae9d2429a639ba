"""Rows that come and go: one forward pass makes the next token of every answer under way.

A question that is answered leaves its place to one that waits, whose prompt is read while the
others stand still. Each row has adapters of its own, its own number of tokens before it, and draws
from its own seed, so what it becomes does not depend on the rows beside it, up to rounding.

Letters: B rows, T positions of the longest row, R tokens of a prompt that are read, V words.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from prag.config import GenerateConfig
from prag.generate import (
    Generated,
    Request,
    batches_of_like_length,
    check_length,
    end_ids,
    left_padded,
)
from prag.inject import hooked
from prag.lora import stack_rows
from prag.model import BaseModel
from prag.prefixes import (
    MOST_BYTES,
    Prefix,
    Prefixes,
    attends_to_all,
    joined,
    longer,
    old_cache_name,
    read_row,
)
from prag.records import PragError
from prag.trace import Trace, pieces_of, trace_of

Result = TypeVar("Result")

GATHER = 4
"""Passes between two times that rows are let in: several prompts are read in less time together."""

SPARE = 32
"""Tokens of padding that cost less than another pass over the weights."""


@dataclass(eq=False)
class Row:
    """A request under way: the tokens that were made, and what will come of it."""

    request: Request
    config: GenerateConfig
    made: Future[Generated] = field(default_factory=Future)
    began: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None
    new: list[int] = field(default_factory=list)
    end: tuple[int, ...] = ()  # the end token, once the model has come to it
    logits: list[Tensor] = field(default_factory=list)  # of each token [V], if it is watched

    def __post_init__(self) -> None:
        self.generator: torch.Generator | None = None
        if self.config.temperature > 0:
            self.generator = torch.Generator().manual_seed(self.config.seed)

    @property
    def limit(self) -> int:
        """New tokens that it may have."""
        return self.request.max_new_tokens or self.config.max_new_tokens


class Rows:
    """The rows that are under way in a model. For one thread."""

    def __init__(self, base: BaseModel, prefix_bytes: int = 0) -> None:
        """No rows yet.

        Args:
            prefix_bytes: memory for prompts that were read, to be read on from (`prag.prefixes`).
        """
        self.base = base
        self.rows: list[Row] = []
        self.prefixes = Prefixes(base, prefix_bytes)
        self._ends = end_ids(base)
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=base.device)  # [B, T]
        self._factors: Mapping[str, tuple[Tensor, Tensor]] = {}

    def begun(self, request: Request) -> Prefix | None:
        """The longest beginning of a prompt that was read before."""
        kept = self.prefixes.find(request.ids) if request.adapters is None else None
        return longer(kept, request.beginning, request.ids)

    @torch.no_grad()
    def enter(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows side by side, and make the first token of each."""
        base = self.base
        begun = [self.begun(row.request) for row in rows]
        cache, P = joined(base, begun)
        before = [p.ids if p else () for p in begun]
        rest = [row.request.ids[len(b) :] for row, b in zip(rows, before, strict=True)]
        ids, mask = left_padded(rest, base)  # [B, R] each
        if P:
            mask = torch.cat([left_padded(before, base)[1], mask], dim=1)  # [B, P + R]
        factors = self._stacked(rows)
        logits = self._forward(ids, mask, cache, factors)
        for b, row in enumerate(rows):
            if row.request.adapters is None and self.prefixes.most_bytes:
                where = mask[b].nonzero()[:, 0]  # [T of the prompt]
                self.prefixes.keep(read_row(cache, b, where, row.request.ids))
        stays = self._say(rows, logits)
        if stays:
            self._join([rows[b] for b in stays], _chosen(cache, stays), mask[stays])

    @torch.no_grad()
    def step(self) -> None:
        """Make the next token of every row; rows that are done with it leave."""
        last = torch.tensor([[row.new[-1]] for row in self.rows], device=self.base.device)  # [B, 1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        logits = self._forward(last, self._mask, self._cache, self._factors)
        stays = self._say(self.rows, logits)
        if len(stays) < len(self.rows):
            self._keep(stays)

    def fail(self, error: Exception) -> None:
        """End every row with an error."""
        for row in self.rows:
            row.made.set_exception(error)
        self._keep([])

    def _forward(
        self,
        ids: Tensor,
        mask: Tensor,
        cache: Any,
        factors: Mapping[str, tuple[Tensor, Tensor]],
    ) -> Tensor:
        """The logits [B, V] after the last of ids [B, R], where mask [B, T] says what is there."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]  # [B, R]
        with hooked(self.base, factors, scale=1.0), old_cache_name():
            out = self.base.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def _say(self, rows: Sequence[Row], logits: Tensor) -> list[int]:
        """The next token of each row; returns which rows go on."""
        likeliest = logits.argmax(dim=1).tolist()  # [B]
        stays = []
        for b, row in enumerate(rows):
            if row.first_token_at is None:
                row.first_token_at = time.perf_counter()
            token = likeliest[b]
            if row.generator is not None:
                token = drawn(logits[b], row.config, row.generator)
            if row.request.watch != "nothing":
                row.logits.append(logits[b])
            if token in self._ends:
                row.end = (token,)
            else:
                row.new.append(token)
            if row.end or len(row.new) >= row.limit or self._over(row):
                row.made.set_result(self._generated(row))
            else:
                stays.append(b)
        return stays

    def _over(self, row: Row) -> bool:
        until = row.request.until
        return until is not None and until(self._text(row))

    def _text(self, row: Row) -> str:
        text: str = self.base.tokenizer.decode(row.new, skip_special_tokens=True)
        return text

    def _generated(self, row: Row) -> Generated:
        now = time.perf_counter()
        trace: Trace | None = None
        pieces: tuple[str, ...] = ()
        if row.request.watch != "nothing":
            n = len(row.new)
            trace = trace_of(row.logits, [*row.new, *row.end], [], len(row.request.ids), n)
            pieces = pieces_of(self.base, row.new)
        return Generated(
            text=self._text(row),
            ids=tuple(row.new),
            seconds=now - row.began,
            first_token_seconds=(row.first_token_at or now) - row.began,
            ended=bool(row.end),
            trace=trace,
            pieces=pieces,
        )

    def _stacked(self, rows: Sequence[Row]) -> dict[str, tuple[Tensor, Tensor]]:
        base = self.base
        return stack_rows([r.request.adapters for r in rows], base.dtype, base.device)

    def _join(self, rows: Sequence[Row], cache: Any, mask: Tensor) -> None:
        """Put rows [b, T of their own] beside those that are there, all ending together."""
        if self.rows:
            T = max(mask.shape[1], self._mask.shape[1])
            for old, new in zip(self._cache.layers, cache.layers, strict=True):
                new.keys = torch.cat([_left(old.keys, T), _left(new.keys, T)])  # [B, H, T, D]
                new.values = torch.cat([_left(old.values, T), _left(new.values, T)])
            mask = torch.cat([_left(m[:, :, None], T)[:, :, 0] for m in (self._mask, mask)])
        self.rows = [*self.rows, *rows]
        self._cache, self._mask = cache, mask
        self._factors = self._stacked(self.rows)

    def _keep(self, stays: Sequence[int]) -> None:
        """Let the other rows go, and the positions that only they had."""
        self.rows = [self.rows[b] for b in stays]
        if not self.rows:
            self._cache, self._factors = None, {}
            self._mask = self._mask[:0, :0]
            return
        mask = self._mask[list(stays)]
        positions = mask.any(dim=0).nonzero()[:, 0]  # [T]
        self._cache = _chosen(self._cache, stays, positions)
        self._mask = mask[:, positions]
        self._factors = self._stacked(self.rows)


class ContinuousEngine:
    """An engine that many threads may ask at once: their requests share its forward passes.

    A request's `until` is also asked before the first token, with an empty text, so that one
    whose asker has gone away is not begun. `Generated.seconds` counts from when the request came.
    """

    def __init__(
        self,
        base: BaseModel,
        rows: int = 32,
        seen: Callable[[int], None] | None = None,
        prefix_bytes: int = MOST_BYTES // 4,
    ) -> None:
        """Start the thread that the model runs in; `close` ends it.

        Args:
            rows: that may be under way at once. A model whose layers do not keep every position
                has them one at a time.
            seen: told the rows of each forward pass.
            prefix_bytes: memory for prompts that were read without adapters: the next one that
                begins alike, with the same passages say, is read on from there.
        """
        self.base = base
        self.most = rows if attends_to_all(base) else 1
        self._seen = seen or (lambda _: None)
        self._rows = Rows(base, prefix_bytes)
        self._waiting: deque[Row] = deque()
        self._between: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prag-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """Requests that are being answered."""
        return len(self._rows.rows)

    def begin(self) -> None:
        """Other questions come all the time: what was read for them stays, up to rounding."""

    def check(self, request: Request, config: GenerateConfig) -> None:
        """Refuse what cannot be answered.

        Raises:
            PragError: it does not fit the model's context, or asks for the model's attention.
        """
        check_length(request, config, self.base.context)
        if request.watch == "attention":
            raise PragError("a method that looks at attention is not answered beside others")

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """The continuation of each request; waits for them.

        Raises:
            PragError: as of `check`, for any of them; or the engine is closed.
        """
        for request in requests:
            self.check(request, config)
        rows = [Row(request, config) for request in requests]
        with self._changed:
            if self._closed:
                raise PragError("the engine is closed")
            self._waiting.extend(rows)
            self._changed.notify()
        return [row.made.result() for row in rows]

    def between(self, do: Callable[[], Result]) -> Result:
        """Do something with the model between two passes, when no adapters are in it.

        Raises:
            PragError: the engine is closed; or what `do` raises.
        """
        done: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise PragError("the engine is closed")
            self._between.append((do, done))
            self._changed.notify()
        return done.result()

    def close(self) -> None:
        """Finish what is under way, refuse what waits, and end the thread."""
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().made.set_exception(PragError("the engine is closed"))
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        since = 0  # passes since rows were let in
        while True:
            with self._changed:
                while not (self._waiting or self._between or self._rows.rows or self._closed):
                    self._changed.wait()
                if self._closed and not (self._rows.rows or self._between):
                    return
                between = [self._between.popleft() for _ in range(len(self._between))]
                room = self.most - len(self._rows.rows)
                if self._rows.rows and since < GATHER:
                    room = 0
                new = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            for do, done in between:
                try:
                    done.set_result(do())
                except Exception as error:  # noqa: BLE001  (the asker's to see)
                    done.set_exception(error)
            since = 0 if new else since + 1
            self._admit(new)
            if self._rows.rows:
                self._seen(len(self._rows.rows))
                try:
                    self._rows.step()
                except Exception as error:  # noqa: BLE001  (theirs to see, not this thread's end)
                    self._rows.fail(error)

    def _admit(self, new: Sequence[Row]) -> None:
        wanted = []
        for row in new:
            if row.request.until is not None and row.request.until(""):
                row.made.set_result(Generated("", (), time.perf_counter() - row.began, ended=False))
            else:
                wanted.append(row)
        begun = [self._rows.begun(row.request) for row in wanted]
        lengths = [
            len(row.request.ids) - len(p.ids if p else ())
            for row, p in zip(wanted, begun, strict=True)
        ]
        for chosen in batches_of_like_length(lengths, self.most, SPARE):
            group = [wanted[i] for i in chosen]
            try:
                self._rows.enter(group)
            except Exception as error:  # noqa: BLE001
                for row in group:
                    if not row.made.done():
                        row.made.set_exception(error)


def drawn(logits: Tensor, config: GenerateConfig, generator: torch.Generator) -> int:
    """A token drawn from logits [V] as the settings say, with transformers' own warpers."""
    from transformers import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    scores = TemperatureLogitsWarper(config.temperature)(None, logits[None].cpu())  # [1, V]
    if config.top_k:
        scores = TopKLogitsWarper(config.top_k)(None, scores)
    if config.top_p < 1:
        scores = TopPLogitsWarper(config.top_p)(None, scores)
    return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))


def _chosen(cache: Any, rows: Sequence[int], positions: Tensor | None = None) -> Any:
    """The cache with some rows, and some positions, alone."""
    index = torch.tensor(list(rows), device=cache.layers[0].keys.device)
    for layer in cache.layers:
        keys, values = layer.keys[index], layer.values[index]
        if positions is not None:
            keys, values = keys[:, :, positions], values[:, :, positions]
        layer.keys, layer.values = keys, values
    return cache


def _left(t: Tensor, T: int) -> Tensor:
    """Zeros before the positions (the last dimension but one) of a tensor, to T of them."""
    return torch.nn.functional.pad(t, (0, 0, T - t.shape[-2], 0))

"""The engine `vllm`: a vLLM server generates, each request with its own adapters.

The base model is loaded here as well, for its tokenizer and to make sure that the server serves
the same one. What passages add comes to the server as LoRA adapters (`vllm_server.Adapters`).
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from prag.config import GenerateConfig
from prag.generate import Generated, Request, check_length, cut, end_ids
from prag.lora import Merged
from prag.model import BaseModel
from prag.prompts import text_ids
from prag.records import EngineError, PragError
from prag.trace import Trace, pieces_of
from prag.vllm_server import Adapters, Served, Server

MOST_ADAPTERS = 64
"""Sets of adapters that the server has by name at a time."""

SAME_MODEL = 0.25
"""Nats by which the log-probabilities of a text may differ, at the mean, in the same model."""

_KNOWN_TEXT = (
    "The lighthouse on the northern shore was built of granite in 1887. Its lamp was lit every "
    "evening by the keeper, who wrote down the weather, the ships that passed, and the price of "
    "oil."
)


class VllmEngine:
    """Generation by a vLLM server, as `TransformersEngine` does it up to rounding.

    Adapters work on every token of a prompt, so `Request.beginning` counts for nothing. Where one
    adds something to it, by the rounding of a codec, answers may differ from those of the
    transformers engine by more than the rounding of sums. May be used from any thread.
    """

    def __init__(
        self,
        base: BaseModel,
        url: str,
        model: str | None = None,
        folder: str | Path | None = None,
        adapters: int = MOST_ADAPTERS,
        timeout: float = 600.0,
    ) -> None:
        """An engine; the server is spoken to when something is asked.

        Args:
            base: the model that the server serves.
            url: where the server is, up to `/v1`.
            model: the server's name of the base model; by default the only one it has.
            folder: where adapters are written, which the server sees by the same path; by default
                a temporary one, for a server on this machine.
            adapters: how many sets of adapters the server has by name at a time; the one used
                longest ago is taken out for a new one.
            timeout: seconds without a word from the server after which it is given up.

        Raises:
            PragError: httpx is not installed.
        """
        if adapters < 1:
            raise PragError("the server has at least 1 set of adapters at a time")
        self.base = base
        self._model = model
        self._server = Server(url, timeout)
        own = Path(tempfile.mkdtemp(prefix="prag-adapters-")) if folder is None else None
        self._adapters = Adapters(self._server, base.name, own or Path(folder or ""), adapters)
        self._salt = uuid4().hex
        # At the end of the program too: a server outlives those who use it.
        self._end = weakref.finalize(self, _close, self._server, self._adapters, own)

    def close(self) -> None:
        """Take the adapters from the server and delete their files. At exit this is done anyway."""
        self._end()

    def begin(self) -> None:
        """Let the server use nothing that it read for earlier questions.

        Raises:
            PragError: the server cannot be reached, or serves another model.
        """
        self._salt = uuid4().hex
        _ = self._served

    def check(self, request: Request, config: GenerateConfig) -> None:
        """Refuse what does not fit.

        Raises:
            PragError: the prompt is empty, or it and its answer do not fit the context of the
                model or the server; or attention is to be watched, which vLLM does not tell.
        """
        if request.watch == "attention":
            raise PragError(
                "the engine vllm does not tell what a model attends to: use a method that does not "
                "retrieve by attention (any but dragin), or the engine transformers"
            )
        check_length(request, config, min(self.base.context, self._served.context))

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """Continue each prompt; `config.rows` of them are at the server at a time.

        Raises:
            PragError: as of `check`, for any of them; or the server refuses or breaks off.
        """
        for request in requests:
            self.check(request, config)
        if not requests:
            return []
        began = time.perf_counter()
        made: dict[int, Generated] = {}
        # Those without adapters first, by themselves: beside rows with adapters vLLM on a processor
        # gives a row that has none another row's (its pull request 48421).
        plain = [i for i, request in enumerate(requests) if _adapters_of(request) is None]
        others = [i for i, request in enumerate(requests) if _adapters_of(request)]
        with ThreadPoolExecutor(min(config.rows, len(requests))) as pool:
            for part in (plain, others):
                done = pool.map(lambda i: self._one(requests[i], config, began), part)
                made.update(zip(part, done, strict=True))
        rows = len(requests)
        seconds = (time.perf_counter() - began) / rows
        return [
            replace(one, seconds=seconds, first_token_seconds=one.first_token_seconds / rows)
            for one in (made[i] for i in range(rows))
        ]

    def _one(self, request: Request, config: GenerateConfig, began: float) -> Generated:
        """One continuation; its first token is timed from `began`."""
        ids: list[int] = []
        logs: list[float] = []
        first = 0.0
        stopped: int | None = None  # the tokens that there were when `until` ended it
        adapters = _adapters_of(request)
        held = self._adapters.held(adapters) if adapters else nullcontext(self._served.name)
        with (
            held as name,
            closing(self._server.complete(self._body(request, config, name))) as pieces,
        ):
            for piece in pieces:
                if piece.ids and not ids:
                    first = time.perf_counter() - began
                logs += piece.logs
                for token in piece.ids:
                    ids.append(token)
                    if request.until is not None and stopped is None:
                        stopped = len(ids) if request.until(self._text(ids)) else None
                # With adapters it goes on to its end, unread: were it broken off, the server might
                # be at it still when the adapter's files are deleted.
                if stopped is not None and adapters is None:
                    break
        new, ended = cut(ids[:stopped], end_ids(self.base))
        trace: Trace | None = None
        parts: tuple[str, ...] = ()
        if request.watch == "confidence":
            chosen = [math.exp(log) for log in logs]
            trace = Trace(tuple(chosen[: len(new)]), (), end=tuple(chosen[len(new) :][:ended]))
            parts = pieces_of(self.base, new)
        return Generated(self._text(new), tuple(new), 0.0, first, ended, trace, parts)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(ids, skip_special_tokens=True))

    def _body(self, request: Request, config: GenerateConfig, name: str) -> dict[str, Any]:
        """The request as the server takes it; nothing of the server's own settings counts."""
        sampling: dict[str, Any] = {"temperature": 0.0}
        if config.temperature > 0:
            sampling = {
                "temperature": config.temperature,
                "top_k": config.top_k,
                "top_p": config.top_p,
                "seed": config.seed,
            }
        return {
            "model": name,
            "prompt": list(request.ids),
            "max_tokens": request.max_new_tokens or config.max_new_tokens,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,  # the server's idea of it; these are ours
            "stop_token_ids": sorted(end_ids(self.base)),
            "cache_salt": self._salt,
            **sampling,
            **({"logprobs": 0} if request.watch == "confidence" else {}),
        }

    @cached_property
    def _served(self) -> Served:
        """What the server serves, made sure of once: this base model reads a text as it does."""
        served = self._server.served(self._model)
        ids = tuple(text_ids(self.base.tokenizer, _KNOWN_TEXT))
        with torch.no_grad():
            logits = self.base.model(torch.tensor([ids], device=self.base.device)).logits[0]
        logs = torch.log_softmax(logits[:-1].double(), dim=-1).cpu()  # [T - 1, V]
        own = logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        theirs = torch.tensor(self._server.logs_of(served.name, ids), dtype=own.dtype)
        difference = float((own - theirs).abs().mean())
        if not difference <= SAME_MODEL:
            raise EngineError(
                f"the model {served.name!r} of the server {self._server.url} is not "
                f"{self.base.name!r}: the log-probabilities of a text differ by {difference:.2f} "
                f"at the mean, more than the {SAME_MODEL} of rounding. Adapters fit only the model "
                "they were trained on: serve that one"
            )
        return served


def _adapters_of(request: Request) -> Merged | None:
    """The adapters of a request; None also where it has a set of none."""
    return request.adapters if request.adapters is not None and request.adapters.factors else None


def _close(server: Server, adapters: Adapters, own: Path | None) -> None:
    with suppress(PragError):  # a server that is gone has forgotten them
        adapters.close()
    server.close()
    if own is not None:
        shutil.rmtree(own, ignore_errors=True)

"""The paper's augmentation: a model is asked for rewrites and for a JSON list of pairs.

The model is the base itself (`SelfJson`, JSON by constrained decoding) or any server that speaks
the OpenAI API (`Endpoint`, JSON by its `response_format`). The prompts have the structure of the
published ones, the wording is this project's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from prag.augment.checks import parse_pairs, take
from prag.config import AugmentConfig, GenerateConfig
from prag.generate import end_ids, generation_config, left_padded, seeded
from prag.model import BaseModel
from prag.prompts import chat_ids
from prag.records import Augmentation, Passage, PragError, QAPair, Reject


def rewrite_prompt(text: str) -> str:
    """Asks for one rewrite of a passage."""
    return (
        "Rewrite the passage below in other words. Keep every name, number and fact, and add "
        f"nothing. Give the new passage only.\n\nPassage: {text}"
    )


def pairs_prompt(text: str, pairs: int) -> str:
    """Asks for question-answer pairs about a passage, as a JSON list."""
    return (
        f"Write {pairs} different questions that the passage below answers, each with its answer. "
        "Name the subject in every question, so that it can be understood without the passage. "
        'Give a JSON list; every element is an object with the fields "question", "answer" (a '
        'short one) and "full_answer" (the answer as a whole sentence).\n\n'
        f"Passage: {text}"
    )


def pairs_schema(pairs: int) -> dict[str, Any]:
    """The JSON schema of exactly `pairs` pairs."""
    field = {"type": "string", "minLength": 1}
    return {
        "type": "array",
        "minItems": pairs,
        "maxItems": pairs,
        "items": {
            "type": "object",
            "properties": {"question": field, "answer": field, "full_answer": field},
            "required": ["question", "answer", "full_answer"],
            "additionalProperties": False,
        },
    }


def augment_by_asking(
    passages: Sequence[Passage],
    config: AugmentConfig,
    origin: str,
    ask: Callable[[list[str], dict[str, Any] | None, int], list[str]],
) -> list[Augmentation]:
    """Rewrites and pairs of each passage, each asked for up to `config.attempts` times.

    Args:
        ask: gives a text for each prompt, under a JSON schema if one is given, with a seed.
    """
    texts = [f"{p.title}\n{p.text}".strip() for p in passages]
    rewrites: list[list[str]] = [[] for _ in passages]
    pairs: list[list[QAPair]] = [[] for _ in passages]
    rejects: list[list[Reject]] = [[] for _ in passages]
    for attempt in range(config.attempts * max(1, config.rewrites)):
        todo = [i for i in range(len(passages)) if len(rewrites[i]) < config.rewrites]
        if not todo:
            break
        said = ask([rewrite_prompt(texts[i]) for i in todo], None, config.seed + attempt)
        for i, text in zip(todo, said, strict=True):
            if text.strip() and text.strip() not in rewrites[i]:
                rewrites[i].append(text.strip())
            else:
                rejects[i].append(Reject(text, "empty rewrite or one that was there"))
    schema = pairs_schema(config.pairs)
    for attempt in range(config.attempts):
        todo = [i for i in range(len(passages)) if len(pairs[i]) < config.pairs]
        if not todo:
            break
        prompts = [pairs_prompt(texts[i], config.pairs) for i in todo]
        for i, text in zip(todo, ask(prompts, schema, config.seed + attempt), strict=True):
            _take(text, passages[i], config.pairs, pairs[i], rejects[i])
    return [
        Augmentation(p.id, tuple(r), tuple(q), origin, tuple(x))
        for p, r, q, x in zip(passages, rewrites, pairs, rejects, strict=True)
    ]


def _take(
    text: str, passage: Passage, most: int, kept: list[QAPair], rejects: list[Reject]
) -> None:
    try:
        found = parse_pairs(text)
    except ValueError as error:
        rejects.append(Reject(text, str(error)))
        return
    take(found, passage, most, kept, rejects, grounded=False)


class SelfJson:
    """The paper's augmentation by the base model itself."""

    def __init__(self, base: BaseModel, config: AugmentConfig) -> None:
        import llguidance.hf

        self.base = base
        self.config = config
        self.origin = f"self:{base.fingerprint}"
        vocabulary = base.model.get_output_embeddings().weight.shape[0]
        self._tokens = llguidance.hf.from_tokenizer(base.tokenizer, n_vocab=vocabulary)

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The rewrites and pairs of each passage, in order."""
        return augment_by_asking(passages, self.config, self.origin, self._ask)

    def _ask(self, prompts: list[str], schema: dict[str, Any] | None, seed: int) -> list[str]:
        from transformers import LogitsProcessorList

        base = self.base
        rows = [chat_ids(base.tokenizer, prompt) for prompt in prompts]
        ids, mask = left_padded(rows, base)  # [B, T] each
        T = ids.shape[1]
        settings = GenerateConfig(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            top_k=self.config.top_k,
            seed=seed,
        )
        constrained = LogitsProcessorList()
        if schema is not None:
            # A weak model fills its room with white space where the grammar lets it.
            compact = {**schema, "x-guidance": {"whitespace_flexible": False}}
            constrained.append(_Constrained(self._tokens, compact, len(rows), T, end_ids(base)))
        with torch.no_grad(), seeded(seed):
            out = base.model.generate(
                ids,
                attention_mask=mask,
                logits_processor=constrained,
                generation_config=generation_config(base, settings),
            )
        texts: list[str] = base.tokenizer.batch_decode(out[:, T:], skip_special_tokens=True)
        return texts


class _Constrained:
    """Keeps each row of a generation within a JSON schema (llguidance)."""

    def __init__(
        self, tokens: Any, schema: dict[str, Any], rows: int, start: int, ends: set[int]
    ) -> None:
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        self.matchers = [LLMatcher(tokens, grammar) for _ in range(rows)]
        self.start, self.ends = start, ends

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        for row, matcher in enumerate(self.matchers):
            if ids.shape[1] > self.start and not matcher.is_stopped():
                matcher.consume_token(int(ids[row, -1]))
            if matcher.is_stopped():
                banned = torch.ones(logits.shape[1], dtype=torch.bool)
                banned[list(self.ends)] = False
            else:
                bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
                allowed = np.unpackbits(bits, bitorder="little")[: logits.shape[1]]
                banned = torch.from_numpy(allowed == 0)
            logits[row].masked_fill_(banned.to(logits.device), float("-inf"))
        return logits


class Endpoint:
    """The paper's augmentation by a server that speaks the OpenAI API.

    Args:
        model: the server's name of the model.
        base_url: where it is, up to `/v1`; None for OpenAI's own.
        workers: requests in flight.
        retries: of a request that failed to connect, timed out, or met a 429 or 5xx.
    """

    def __init__(
        self,
        config: AugmentConfig,
        model: str,
        base_url: str | None = None,
        workers: int = 8,
        retries: int = 3,
        timeout: float = 120.0,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise PragError(
                "augmentation by an endpoint needs: pip install 'prag[endpoint]'"
            ) from error
        self.config = config
        self.model = model
        self.origin = f"endpoint:{model}"
        self.workers = workers
        try:
            self._client = openai.OpenAI(base_url=base_url, max_retries=retries, timeout=timeout)
        except openai.OpenAIError as error:
            raise PragError(
                f"{error} (a local server takes any key: OPENAI_API_KEY=none)"
            ) from error

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The rewrites and pairs of each passage, in order.

        Raises:
            PragError: the server cannot be reached or refuses, after the retries.
        """
        return augment_by_asking(passages, self.config, self.origin, self._ask)

    def _ask(self, prompts: list[str], schema: dict[str, Any] | None, seed: int) -> list[str]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda prompt: self._one(prompt, schema, seed), prompts))

    def _one(self, prompt: str, schema: dict[str, Any] | None, seed: int) -> str:
        import openai

        more: dict[str, Any] = {}
        if schema is not None:
            # The API wants an object at the top.
            wrapped = {
                "type": "object",
                "properties": {"pairs": schema},
                "required": ["pairs"],
                "additionalProperties": False,
            }
            more["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "pairs", "schema": wrapped, "strict": True},
            }
        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=self.config.temperature,
                max_tokens=self.config.max_new_tokens,
                seed=seed,
                **more,
            )
        except openai.OpenAIError as error:
            raise PragError(
                f"the endpoint {self._client.base_url} (model {self.model}): {error}"
            ) from error
        choices = getattr(reply, "choices", None)  # a proxy may answer 200 with something else
        return (choices[0].message.content or "") if choices else ""

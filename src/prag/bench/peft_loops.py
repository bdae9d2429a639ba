"""What `prag bench` compares with: one adapter at a time, as anyone would train it with `peft`.

`peft` is imported when a loop is made; it is an optional dependency.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from prag.config import TrainConfig
from prag.encode import initial_factors
from prag.lora import Adapter
from prag.model import BaseModel
from prag.precision import master
from prag.prompts import Example
from prag.records import PragError
from prag.replay import sites_of

PUBLISHED_LENGTH = 3000
"""Tokens to which the published code pads every sequence."""


class PeftLoop:
    """Trains the adapter of one passage after the other: a sequence a step, AdamW, all logits.

    It trains the sites, epochs and sequences of a recipe, which is all that it takes from it: what
    `train.quiet` does is left out.

    Args:
        base: as it is, or as `prag.precision.learner` gives it: LoRA on a base in 16 bits is kept
            in float32, as peft does by itself.
        pad_to: every sequence is padded on the right to so many tokens, or to none.

    Raises:
        PragError: `peft` is not installed.
    """

    def __init__(self, base: BaseModel, train: TrainConfig, pad_to: int | None = None) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise PragError(
                "the loops to compare with need peft: pip install 'prag[bench]'"
            ) from error
        self.base, self.train, self.pad_to = base, train, pad_to
        self.start = initial_factors(sites_of(base, train), train, master(base.dtype))
        config = LoraConfig(
            r=train.rank,
            lora_alpha=train.alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=list(self.start),
            task_type="CAUSAL_LM",
        )
        # A copy: peft puts its layers into the model itself.
        self.model: Any = get_peft_model(copy.deepcopy(base.model), config)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(master(base.dtype))

    def encode(self, examples: Sequence[Example]) -> Adapter:
        """The adapter of these sequences; those left of an earlier passage are forgotten."""
        lora = {n: self.model.get_submodule(f"base_model.model.{n}") for n in self.start}
        with torch.no_grad():
            for name, (A, B) in self.start.items():
                lora[name].lora_A["default"].weight.copy_(A)
                lora[name].lora_B["default"].weight.copy_(B)
        c = self.train
        optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=c.learning_rate,
            betas=(c.beta1, c.beta2),
            eps=c.epsilon,
            weight_decay=c.weight_decay,
        )
        for _ in range(c.epochs):
            for example in examples:
                self._step(optimizer, example)
        return Adapter(
            {
                name: (
                    m.lora_A["default"].weight.detach().clone(),
                    m.lora_B["default"].weight.detach().clone(),
                )
                for name, m in lora.items()
            },
            c.rank,
            c.alpha,
        )

    def _step(self, optimizer: torch.optim.Optimizer, example: Example) -> None:
        size = len(example.ids)
        T = max(size, self.pad_to or 0)
        ids = torch.full((1, T), self.base.tokenizer.pad_token_id, device=self.base.device)
        ids[0, :size] = torch.tensor(example.ids)
        mask = torch.zeros_like(ids)
        mask[0, :size] = 1
        logits = self.model(ids, attention_mask=mask, use_cache=False).logits[0]  # [T, V]
        learnt = slice(example.learn_from - 1, size - 1)
        scores = logits[learnt].to(master(logits.dtype))  # [M, V]
        loss = cross_entropy(scores, ids[0, example.learn_from : size])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

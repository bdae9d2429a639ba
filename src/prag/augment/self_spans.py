"""Question-answer pairs from a weak base model: it writes a question for a span of the passage.

A small instruction model cannot follow the paper's prompt for a JSON list of pairs, but it can go
on from worked examples. So answers are chosen first (`spans`); the model is shown the title, the
one sentence that the answer stands in, the answer, and how the question may begin, and ends it.
With the whole passage in sight it asks the same question whatever the answer (docs/log.md). The
keys and values of the worked examples are computed once for all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from prag.augment.checks import keep_new, no_span
from prag.augment.spans import Span, answer_spans
from prag.config import AugmentConfig, GenerateConfig
from prag.generate import generation_config, seeded
from prag.model import BaseModel
from prag.prefixes import old_cache_name
from prag.prompts import text_ids
from prag.records import Augmentation, Passage, QAPair, Reject

SPARE = 2
"""Spans tried beyond the pairs wanted, so that a rejected question can be made up for."""

ROWS = 48
"""Questions written in one batch."""

WORKED = """\
Write a question that has the given answer. Name the subject in the question.

Text: Harbour Road Library: It was designed by Ada Lindqvist and opened on 4 May 1911 in Tromsø.
Answer: Ada Lindqvist
Question: Who designed the Harbour Road Library?

Text: Joseph Amara: Joseph Amara (1898 – 1971) was a Ghanaian chemist and teacher.
Answer: Ghanaian chemist and teacher
Question: What was Joseph Amara's profession?

Text: Velan River: The river rises near Monte Sella and is 64 kilometres long.
Answer: 64 kilometres
Question: How many kilometres long is the Velan River?

Text: Lena Marsh: After her studies she moved to Lisbon, where she painted until 1930.
Answer: Lisbon
Question: Where did Lena Marsh move after her studies?

Text: Copper Lantern: The Copper Lantern is a novel by Ines Duarte, published by Alma House.
Answer: Alma House
Question: Which publisher published the Copper Lantern?

Text:"""


class SelfSpans:
    """Augments passages with the base model itself, answers first."""

    def __init__(self, base: BaseModel, config: AugmentConfig) -> None:
        self.base = base
        self.config = config
        self.origin = f"self:{base.fingerprint}"
        self._ends = _question_ends(base.tokenizer)
        self._prefix = text_ids(base.tokenizer, WORKED)
        self._cache: Any = None

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The pairs of each passage, in order; a passage may get fewer than are wanted."""
        spans = [answer_spans(p, self.config.pairs + SPARE) for p in passages]
        asked = [(p, s) for p, found in zip(passages, spans, strict=True) for s in found]
        questions = iter(self._questions(asked))
        made = []
        for passage, found in zip(passages, spans, strict=True):
            kept: list[QAPair] = []
            rejects: list[Reject] = []
            for span in found:
                pair = QAPair(next(questions), span.text, span.sentence)
                reject = keep_new(pair, passage, kept, grounded=True)
                if reject is not None:
                    rejects.append(reject)
                elif len(kept) < self.config.pairs:
                    kept.append(pair)
            if not found:
                rejects.append(no_span(passage))
            made.append(Augmentation(passage.id, (), tuple(kept), self.origin, tuple(rejects)))
        return made

    def _questions(self, asked: Sequence[tuple[Passage, Span]]) -> list[str]:
        """A question for each span, those of like length in one batch."""
        rows = [text_ids(self.base.tokenizer, _ask(passage, span)) for passage, span in asked]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        said: dict[int, str] = {}
        for at in range(0, len(order), ROWS):
            chosen = order[at : at + ROWS]
            texts = self._continue([rows[i] for i in chosen])
            for i, text in zip(chosen, texts, strict=True):
                starter = asked[i][1].starter
                said[i] = f"{starter}{text}".split("\n")[0].strip()
        return [said[i] for i in range(len(rows))]

    def _continue(self, rows: list[list[int]]) -> list[str]:
        """What the model says after the worked examples and each row, up to the question's end."""
        base, width = self.base, max(map(len, rows))
        # Padding stands between the worked examples, which are cached, and the row.
        padded = [[base.tokenizer.pad_token_id] * (width - len(r)) + r for r in rows]
        ids = torch.tensor([self._prefix + r for r in padded], device=base.device)  # [B, T]
        mask = torch.ones_like(ids)
        for b, row in enumerate(rows):
            mask[b, len(self._prefix) : len(self._prefix) + width - len(row)] = 0
        settings = generation_config(
            base,
            GenerateConfig(
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                top_k=self.config.top_k,
            ),
        )
        settings.eos_token_id = self._ends
        with torch.no_grad(), seeded(self.config.seed), old_cache_name():
            out = base.model.generate(
                ids,
                attention_mask=mask,
                past_key_values=self._expanded(len(rows)),
                generation_config=settings,
            )
        texts: list[str] = base.tokenizer.batch_decode(
            out[:, ids.shape[1] :], skip_special_tokens=True
        )
        return [text.split("?")[0] + "?" if "?" in text else text for text in texts]

    def _expanded(self, rows: int) -> Any:
        """The worked examples' keys and values for each row, computed once."""
        from transformers import DynamicCache

        if self._cache is None:
            self._cache = DynamicCache(config=self.base.model.config)
            with torch.no_grad(), old_cache_name():
                self.base.model(
                    torch.tensor([self._prefix], device=self.base.device),
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache


def _ask(passage: Passage, span: Span) -> str:
    lead = f"{passage.title}: " if passage.title else ""
    starter = f" {span.starter}" if span.starter else ""
    return f" {lead}{span.sentence}\nAnswer: {span.text}\nQuestion:{starter}"


def _question_ends(tokenizer: Any) -> list[int]:
    """Every token whose text has a question mark or a line break: a question ends there."""
    # Vocabularies write a line break as it is, as byte-level BPE does, or as a byte's number; to
    # decode every token of a large vocabulary would take seconds.
    signs = ("?", "\n", "\u010a", "<0x0A>")
    likely = [i for t, i in tokenizer.get_vocab().items() if any(sign in t for sign in signs)]
    found = [i for i in likely if any(mark in tokenizer.decode([i]) for mark in "?\n")]
    return sorted({*found, tokenizer.eos_token_id})

"""Question-answer pairs from a weak base model: it writes a question for a span of the passage.

A small instruction model cannot follow the paper's prompt for a JSON list of pairs. It can go on
with worked examples. So answers are chosen first (`spans`), and the model, shown the passage and
three worked examples, writes one question for each. The worked examples' keys and values are
computed once for all, a passage's once for all its questions; many passages go in one batch.

Letters: B passages of a batch, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prag.augment.checks import keep_new
from prag.augment.spans import answer_spans, sentence_of
from prag.config import AugmentConfig, GenerateConfig
from prag.generate import generation_config
from prag.model import BaseModel
from prag.prompts import text_ids
from prag.records import Augmentation, Passage, QAPair, Reject

SPARE = 3
"""Spans tried beyond the pairs wanted, so that a rejected question can be made up for."""

WORKED = """\
Write a question about the text that has the given answer. Name the subject in the question.

Text: Harbour Road Library: The Harbour Road Library is a public library in Tromsø, opened on \
4 May 1911 with 12,000 volumes. It was designed by the architect Ada Lindqvist, who also drew \
the town hall.
Answer: public library
Question: What kind of building is the Harbour Road Library?
Answer: Tromsø
Question: In which town is the Harbour Road Library?
Answer: 4 May 1911
Question: When did the Harbour Road Library open?
Answer: Ada Lindqvist
Question: Who designed the Harbour Road Library?

Text: Joseph Amara: Joseph Amara (3 March 1898 – 1971) was a Ghanaian chemist and teacher. He \
grew up in Accra and later led the Institute of Soils. His best known book is "Clay and Water".
Answer: Ghanaian chemist and teacher
Question: What was Joseph Amara's profession?
Answer: 3 March 1898
Question: On what date was Joseph Amara born?
Answer: Institute of Soils
Question: Which institute did Joseph Amara lead?
Answer: Clay and Water
Question: What is Joseph Amara's best known book?

Text: Velan River: The Velan is a river of northern Italy, 64 kilometres long. It rises near \
Monte Sella and flows into the Adige; floods in 1966 destroyed the old bridge at Corte.
Answer: 64 kilometres
Question: How long is the Velan River?
Answer: Adige
Question: Into which river does the Velan flow?
Answer: 1966
Question: In what year did floods destroy the old bridge over the Velan River?

Text:"""


@dataclass
class _Row:
    """A passage at work: the spans still to ask for, what was kept, and the tokens so far."""

    passage: Passage
    spans: list[str]
    ids: list[int]  # of the row, padding included
    mask: list[int]  # 0 where a token is padding
    kept: list[QAPair] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class SelfSpans:
    """Augments passages with the base model itself, answers first."""

    def __init__(self, base: BaseModel, config: AugmentConfig) -> None:
        self.base = base
        self.config = config
        self.origin = f"self:{base.fingerprint}"
        self._ends = _line_ends(base.tokenizer)
        self._prefix = text_ids(base.tokenizer, WORKED)
        self._cache: Any = None

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The pairs of each passage, in order; a passage may get fewer than are wanted."""
        rows = [self._start(p) for p in passages]
        alive = [row for row in rows if row.spans]
        cache = self._expanded(len(alive)) if alive else None
        while alive:
            spans = [row.spans.pop(0) for row in alive]
            cache = self._round(alive, spans, cache)
            still = [
                i for i, row in enumerate(alive) if row.spans and len(row.kept) < self.config.pairs
            ]
            if still and len(still) < len(alive):
                cache.batch_select_indices(torch.tensor(still, device=self.base.device))
            alive = [alive[i] for i in still]
        return [
            Augmentation(r.passage.id, (), tuple(r.kept), self.origin, tuple(r.rejects))
            for r in rows
        ]

    def _start(self, passage: Passage) -> _Row:
        spans = answer_spans(passage, self.config.pairs + SPARE)
        lead = f"{passage.title}: " if passage.title else ""
        ids = self._prefix + text_ids(self.base.tokenizer, f" {lead}{passage.text.strip()}")
        room = self.base.context - (self.config.max_new_tokens + 64) * (self.config.pairs + SPARE)
        rejects = []
        if not spans:
            rejects.append(Reject(passage.title, "no span of the passage can be an answer"))
        if len(ids) > room:
            rejects.append(Reject(passage.title, f"passage cut to {room} tokens for its questions"))
            ids = ids[:room]
        return _Row(passage, spans, ids, [1] * len(ids), rejects=rejects)

    def _round(self, rows: list[_Row], spans: list[str], cache: Any) -> Any:
        """Ask every row for the question of one span; the cache grows by what was said."""
        asks = [text_ids(self.base.tokenizer, f"\nAnswer: {span}\nQuestion:") for span in spans]
        for row, ask in zip(rows, asks, strict=True):
            row.ids += ask
            row.mask += [1] * len(ask)
        width = max(len(row.ids) for row in rows)
        cached = cache.get_seq_length()
        for row in rows:  # padding goes between what is cached and what is new
            lack = width - len(row.ids)
            at = cached
            row.ids[at:at] = [self.base.tokenizer.pad_token_id] * lack
            row.mask[at:at] = [0] * lack
        ids = torch.tensor([row.ids for row in rows], device=self.base.device)  # [B, T]
        mask = torch.tensor([row.mask for row in rows], device=self.base.device)
        settings = generation_config(
            self.base,
            GenerateConfig(
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                top_k=self.config.top_k,
                seed=self.config.seed,
            ),
            return_dict_in_generate=True,
        )
        settings.eos_token_id = self._ends
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            out = self.base.model.generate(
                ids, attention_mask=mask, past_key_values=cache, generation_config=settings
            )
        self._read(rows, spans, out.sequences[:, width:])
        return out.past_key_values

    def _read(self, rows: list[_Row], spans: list[str], new: Tensor) -> None:
        ends = set(self._ends)
        for row, span, said in zip(rows, spans, new.tolist(), strict=True):
            stop = next((i for i, token in enumerate(said) if token in ends), len(said) - 1)
            question = self.base.tokenizer.decode(said[: stop + 1]).strip().split("\n")[0].strip()
            row.ids += said
            row.mask += [int(i <= stop) for i in range(len(said))]
            pair = QAPair(question, span, sentence_of(span, row.passage.text))
            reject = keep_new(pair, row.passage, row.kept, grounded=True)
            if reject is None:
                row.kept.append(pair)
            else:
                row.rejects.append(reject)

    def _expanded(self, rows: int) -> Any:
        """The worked examples' keys and values for each row, computed once."""
        from transformers import DynamicCache

        if self._cache is None:
            self._cache = DynamicCache(config=self.base.model.config)
            with torch.no_grad():
                self.base.model(
                    torch.tensor([self._prefix], device=self.base.device),
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache


def _line_ends(tokenizer: Any) -> list[int]:
    """Every token whose text has a question mark or a line break: a question ends there."""
    found = []
    for index in range(len(tokenizer)):
        text = tokenizer.decode([index])
        if "?" in text or "\n" in text:
            found.append(index)
    return sorted({*found, tokenizer.eos_token_id})

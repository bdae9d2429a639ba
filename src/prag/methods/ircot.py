"""ircot: retrieval interleaved with chain of thought (Trivedi et al. 2023).

After each sentence of reasoning the sentence itself is the query for more passages, which are
added to those that are there (section 3.1).
"""

from __future__ import annotations

from dataclasses import replace

from prag.generate import Request
from prag.methods.base import (
    Desk,
    Steps,
    before_next_question,
    conclude,
    first_sentence,
    over_after_sentence,
    says_answer,
)
from prag.prompts import style_named

MOST_STEPS = 4
"""Sentences of reasoning, each with a search after it. The paper allows 8; its gains come from
the first few, and a small model repeats itself."""

MOST_PASSAGES = 15
"""Passages that may stand in the prompt (the paper's)."""

SENTENCE_TOKENS = 64
"""The longest sentence, in tokens."""


class IRCoT:
    """Always reasons: where the style is direct it takes the worked examples of HotpotQA."""

    name = "ircot"
    given_passages = True
    searches = True
    uses_adapters = False

    def steps(self, desk: Desk) -> Steps:
        """Reason a sentence, search with it, go on with more passages."""
        if not desk.style.reasons:
            desk.style = style_named("hotpotqa", desk.library.recipe.wording)
        hits = list(desk.ask.hits)
        texts = desk.texts(desk.fetch(hits, in_prompt=True))
        said, left = "", desk.limit
        for step in range(MOST_STEPS):
            made = yield Request(
                desk.prompt(texts, said),
                max_new_tokens=min(left, SENTENCE_TOKENS),
                until=over_after_sentence,
                again=True,
            )
            sentence, over = first_sentence(made)
            said, left = said + sentence, left - max(1, len(made.ids))
            if over or not sentence.strip() or says_answer(said) or left <= 0:
                break
            if step < MOST_STEPS - 1:
                known = {hit.passage_id for hit in hits}
                new = [h for h in desk.search(sentence) if h.passage_id not in known]
                hits += [replace(h, rank=len(hits) + i) for i, h in enumerate(new)]
                hits = hits[:MOST_PASSAGES]
                texts = desk.texts(desk.fetch(hits, in_prompt=True))
        return (yield from conclude(desk, before_next_question(said), texts, None))

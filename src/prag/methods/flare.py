"""flare: active retrieval while writing (Jiang et al. 2023, "FLARE direct").

The model writes the next sentence; where it was sure of every token the sentence stands, and
otherwise the sentence, without the tokens that it doubted most, is the query for passages with
which it is written again (section 3.2, equations 1 and 2, implicit queries by masking).
"""

from __future__ import annotations

from collections.abc import Sequence

from prag.generate import Generated, Request
from prag.methods.base import (
    Desk,
    Steps,
    before_next_question,
    conclude,
    first_sentence,
    over_after_sentence,
    says_answer,
)

THETA = 0.8
"""A sentence with a token less likely than this is looked up (theta; the paper's for 2Wiki)."""

BETA = 0.4
"""Tokens less likely than this are left out of the query (beta; the paper's)."""

SENTENCE_TOKENS = 64
"""The longest sentence that is looked ahead, in tokens (the paper's)."""


class Flare:
    """Starts from the question's own passages; each search replaces them."""

    name = "flare"
    given_passages = True
    searches = True
    uses_adapters = False

    def steps(self, desk: Desk) -> Steps:
        """Write sentence by sentence, looking up what is doubtful."""
        texts = desk.texts(desk.fetch(desk.ask.hits, in_prompt=True))
        said, left = "", desk.limit
        while left > 0:
            made = yield self._sentence(desk, texts, said, left)
            sentence, sure, query = looked_ahead(made)
            if not sure:
                hits = desk.search(query or desk.ask.question)
                if hits:
                    texts = desk.texts(desk.fetch(hits, in_prompt=True))
                    made = yield self._sentence(desk, texts, said, left)
                    sentence, _ = first_sentence(made)
                else:
                    desk.notes.append(f"nothing was found for {query!r}; the sentence stands")
            _, over = first_sentence(made)
            said, left = said + sentence, left - max(1, len(made.ids))
            answered = desk.style.reasons and says_answer(said)
            if over or not sentence.strip() or answered:
                break
        return (yield from conclude(desk, before_next_question(said), texts, None))

    def _sentence(self, desk: Desk, texts: Sequence[str], said: str, left: int) -> Request:
        return Request(
            desk.prompt(texts, said),
            max_new_tokens=min(left, SENTENCE_TOKENS),
            until=over_after_sentence,
            watch="confidence",
            again=True,
        )


def looked_ahead(made: Generated) -> tuple[str, bool, str]:
    """The first sentence of what was made, whether the model was sure of it, and its query.

    The query is the sentence without the tokens less likely than `BETA`. The text is cut out by
    tokens: those that make the sentence are what is judged.
    """
    sentence, _ = first_sentence(made)
    trace = made.trace
    if trace is None or not made.ids:
        return sentence, True, ""
    within, at = [], 0
    for piece, p in zip(made.pieces, trace.probabilities, strict=True):
        if at >= len(sentence):
            break
        within.append((piece, p))
        at += len(piece)
    sure = all(p >= THETA for _, p in within)
    query = "".join(piece for piece, p in within if p >= BETA)
    return sentence, sure, " ".join(query.split())

"""combined: the passages' text in the prompt and their adapters in the weights (Su et al. 2025)."""

from __future__ import annotations

import math

from prag.generate import Generated, Request
from prag.lora import Merged
from prag.methods.base import Desk, Steps, reply


class Combined:
    """Parametric and in-context at once."""

    name = "combined"
    given_passages = True
    searches = False
    uses_adapters = True

    def steps(self, desk: Desk) -> Steps:
        """Ask with the passages in the prompt and the adapters injected.

        With `combine = "surer"` also without the passages, and the answer is taken that the model
        gives the higher probability; one that says nothing is not taken. Chains of thought are not
        compared so: a longer one is the less likely, whatever it says.
        """
        texts = desk.texts(desk.fetch(desk.ask.hits, in_prompt=True))
        there = desk.adapters()
        beside_text = desk.merged(there, beside_text=True)
        if desk.library.recipe.combine == "together" or desk.style.reasons:
            return (yield from reply(desk, texts, beside_text))
        read = yield _watched(desk, desk.prompt(texts), beside_text)
        unread = yield _watched(desk, desk.prompt(()), desk.merged(there))
        if unread.text.strip() and (not read.text.strip() or likelihood(unread) > likelihood(read)):
            desk.notes.append("the answer without the passages' text was the likelier")
            return unread.text
        return read.text


def _watched(desk: Desk, ids: tuple[int, ...], adapters: Merged | None) -> Request:
    return Request(ids, adapters, max_new_tokens=desk.limit, watch="confidence")


def likelihood(made: Generated) -> float:
    """The log-probability of what was made, its end included where the model ended it."""
    if made.trace is None:
        raise ValueError("nothing was watched")
    probabilities = (*made.trace.probabilities, *made.trace.end)
    return sum(math.log(p) if p > 0 else -math.inf for p in probabilities)

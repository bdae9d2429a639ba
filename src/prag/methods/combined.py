"""combined: the passages' text in the prompt and their adapters in the weights (Su et al. 2025)."""

from __future__ import annotations

from prag.methods.base import Desk, Steps, reply


class Combined:
    """Parametric and in-context at once."""

    name = "combined"
    given_passages = True
    searches = False
    uses_adapters = True

    def steps(self, desk: Desk) -> Steps:
        """Ask with the passages in the prompt and the adapters injected."""
        texts = desk.texts(desk.fetch(desk.ask.hits, in_prompt=True))
        return (yield from reply(desk, texts, desk.adapters()))

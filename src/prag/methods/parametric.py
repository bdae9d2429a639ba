"""parametric: Parametric RAG (Su et al. 2025), the passages' adapters in the weights."""

from __future__ import annotations

from prag.methods.base import Desk, Steps, reply


class Parametric:
    """The passages are in the weights and not in the prompt."""

    name = "parametric"
    given_passages = True
    searches = False
    uses_adapters = True

    def steps(self, desk: Desk) -> Steps:
        """Ask with the adapters injected."""
        desk.fetch(desk.ask.hits, in_prompt=False)
        return (yield from reply(desk, (), desk.merged(desk.adapters())))

"""in-context: standard RAG (Lewis et al. 2020), the passages' text in the prompt."""

from __future__ import annotations

from prag.methods.base import Desk, Steps, reply


class InContext:
    """The model reads the passages each time it is asked."""

    name = "in-context"
    given_passages = True
    searches = False
    uses_adapters = False

    def steps(self, desk: Desk) -> Steps:
        """Ask with the passages in the prompt."""
        texts = desk.texts(desk.fetch(desk.ask.hits, in_prompt=True))
        return (yield from reply(desk, texts, None))

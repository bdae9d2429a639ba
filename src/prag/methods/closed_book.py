"""closed-book: the model alone."""

from __future__ import annotations

from prag.methods.base import Desk, Steps, reply


class ClosedBook:
    """What the model knows by itself: no passage, no adapter."""

    name = "closed-book"
    given_passages = False
    searches = False
    uses_adapters = False

    def steps(self, desk: Desk) -> Steps:
        """Ask."""
        return (yield from reply(desk, (), None))

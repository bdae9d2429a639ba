"""The answering methods: what of the retrieved passages goes into the prompt and the weights."""

from __future__ import annotations

from dataclasses import dataclass

from prag.records import PragError


@dataclass(frozen=True)
class Method:
    """One way to answer.

    `text_in_prompt`: the model is given the text of the passages (Lewis et al. 2020).
    `adapters_in_weights`: their adapters are injected (Su et al. 2025).
    """

    name: str
    text_in_prompt: bool
    adapters_in_weights: bool

    @property
    def retrieves(self) -> bool:
        """Whether it needs passages at all."""
        return self.text_in_prompt or self.adapters_in_weights


CLOSED_BOOK = Method("closed-book", text_in_prompt=False, adapters_in_weights=False)
IN_CONTEXT = Method("in-context", text_in_prompt=True, adapters_in_weights=False)
PARAMETRIC = Method("parametric", text_in_prompt=False, adapters_in_weights=True)
COMBINED = Method("combined", text_in_prompt=True, adapters_in_weights=True)

METHODS = {m.name: m for m in (CLOSED_BOOK, IN_CONTEXT, PARAMETRIC, COMBINED)}


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        PragError: there is none.
    """
    if name not in METHODS:
        raise PragError(f"no method {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]

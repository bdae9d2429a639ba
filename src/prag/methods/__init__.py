"""The answering methods, one small file each: what they put into the prompt and the weights."""

from prag.methods.answering import answer_all, find
from prag.methods.base import Ask, Library, Method, Shelved
from prag.methods.closed_book import ClosedBook
from prag.methods.combined import Combined
from prag.methods.da_rag import DataAugmentedRAG
from prag.methods.dragin import Dragin
from prag.methods.flare import Flare
from prag.methods.in_context import InContext
from prag.methods.ircot import IRCoT
from prag.methods.parametric import Parametric
from prag.records import PragError

__all__ = [
    "CORE",
    "METHODS",
    "Ask",
    "Library",
    "Method",
    "Shelved",
    "answer_all",
    "find",
    "method_named",
]

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        ClosedBook(),
        InContext(),
        DataAugmentedRAG(),
        Flare(),
        Dragin(),
        IRCoT(),
        Parametric(),
        Combined(),
    )
}

CORE = ("closed-book", "in-context", "parametric", "combined")
"""The four ways that injection is about: neither, text, adapters, both."""


def method_named(name: str) -> Method:
    """The method of that name.

    Raises:
        PragError: there is none.
    """
    if name not in METHODS:
        raise PragError(f"no method {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]

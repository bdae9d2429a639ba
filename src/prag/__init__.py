"""Parametric RAG: give a language model a library it has read.

from prag import KnowledgeBase

kb = KnowledgeBase.create("kb", model="smollm2")
kb.add("notes/")
kb.build()
print(kb.ask("Who designed the Harbour Road Library?").text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prag.records import PragError

if TYPE_CHECKING:
    from prag.knowledge_base import KnowledgeBase

__version__ = "0.1.0"

__all__ = ["KnowledgeBase", "PragError", "__version__"]


def __getattr__(name: str) -> Any:
    # The knowledge base brings torch along, which a caller of `prag --help` need not wait for.
    if name == "KnowledgeBase":
        from prag.knowledge_base import KnowledgeBase

        return KnowledgeBase
    raise AttributeError(f"module 'prag' has no attribute {name!r}")

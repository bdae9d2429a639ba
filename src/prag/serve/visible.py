"""What may be found: passages of documents that are there, not withdrawn, and asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prag.records import PragError


@dataclass(frozen=True)
class Filter:
    """What the asker wants to be searched; empty sets leave nothing out."""

    documents: frozenset[str] = frozenset()  # only these
    without_documents: frozenset[str] = frozenset()
    without_passages: frozenset[str] = frozenset()


EVERYTHING = Filter()


@dataclass(frozen=True)
class Visible:
    """The ids of the passages that one question may rest on, as a container.

    A passage is in if it belongs to a document that is neither withdrawn nor left out.

    Args:
        documents_of: the documents of a passage; raises `PragError` if it is not there.
        hidden: names of the documents that are withdrawn, as they are when it is asked.
    """

    documents_of: Callable[[str], Iterable[str]]
    hidden: Callable[[], Iterable[str]]
    wanted: Filter = field(default_factory=Filter)

    def __contains__(self, passage_id: object) -> bool:
        if passage_id in self.wanted.without_passages:
            return False
        names = set(self.documents(str(passage_id))) - self.wanted.without_documents
        return bool(names & self.wanted.documents if self.wanted.documents else names)

    def documents(self, passage_id: str) -> list[str]:
        """The documents of a passage that are there and not withdrawn."""
        # In this order: what is withdrawn stops being hidden after it has been taken out.
        hidden = set(self.hidden())
        try:
            return [name for name in self.documents_of(passage_id) if name not in hidden]
        except PragError:
            return []

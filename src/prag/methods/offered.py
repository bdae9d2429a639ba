"""Questions that offer their answers: yes or no, or one of two.

An adapter says what its passage says of its subject. It does not set two subjects beside each
other, and asked which of two came first, or whether both are from one country, it names what it was
taught (docs/log.md). A recipe can leave such questions to the base model: `offered = "base"`. They
are known by their form, in English.
"""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")
_POLAR = re.compile(
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|"
    r"must)(?:n't|n’t)?\s",
    re.IGNORECASE,
)
# "Did it reach the sea in what year?": asked by what it holds, not by how it begins.
_HOLDS_ASKED = re.compile(
    r"\b(?:what|how|(?:in|of|for|by|to|on|at|from|with)\s+(?:which|whom|whose))\b", re.IGNORECASE
)
_ASKS = r"\b(?:which|who|whom|whose|what|where|when)\b"
_COMPARED = (
    r"\b(?:first|last|earlier|earliest|later|latest|sooner|before|after|older|oldest|elder|younger|"
    r"youngest|longer|longest|shorter|shortest|larger|largest|bigger|biggest|smaller|smallest|"
    r"taller|tallest|higher|highest|lower|lowest|nearer|farther|further|better|best|worse|more|most|"
    r"less|least|fewer)\b"
)
_OF_TWO = re.compile(
    rf"{_ASKS}.*[,:;–—]\s*[^,:;–—]+\s+or\s+\S"  # Which is older, the mill or the mint?
    rf"|{_ASKS}.*{_COMPARED}.*\s+or\s+\S"  # Which is older the mill or the mint?
    rf"|{_ASKS}.*\b(?-i:of\s+(?:the|these|those)\s+two)\b",  # Which of the two is older?
    re.IGNORECASE,
)


def offers_answers(question: str) -> bool:
    """Whether a question asks for yes or no, or for one of two that it names."""
    stripped = question.strip()
    if not stripped:
        return False
    asked = " ".join(_SENTENCE.split(stripped)[-1].split())
    if _POLAR.match(asked) and not _HOLDS_ASKED.search(asked):
        return True
    return _OF_TWO.search(asked) is not None

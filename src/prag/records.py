"""The frozen records that travel between the rooms. Ids are hashes of content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

ID_LENGTH = 16
"""Hex digits of an id: 64 bits, a collision among 21 million passages has odds of 1 in 80,000."""


def content_id(*parts: str) -> str:
    """The first 16 hex digits of the SHA-256 of the parts, joined by a newline."""
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()[:ID_LENGTH]


class PragError(Exception):
    """An error a user can act on: its text says what is wrong, where, and how to mend it."""


class EngineError(PragError):
    """What generates cannot be reached, or is not what it should be: no question's own fault."""


@dataclass(frozen=True)
class Passage:
    """The unit that is retrieved and encoded. Its id is the hash of title, newline, text."""

    title: str
    text: str

    @property
    def id(self) -> str:
        """16 hex digits; the first 12 are the id that the question sets use."""
        return content_id(self.title, self.text)


@dataclass(frozen=True)
class Document:
    """What a user adds.

    `name` is what makes a later version the same document: a path as the user gave it, or a
    record's own id. `source` says where it was read (`file:line`), for messages.
    """

    name: str
    source: str
    passages: tuple[Passage, ...]

    @property
    def digest(self) -> str:
        """The hash of its passages, in order: another digest is a changed document."""
        return content_id(*(p.id for p in self.passages))


@dataclass(frozen=True)
class QAPair:
    """A question about a passage, its short answer and its answer as a sentence."""

    question: str
    answer: str
    full_answer: str


@dataclass(frozen=True)
class Reject:
    """Something that was generated or read and not used, and why."""

    text: str
    reason: str


@dataclass(frozen=True)
class Augmentation:
    """The rewrites and question-answer pairs of one passage.

    `origin` says who made it (`self:<base fingerprint>`, `endpoint:<model>`, `file:<label>`);
    it is part of the fingerprint of every adapter trained on it.
    """

    passage_id: str
    rewrites: tuple[str, ...]
    pairs: tuple[QAPair, ...]
    origin: str
    rejects: tuple[Reject, ...] = ()


@dataclass(frozen=True)
class Hit:
    """One retrieved passage; `rank` counts from 0, a higher score is better."""

    passage_id: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """What an adapter is the adapter of. Another passage, base or recipe is another key."""

    passage: str
    base: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.passage}-{self.base}-{self.recipe}"


@dataclass(frozen=True)
class Source:
    """A passage that stood behind an answer.

    `adapter` is the key of the adapter that was put into the weights for it, None if none was;
    `in_prompt` says whether the model was given its text.
    """

    passage_id: str
    title: str
    text: str
    score: float
    adapter: str | None
    in_prompt: bool


@dataclass(frozen=True)
class Answer:
    """An answer with what it rests on.

    `prompt_tokens` and `generated_tokens` count every request that was made of the model;
    `searches` are those that the method made itself, after the first. `timings` are seconds by
    stage, `first_token_seconds` the time until the model wrote its first; in a batch each
    question has its share of the batch's time. `adapter_bytes` were read from the store.
    `prompt_hash` is over the tokens of all its prompts. `notes` say what the reader should know
    of how it was obtained (for example that the recipe routes to one adapter). `error` is set,
    and the rest empty, where the question could not be answered.
    """

    question: str
    method: str
    text: str
    raw: str
    sources: tuple[Source, ...]
    prompt_tokens: int
    generated_tokens: int
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    searches: int = 0
    adapter_bytes: int = 0
    first_token_seconds: float | None = None
    prompt_hash: str = ""
    error: str | None = None

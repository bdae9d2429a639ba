"""What the service is told at its start, the unit of every field stated."""

from __future__ import annotations

from dataclasses import dataclass

from prag.records import PragError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other can reach."""


@dataclass(frozen=True)
class ServeSettings:
    """How much is taken, and from whom."""

    rows: int = 32  # questions whose tokens are made at once
    queue: int = 64  # questions that may wait for a place
    timeout: float = 120.0  # seconds a question may take
    body_seconds: float = 30.0  # seconds the body of a request may take to come
    body_bytes: int = 32 << 20  # of a request
    document_bytes: int = 20 << 20  # of one document
    files: int = 100  # documents of one request
    question_chars: int = 8000  # characters of all messages together
    most_new_tokens: int = 1024  # that an answer may be asked to have
    new_tokens: int = 64  # that an answer has where nothing is asked
    top_k: int = 20  # passages that may be asked for
    waiting_jobs: int = 1000  # documents handed in and not built in yet
    keys: tuple[str, ...] = ()  # of those who may ask; none: everybody
    hosts: tuple[str, ...] = LOOPBACK  # names that a request may call this service by
    origin: str | None = None  # of another site whose pages may ask

    def __post_init__(self) -> None:
        for name in ("rows", "files", "new_tokens", "top_k", "waiting_jobs"):
            if getattr(self, name) < 1:
                raise PragError(f"{name} is at least 1")
        if self.queue < 0:
            raise PragError("queue is at least 0")
        if self.timeout <= 0:
            raise PragError("timeout is above 0 seconds")


def read_keys(text: str) -> tuple[str, ...]:
    """The keys of a file: one a line; empty lines and those that begin with # are none.

    Raises:
        PragError: there is none, or one is too short to be a secret.
    """
    keys = tuple(
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")
    )
    if not keys:
        raise PragError("the key file holds no key: write one a line")
    if any(len(key) < 16 or not key.isascii() for key in keys):
        raise PragError("a key has at least 16 ASCII characters")
    return keys

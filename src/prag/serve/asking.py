"""One question on its way through the engine: streamed, stopped, timed out, given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from prag.config import GenerateConfig
from prag.generate import Engine, Generated, Request
from prag.records import Answer
from prag.serve.visible import Filter

OnText = Callable[[str], None]
"""Called with each further piece of an answer's text, from the thread that the model runs in."""


@dataclass(frozen=True)
class Turn:
    """What was said in a conversation, by `user`, `assistant` or `system`."""

    role: str
    text: str


@dataclass(frozen=True)
class Asked:
    """A question with all that the asker said about it.

    `turns` end with the user's. `passages`, if given, are used in place of a search.
    """

    method: str
    turns: tuple[Turn, ...]
    config: GenerateConfig
    stops: tuple[str, ...] = ()
    top_k: int = 3
    passages: tuple[str, ...] | None = None
    filter: Filter = field(default_factory=Filter)


@dataclass(frozen=True)
class Reply:
    """What came of it: `text` is what the model said, without the space around it.

    `finish` is `stop` where the model or a stop text ended it, `length` where the limit did.
    `documents` names those of each passage of the answer, by its id.
    """

    answer: Answer
    question: str
    text: str
    finish: str
    documents: dict[str, list[str]]
    total_seconds: float


class TimedOutError(Exception):
    """A question was not answered within its time."""


class GoneError(Exception):
    """The asker went away."""


class WithdrawnError(Exception):
    """What an answer rests on was withdrawn while it was made."""


class Call:
    """The engine as one question sees it: every text that is made for it passes here.

    Args:
        engine: that really answers.
        seconds: the question may take, from now on.
        on_text: told the pieces; None where nothing is streamed.
    """

    def __init__(
        self, engine: Engine, seconds: float, stops: Sequence[str], on_text: OnText | None
    ) -> None:
        self.engine = engine
        self.deadline = time.monotonic() + seconds
        self.gone = threading.Event()
        self.withdrawn = threading.Event()  # what the answer that is being made rests on
        self.ended: dict[str, bool] = {}  # of each text that was made
        self.stops = tuple(stops)
        self.stream = None if on_text is None else Stream(on_text, self.stops)
        self.held = False

    def begin(self) -> None:
        """Nothing is kept from one question to the next."""

    def check(self, request: Request, config: GenerateConfig) -> None:
        """As the engine does."""
        self.engine.check(request, config)

    def generate(self, requests: Sequence[Request], config: GenerateConfig) -> list[Generated]:
        """As the engine does, unless the time is over or the asker has gone.

        Raises:
            TimedOutError, GoneError: so it is.
            WithdrawnError: what it rests on was withdrawn.
        """
        made = self.engine.generate([replace(r, until=self._until(r)) for r in requests], config)
        if self.gone.is_set():
            raise GoneError
        if time.monotonic() > self.deadline:
            raise TimedOutError
        if self.withdrawn.is_set():
            raise WithdrawnError
        for one in made:
            self.ended[one.text] = one.ended
        return made

    @property
    def told(self) -> bool:
        """Whether a piece of the answer has left."""
        return self.stream is not None and self.stream.told

    def hold(self) -> None:
        """Tell of no text before the end: of several that are made one will be chosen."""
        self.held = True

    def finish(self, raw: str) -> tuple[str, str]:
        """The text that is given for a raw answer, and why it ends there."""
        said = _bare(raw)
        cut = min((said.find(stop) for stop in self.stops if stop in said), default=None)
        text = said[:cut].rstrip()
        stopped = cut is not None or self.ended.get(raw, True)
        if self.stream is not None:
            self.stream.rest(text)
        return text, "stop" if stopped else "length"

    def _until(self, request: Request) -> Callable[[str], bool]:
        def until(text: str) -> bool:
            if self.gone.is_set() or time.monotonic() > self.deadline:
                return True
            if self.withdrawn.is_set():
                return True
            if self.stream is not None and not self.held:
                self.stream.show(text)
            if any(stop in _bare(text) for stop in self.stops):
                return True
            return request.until is not None and request.until(text)

        return until


class Stream:
    """Tells of a text that grows, piece by piece, and of nothing that will not be part of it.

    Held back are space at the end, a character that is not whole, and what may be the beginning of
    a stop text.
    """

    def __init__(self, on_text: OnText, stops: Sequence[str]) -> None:
        self._on_text, self._stops = on_text, tuple(stops)
        self._told = ""

    @property
    def told(self) -> bool:
        """Whether anything was told."""
        return bool(self._told)

    def show(self, text: str) -> None:
        """The whole text as it is now."""
        text = _bare(text)
        for stop in self._stops:
            if stop in text:
                text = text[: text.index(stop)]
            else:
                held = next((n for n in range(len(stop), 0, -1) if text.endswith(stop[:n])), 0)
                text = text[: len(text) - held]
        self._tell(text.rstrip().rstrip("\ufffd").rstrip())

    def rest(self, text: str) -> None:
        """The whole text as it is at its end."""
        self._tell(text)

    def _tell(self, text: str) -> None:
        if len(text) > len(self._told) and text.startswith(self._told):
            piece, self._told = text[len(self._told) :], text
            self._on_text(piece)


def _bare(text: str) -> str:
    """Without the space, and the colon after the lead, that an answer may begin with."""
    return text.lstrip().removeprefix(":").lstrip()

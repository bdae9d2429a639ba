"""Many questions side by side: each method's steps are run in batches over one engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prag.config import GenerateConfig
from prag.generate import Generated, Request
from prag.methods.base import Ask, Desk, Library, Method, Steps, no_hits
from prag.metrics import extract
from prag.prompts import Style
from prag.records import ID_LENGTH, Answer, EngineError, Hit, PragError


@dataclass
class _Run:
    """One question under way: its desk, its steps, and what they have cost so far."""

    desk: Desk
    steps: Steps
    request: Request | None = None  # what it waits for
    raw: str = ""
    error: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float | None = None

    def __post_init__(self) -> None:
        self.prompts = hashlib.sha256()

    def advance(self, made: Generated | None) -> None:
        """Send the method what was made (None to begin); it then waits again, or is done."""
        if made is not None and self.request is not None:
            self.prompts.update(repr(self.request.ids).encode())
            self.prompt_tokens += len(self.request.ids)
            self.generated_tokens += len(made.ids)
            if self.first_token_seconds is None:
                before = sum(self.desk.timings.values())
                self.first_token_seconds = before + made.first_token_seconds
            self.seconds += made.seconds
        self.request = None
        try:
            request = next(self.steps) if made is None else self.steps.send(made)
            library = self.desk.library
            library.engine.check(request, self.desk.config)
            self.request = replace(request, beginning=library.beginning)
        except StopIteration as done:
            self.raw = done.value
        except EngineError:
            raise  # it would be every question's
        except PragError as error:
            self.error = str(error)


def answer_all(
    library: Library,
    method: Method,
    asks: Sequence[Ask],
    style: Style,
    config: GenerateConfig,
) -> list[Answer]:
    """An answer to each question, in order. One that cannot be answered has its `error` set.

    Questions that wait for the model are answered together; what a question's answer is does not
    depend on those beside it, up to rounding, nor on those before.

    Raises:
        EngineError: the engine cannot answer any.
    """
    library.engine.begin()
    runs = [_begin(library, method, ask, style, config) for ask in asks]
    while waiting := [run for run in runs if run.request is not None]:
        requests = [run.request for run in waiting if run.request is not None]
        for run, made in zip(waiting, library.engine.generate(requests, config), strict=True):
            run.advance(made)
    return [_answer(method, run) for run in runs]


def find(library: Library, method: Method, questions: Sequence[str], k: int) -> list[Ask]:
    """The questions, with the passages found for them where the method is given any."""
    began = time.perf_counter()
    hits: list[list[Hit]] = [[] for _ in questions]
    if method.given_passages:
        hits = library.search(questions, k)
    seconds = (time.perf_counter() - began) / max(1, len(questions))
    return [Ask(q, tuple(h), k, seconds) for q, h in zip(questions, hits, strict=True)]


def _begin(
    library: Library, method: Method, ask: Ask, style: Style, config: GenerateConfig
) -> _Run:
    timings = {"retrieve": ask.search_seconds} if ask.hits else {}
    desk = Desk(library, ask, style, config, timings=timings)
    run = _Run(desk, method.steps(desk))
    if not ask.question.strip(" ?\t\r\n"):
        run.error = "the question is empty"
    elif method.given_passages and not ask.hits:
        run.error = str(no_hits(ask.question))
    else:
        run.advance(None)
    return run


def _answer(method: Method, run: _Run) -> Answer:
    ask, desk = run.desk.ask, run.desk
    if run.error is not None:
        return Answer(ask.question, method.name, "", "", (), 0, 0, error=run.error)
    return Answer(
        question=ask.question,
        method=method.name,
        text=extract(run.raw),
        raw=run.raw,
        sources=tuple(desk.sources.values()),
        prompt_tokens=run.prompt_tokens,
        generated_tokens=run.generated_tokens,
        timings={**desk.timings, "generate": run.seconds},
        notes=(*desk.library.notes, *desk.notes),
        searches=desk.searches,
        adapter_bytes=desk.adapter_bytes,
        first_token_seconds=run.first_token_seconds,
        prompt_hash=run.prompts.hexdigest()[:ID_LENGTH],
    )

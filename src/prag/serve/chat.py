"""OpenAI's calls: models, chat completions and completions, streamed or whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from prag.config import GenerateConfig
from prag.methods import CORE
from prag.serve.asking import Asked, Call, OnText, Reply, Turn
from prag.serve.errors import AskError, body_of
from prag.serve.gate import Gate
from prag.serve.service import Service
from prag.serve.shapes import ChatShapes, TextShapes
from prag.serve.visible import Filter

PREFIX = "prag/"
"""Before a method's name in the name of a model."""

MODELS = tuple(PREFIX + name for name in ("parametric", "combined", "in-context", "closed-book"))

_HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "extra_headers",
}
_AS_USUAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "stream_options": ({},),
}
"""Values of fields without a meaning here that ask for what is done anyway."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class FilterIn(BaseModel):
    """What the search may find."""

    model_config = ConfigDict(extra="forbid")
    documents: list[Name] = Field(default=[], max_length=1000)
    without_documents: list[Name] = Field(default=[], max_length=1000)
    without_passages: list[Name] = Field(default=[], max_length=1000)


class PragIn(BaseModel):
    """What this service understands beyond OpenAI's fields."""

    model_config = ConfigDict(extra="forbid")
    method: Literal["parametric", "combined", "in-context", "closed-book"] | None = None
    top_k: int = Field(default=3, ge=1)
    passages: list[Name] | None = Field(default=None, min_length=1, max_length=20)
    filter: FilterIn = FilterIn()


class StreamOptions(BaseModel):
    """OpenAI's."""

    include_usage: bool = False


class Part(BaseModel):
    """A part of a message; only text is read."""

    type: Literal["text"]
    text: str


class MessageIn(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """All its parts, a line each."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class _Common(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    model: str = Field(max_length=200)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: Name | list[Name] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    prag: PragIn = PragIn()


class ChatIn(_Common):
    """The body of a chat completion."""

    messages: list[MessageIn] = Field(min_length=1, max_length=200)


class CompletionIn(_Common):
    """The body of a completion: each prompt is a question."""

    prompt: str | list[str]


def router(service: Service, gate: Gate) -> APIRouter:
    """The calls, over a service."""
    routes = APIRouter(prefix="/v1")
    started = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "prag"}

    @routes.get("/models")
    def models() -> dict[str, Any]:
        """The methods, as models."""
        return {"object": "list", "data": [card(name) for name in MODELS]}

    @routes.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """One of them."""
        if name not in MODELS:
            raise AskError(404, f"no model {name!r}: there are {', '.join(MODELS)}", "model")
        return card(name)

    @routes.post("/chat/completions")
    async def chat(body: ChatIn, request: Request) -> Response:
        """Answer the last message of the user."""
        roles = {"developer": "system"}
        turns = tuple(Turn(roles.get(m.role, m.role), m.text) for m in body.messages)
        asked = _asked(service, body, turns)
        return await _respond(gate, request, body, [asked], ChatShapes(body.model))

    @routes.post("/completions")
    async def completions(body: CompletionIn, request: Request) -> Response:
        """Answer each prompt as a question."""
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if not prompts or len(prompts) > service.settings.rows:
            raise AskError(400, f"1 to {service.settings.rows} prompts a request", "prompt")
        asked = [_asked(service, body, (Turn("user", prompt),)) for prompt in prompts]
        return await _respond(gate, request, body, asked, TextShapes(body.model))

    return routes


def _asked(service: Service, body: _Common, turns: tuple[Turn, ...]) -> Asked:
    settings = service.settings
    _check_extra(body)
    method = body.prag.method or body.model.removeprefix(PREFIX)
    if body.model not in MODELS or method not in CORE:
        raise AskError(404, f"no model {body.model!r}: there are {', '.join(MODELS)}", "model")
    if turns[-1].role != "user" or not turns[-1].text.strip(" ?\t\r\n"):
        raise AskError(400, "the last message is the user's, and asks something", "messages")
    if sum(len(t.text) for t in turns) > settings.question_chars:
        most = settings.question_chars
        raise AskError(413, f"the messages together may have {most} characters", "messages")
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stops) > 4:
        raise AskError(400, "up to 4 stop texts", "stop")
    if body.prag.top_k > settings.top_k:
        raise AskError(400, f"prag.top_k is at most {settings.top_k}", "prag.top_k")
    new = body.max_completion_tokens or body.max_tokens or settings.new_tokens
    if new > settings.most_new_tokens:
        raise AskError(
            400, f"an answer has at most {settings.most_new_tokens} tokens", "max_tokens"
        )
    wanted = body.prag.filter
    return Asked(
        method=method,
        turns=turns,
        config=GenerateConfig(
            max_new_tokens=new,
            temperature=body.temperature or 0.0,
            top_k=0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed if body.seed is not None else uuid.uuid4().int % 2**31,
        ),
        stops=stops,
        top_k=body.prag.top_k,
        passages=None if body.prag.passages is None else tuple(dict.fromkeys(body.prag.passages)),
        filter=Filter(
            frozenset(wanted.documents),
            frozenset(wanted.without_documents),
            frozenset(wanted.without_passages),
        ),
    )


def _check_extra(body: _Common) -> None:
    for name, value in (body.model_extra or {}).items():
        if name in _HARMLESS or value is None or value in _AS_USUAL.get(name, ()):
            continue
        raise AskError(400, f"{name} = {json.dumps(value)[:80]} is not supported here", name)


async def _respond(
    gate: Gate, request: Request, body: _Common, asked: list[Asked], shapes: ChatShapes
) -> Response:
    gate.enter(len(asked))
    if body.stream:
        return _EventStream(_Streamed(gate, body, asked, shapes))
    calls = [_call(gate, None, one) for one in asked]
    work = [asyncio.ensure_future(gate.answer(*pair)) for pair in zip(asked, calls, strict=True)]
    replies = asyncio.gather(*work)
    left = asyncio.ensure_future(_left(request))
    try:
        either: list[asyncio.Future[Any]] = [replies, left]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not replies.done():
            _give_up(calls)
        return JSONResponse(shapes.whole(await replies))
    finally:
        left.cancel()
        _give_up(calls)
        await asyncio.gather(*work, return_exceptions=True)
        gate.leave(len(asked))


async def _left(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _give_up(calls: list[Call]) -> None:
    for call in calls:
        call.gone.set()


def _call(gate: Gate, on_text: OnText | None, asked: Asked) -> Call:
    return Call(gate.service.engine, gate.service.settings.timeout, asked.stops, on_text)


class _Streamed:
    """Answers as server-sent events."""

    def __init__(self, gate: Gate, body: _Common, asked: list[Asked], shapes: ChatShapes) -> None:
        self.gate, self.asked, self.shapes = gate, asked, shapes
        self.with_usage = body.stream_options is not None and body.stream_options.include_usage

    async def lines(self) -> AsyncIterator[str]:
        """The events, to the end or until the client goes away."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[int, str | Reply | Exception]] = asyncio.Queue()

        def teller(index: int) -> Callable[[str], None]:
            return lambda text: _soon(loop, pieces, (index, text))

        calls = [_call(self.gate, teller(i), one) for i, one in enumerate(self.asked)]

        async def run(index: int) -> None:
            try:
                reply: Reply | Exception = await self.gate.answer(self.asked[index], calls[index])
            except Exception as error:  # noqa: BLE001  (it becomes the last event)
                reply = error
            # Behind the pieces, which came by way of the loop.
            loop.call_soon(pieces.put_nowait, (index, reply))

        work = [asyncio.ensure_future(run(i)) for i in range(len(self.asked))]
        replies: dict[int, Reply] = {}
        try:
            for index in range(len(self.asked)):
                first = self.shapes.first(index)
                if first is not None:
                    yield _event(first)
            while len(replies) < len(self.asked):
                index, piece = await pieces.get()
                if isinstance(piece, str):
                    yield _event(self.shapes.piece(index, piece))
                elif isinstance(piece, Reply):
                    replies[index] = piece
                    yield _event(self.shapes.last(index, piece))
                else:
                    yield _event(body_of(piece))
                    return
            if self.with_usage:
                yield _event(self.shapes.total([replies[i] for i in sorted(replies)]))
            yield "data: [DONE]\n\n"
        finally:
            _give_up(calls)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.gather(*work, return_exceptions=True))


class _EventStream(StreamingResponse):
    """Gives the room back whatever happens, also where the client left before the first event."""

    def __init__(self, streamed: _Streamed) -> None:
        super().__init__(streamed.lines(), media_type="text/event-stream")
        self._streamed = streamed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streamed.gate.leave(len(self._streamed.asked))


def _soon(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any], item: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
        loop.call_soon_threadsafe(queue.put_nowait, item)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"

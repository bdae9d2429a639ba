"""Who may ask, from where, and how much: what every request passes before anything reads it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from prag.serve.errors import error_body
from prag.serve.settings import ServeSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset(("/", "/page.css", "/page.js", "/healthz", "/readyz"))
"""What needs no key: the page's own files hold nothing, and whoever watches over it has none."""


class Guard:
    """Refuses a request by its host, its origin, its key, or the size or slowness of its body.

    The body is read whole before it goes on, so that nothing behind this waits for a client.
    """

    def __init__(self, app: App, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is None:
            body, refused = await self._body(headers, receive)
        if refused is not None:
            await _answer(send, *refused)
            return
        await self.app(scope, _replayed(body, receive), send)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, dict[str, Any]] | None:
        host = _host(headers.get("host", ""))
        if host not in self.settings.hosts:
            return 403, error_body(
                403, f"this service is not called {host!r}: start it with --allowed-host", "host"
            )
        origin = headers.get("origin")
        if origin is not None and origin != self.settings.origin and _host_of(origin) != host:
            return 403, error_body(403, "a page of another site may not ask here", "origin")
        # A browser asks whether a page may send what it wants to; that question has no key.
        asks = scope["method"] == "OPTIONS" and origin is not None
        if self._keys and scope["path"] not in OPEN and not asks and not self._known(headers):
            return 401, error_body(401, "give a key: Authorization: Bearer KEY", "invalid_api_key")
        return None

    def _known(self, headers: dict[str, str]) -> bool:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        # All are compared, so that the time says nothing of which it is, or how far it was right.
        fits = [hmac.compare_digest(given, known) for known in self._keys]
        return kind.lower() == "bearer" and any(fits)

    async def _body(
        self, headers: dict[str, str], receive: Receive
    ) -> tuple[bytes, tuple[int, dict[str, Any]] | None]:
        most = self.settings.body_bytes
        large = 413, error_body(413, f"a request may have {most} bytes", "too_large")
        try:
            if int(headers.get("content-length", "0")) > most:
                return b"", large
        except ValueError:
            return b"", (400, error_body(400, "content-length is not a number"))
        parts, size = [], 0

        async def whole() -> bool:
            nonlocal size
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return False
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most or not message.get("more_body", False):
                    return True

        try:
            came = await asyncio.wait_for(whole(), self.settings.body_seconds)
        except TimeoutError:
            came = True
            slow = f"the body has not come within {self.settings.body_seconds:.0f} s"
            return b"", (408, error_body(408, slow, "slow"))
        if size > most:
            return b"", large
        if not came:
            return b"", (400, error_body(400, "the client went away"))
        return b"".join(parts), None


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # what is left of the body is not waited for
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _host(value: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{value}").hostname or "").lower()
    except ValueError:
        return ""


def _host_of(origin: str) -> str:
    try:
        return (urlsplit(origin).hostname or "").lower()
    except ValueError:
        return ""

"""The web application: the calls, the page, errors as OpenAI's, and what watches over it all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from prag import __version__
from prag.knowledge_base.shelf import Shelf
from prag.records import PragError
from prag.serve import chat, documents
from prag.serve.asking import GoneError, TimedOutError
from prag.serve.errors import AskError, BusyError, body_of, error_body, status_of
from prag.serve.gate import Gate
from prag.serve.guards import Guard
from prag.serve.service import Service

LOG = logging.getLogger("prag.serve")

_PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
_PAGE["/page.js"] = ("page.js", "text/javascript")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def create_app(service: Service) -> FastAPI:
    """The application over a service, which it closes at its end."""
    gate = Gate(service)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        gate.close()
        service.close()

    app = FastAPI(title="prag", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.include_router(chat.router(service, gate))
    app.include_router(documents.router(service))
    _watch(app, service, gate)
    _serve_page(app)
    _tell_errors(app)
    app.add_middleware(Guard, settings=service.settings)
    if service.settings.origin is not None:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[service.settings.origin],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _watch(app: FastAPI, service: Service, gate: Gate) -> None:
    @app.get("/healthz")
    def alive() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        """Questions can be answered."""
        service.ready()
        return {"status": "ready"}

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        meters, gauges = service.meters, service.meters.gauges
        if service.rows is not None:  # a server that generates has metrics of its own
            gauges["under_way"].set(service.rows.under_way)
            gauges["waiting"].set(service.rows.waiting)
        gauges["admitted"].set(gate.inside)
        shelf: Shelf[Any, Any] = service.kb.shelf
        gauges["cached_bytes"].set(shelf.bytes)
        gauges["cache_hits"].set(shelf.hits)
        gauges["cache_misses"].set(shelf.misses)
        gauges["builds"].set(service.builder.elected)
        adapters, size = service.stored()
        gauges["adapters"].set(adapters)
        gauges["adapter_bytes"].set(size)
        states = Counter(job.state for job in service.inbox.jobs())
        for state in ("waiting", "running", "done", "failed"):
            meters.jobs.labels(state).set(states[state])
        gauges["damaged_jobs"].set(len(service.inbox.damaged()))
        return Response(meters.text(), media_type="text/plain; version=0.0.4")


def _serve_page(app: FastAPI) -> None:
    folder = files("prag.serve") / "page"

    def give(name: str, kind: str) -> Any:
        def page() -> Response:
            """The page."""
            return Response((folder / name).read_bytes(), media_type=kind, headers=_HEADERS)

        return page

    for path, (name, kind) in _PAGE.items():
        app.get(path, include_in_schema=False)(give(name, kind))


def _tell_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"{where or 'body'}: {first['msg']}"
        return JSONResponse(error_body(400, message, param=where or None), 400)

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        body = error_body(error.status_code, str(error.detail))
        return JSONResponse(body, error.status_code, headers)

    async def known(_: Request, error: Exception) -> JSONResponse:
        headers = {"retry-after": str(error.seconds)} if isinstance(error, BusyError) else {}
        return JSONResponse(body_of(error), status_of(error), headers)

    for kind in (AskError, PragError, TimedOutError, GoneError):
        app.add_exception_handler(kind, known)

    @app.exception_handler(Exception)
    def unknown(request: Request, error: Exception) -> JSONResponse:
        LOG.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse(body_of(error), 500)

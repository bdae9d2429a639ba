"""The calls that change the corpus, and look into it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from prag.corpus import read_named
from prag.records import Document, PragError
from prag.serve.errors import AskError
from prag.serve.job_files import Job
from prag.serve.service import Service, UnknownError
from prag.serve.settings import ServeSettings


class TextIn(BaseModel):
    """A document as text; its name's ending says what kind of text."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=500)
    text: str = Field(min_length=1)


class DocumentsIn(BaseModel):
    """Documents as text."""

    model_config = ConfigDict(extra="forbid")
    documents: list[TextIn] = Field(min_length=1)


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["documents"],
                    "properties": {
                        "documents": {
                            "type": "array",
                            "minItems": 1,
                            "items": TextIn.model_json_schema(),
                        }
                    },
                    "additionalProperties": False,
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
        },
    }
}


def router(service: Service) -> APIRouter:
    """The calls, over a service."""
    routes = APIRouter()

    @routes.post("/documents", status_code=202, openapi_extra=_BODY)
    async def add(request: Request) -> JSONResponse:
        """Take documents; they answer questions once the job is done."""
        given = await _given(request, service.settings)
        job = await asyncio.to_thread(_taken, service, given)
        return JSONResponse(asdict(job), 202, {"location": f"/jobs/{job.id}"})

    @routes.get("/documents")
    def documents() -> dict[str, Any]:
        """The documents, and whether they are built in."""
        names = ("name", "passages", "state")
        return {"documents": [dict(zip(names, d, strict=True)) for d in service.documents()]}

    @routes.get("/documents/{name:path}")
    def document(name: str) -> dict[str, Any]:
        """A document, and what its passages were trained on."""
        found = service.view(name)
        passages = [
            {
                "id": passage.id,
                "title": passage.title,
                "text": passage.text,
                "adapter": adapter,
                "augmentation": None
                if made is None
                else {
                    "origin": made.origin,
                    "rewrites": list(made.rewrites),
                    "pairs": [{"question": p.question, "answer": p.answer} for p in made.pairs],
                    "rejects": [asdict(r) for r in made.rejects],
                },
            }
            for passage, adapter, made in found.passages
        ]
        return {"name": found.name, "state": found.state, "passages": passages}

    @routes.delete("/documents/{name:path}")
    def withdraw(name: str) -> dict[str, Any]:
        """Take a document out; no answer rests on it any more."""
        return asdict(service.withdraw(name))

    @routes.get("/jobs")
    def jobs() -> dict[str, Any]:
        """What was handed in, the last first, and the files that are no jobs."""
        known = [asdict(job) for job in service.inbox.jobs()]
        damaged = [{"file": f, "error": e} for f, e in service.inbox.damaged().items()]
        return {"jobs": known, "damaged": damaged}

    @routes.get("/jobs/{job_id}")
    def job(job_id: str) -> dict[str, Any]:
        """How far a job is."""
        found = service.inbox.get(job_id)
        if found is None:
            raise UnknownError(f"no job {job_id!r}")
        return asdict(found)

    @routes.get("/search")
    def search(
        q: str = Query(min_length=1, max_length=service.settings.question_chars),
        top_k: int = Query(default=3, ge=1, le=service.settings.top_k),
    ) -> dict[str, Any]:
        """The passages that fit a text best."""
        found = [
            {
                "id": hit.passage_id,
                "title": passage.title,
                "text": passage.text,
                "documents": names,
                "score": hit.score,
                "adapter": adapter,
            }
            for hit, passage, names, adapter in service.search(q, top_k)
        ]
        return {"passages": found}

    return routes


async def _given(request: Request, settings: ServeSettings) -> list[tuple[str, bytes]]:
    """The names and contents of what a request brings."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            body = DocumentsIn.model_validate_json(await request.body())
        except ValidationError as error:
            raise AskError(400, _first_of(error)) from error
        given = [(d.name, d.text.encode()) for d in body.documents]
    elif kind == "multipart/form-data":
        form = await request.form(max_files=settings.files, max_fields=10)
        parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        given = [(part.filename or "", await part.read()) for part in parts]
    else:
        raise AskError(415, "send application/json or multipart/form-data")
    if not given or len(given) > settings.files:
        raise AskError(400, f"1 to {settings.files} documents a request", "files")
    return given


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"


def _taken(service: Service, given: Sequence[tuple[str, bytes]]) -> Job:
    settings = service.settings
    documents: dict[str, Document] = {}
    for name, data in given:
        name = " ".join(name.replace("\\", "/").split())
        if not name or not name.isprintable() or len(name) > 500:
            raise AskError(400, "a document has a name of up to 500 printable characters", "name")
        if len(data) > settings.document_bytes:
            raise AskError(413, f"{name}: a document may have {settings.document_bytes} bytes")
        _gather(documents, name, data, service.kb.settings.chunk_words)
    if len(service.inbox.open_jobs()) >= settings.waiting_jobs:
        raise AskError(429, "too many documents wait to be built in: try again later")
    return service.add(tuple(documents.values()))


def _gather(found: dict[str, Document], name: str, data: bytes, chunk_words: int) -> None:
    try:
        report = read_named(name, data, chunk_words)
    except PragError as error:
        raise AskError(422, str(error)) from error
    if report.problems:
        listed: Mapping[str, str] = {p.text: p.reason for p in report.problems[:5]}
        raise AskError(422, "; ".join(f"{place}: {reason}" for place, reason in listed.items()))
    for document in report.documents:
        known = found.setdefault(document.name, document)
        if known.digest != document.digest:
            raise AskError(422, f"{document.name!r} is given twice, and differs")

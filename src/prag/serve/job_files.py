"""A job on the disk: a file whose first line tells of it, and whose second holds its documents.

Several processes read and write the folder at once, on one machine or on several that share it.
So a file stands under its name whole or not at all, a number is the job's of whoever made its
draft first, and a file that is there is changed by the one that builds alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from prag.disk import explain, sync
from prag.records import Document, Passage, PragError

FORMAT = 2
"""Of the files that are written; of format 1, where all is one line, they are read as well."""

FORGOTTEN = 3600.0
"""Seconds after which a draft is that of a process that was killed."""

Kind = Literal["add", "withdraw"]
State = Literal["waiting", "running", "done", "failed"]
Mark = tuple[int, int, int]
"""Changes whenever a file does: its inode, its time of change in ns, its bytes."""


@dataclass(frozen=True)
class Job:
    """Something to do to the corpus, and how far it is.

    `stage`, `done` and `total` are of the build that it is part of; times are seconds since 1970.
    """

    id: str
    kind: Kind
    documents: tuple[str, ...]
    created: float
    state: State = "waiting"
    stage: str | None = None
    done: int = 0
    total: int = 0
    error: str | None = None
    finished: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ("done", "failed")

    @property
    def pending(self) -> bool:
        """Whether it is to be done at the next start: a withdrawal is never given up."""
        return not self.over or (self.kind == "withdraw" and self.state == "failed")


def mark(path: Path) -> Mark | None:
    """What a file has of its own, None where there is none.

    The time of change alone would not do: two changes may fall into one tick of it. Whatever
    replaces a file is another inode.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_job(path: Path) -> Job:
    """The job of a file; its documents are not read.

    Raises:
        OSError: it cannot be read; `FileNotFoundError` where it is not there (any more).
        PragError: it is damaged, or of a format that is not known here.
    """
    try:
        with path.open("rb") as file:
            line = file.readline()
            size = os.fstat(file.fileno()).st_size
        head = _head(line)
        if "documents" not in head and size != len(line) + int(head["bytes"]):
            raise ValueError(f"{size} bytes, not {len(line) + int(head['bytes'])}")
        job = Job(**{**head["job"], "documents": tuple(head["job"]["documents"])})
        if job.kind not in get_args(Kind) or job.state not in get_args(State):
            raise ValueError(f"kind {job.kind!r}, state {job.state!r}")
        if job.id != path.stem:
            raise ValueError(f"the id {job.id!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return job


def read_documents(path: Path) -> list[Document]:
    """The documents that a job brings.

    Raises:
        PragError: the file is damaged, of an unknown format, or gone.
    """
    try:
        with path.open("rb") as file:
            head = _head(file.readline())
            rows = head["documents"] if "documents" in head else json.loads(file.read())
        return [
            Document(d["name"], d["source"], tuple(Passage(*p) for p in d["passages"]))
            for d in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def create(path: Path, job: Job, documents: Sequence[Document]) -> bool:
    """Keep a new job; it is on the disk when this returns True.

    Returns:
        False where another process has taken the job's number.

    Raises:
        OSError: as the disk says; the draft does not stay.
    """
    draft = path.with_suffix(".taken")
    try:
        file = draft.open("xb")  # made by one of all that try it
    except FileExistsError:
        return False
    try:
        with file:
            taken = path.exists()  # by one whose draft became its file before ours was made
            if not taken:
                file.write(_bytes(job, documents))
        if not taken:
            _rename(draft, path)
            return True
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    draft.unlink(missing_ok=True)
    return False


def rewrite(path: Path, job: Job) -> None:
    """Replace a job's file by one that says how it is now, and holds no documents.

    Raises:
        OSError: as the disk says; the old file stays.
    """
    replace(path, _bytes(job, ()), durable=True)


def replace(path: Path, data: bytes, durable: bool) -> None:
    """Give a file another content in one step, whoever else does so at the same time.

    Args:
        durable: it is on the disk when this returns.

    Raises:
        OSError: as the disk says; the old content stays.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        draft.write_bytes(data)
        _rename(draft, path, durable)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _rename(draft: Path, path: Path, durable: bool = True) -> None:
    if durable:
        sync(draft)
        sync(path.parent)
    draft.replace(path)
    if durable:
        sync(path.parent)


def sweep(folder: Path) -> None:
    """Delete the drafts of processes that were killed before they had accepted a job."""
    for draft in (*folder.glob("*.taken"), *folder.glob("*.new")):
        with contextlib.suppress(OSError):  # another process sweeps too
            if time.time() - draft.stat().st_mtime > FORGOTTEN:
                draft.unlink()


def unkept(error: OSError, path: Path) -> PragError:
    """The error where a job cannot be written."""
    return PragError(explain(error, path, "keeping a job"))


def _bytes(job: Job, documents: Sequence[Document]) -> bytes:
    rows = [
        {
            "name": d.name,
            "source": d.source,
            "passages": [[p.title, p.text] for p in d.passages],
        }
        for d in documents
    ]
    second = json.dumps(rows, ensure_ascii=False).encode("utf-8")
    head = {"format": FORMAT, "job": asdict(job), "bytes": len(second)}
    return json.dumps(head, ensure_ascii=False).encode("utf-8") + b"\n" + second


def _head(line: bytes) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(line)
    if head.get("format", 1) not in (1, FORMAT):
        raise ValueError(f"format {head['format']!r}; this version of prag reads 1 and {FORMAT}")
    return head


def _damaged(path: Path, error: Exception) -> PragError:
    return PragError(
        f"{path}: a damaged job, or one of another version of prag ({error!r}); move the file "
        "away, and hand its documents in again"
    )

"""Documents that were handed in: kept on the disk from the moment they are accepted.

`inbox/` of a knowledge base holds a file a job, named by its number, so that their order is that
in which they came. A job to add holds its documents until they are built in; one to withdraw
hides its document until it is taken out. Whoever is killed, the next one finds them there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prag.disk import explain, replace_text
from prag.records import Document, Passage, PragError

INBOX = "inbox"
"""Its folder in a knowledge base."""

FINISHED = 500
"""Jobs that are done and still told about."""

State = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """Something to do to the corpus, and how far it is.

    `stage`, `done` and `total` are of the build that it is part of; times are seconds since 1970.
    """

    id: str
    kind: Literal["add", "withdraw"]
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


class Inbox:
    """The jobs of a knowledge base. May be used from any thread."""

    def __init__(self, folder: Path) -> None:
        """Find the jobs that are there.

        Raises:
            PragError: the folder cannot be made or read, or a file in it is damaged.
        """
        self.folder = folder
        self._lock = threading.Lock()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise PragError(explain(error, folder, "making the inbox")) from error
        jobs = [_read(path)[0] for path in sorted(folder.glob("*.json"))]
        # What was running when its process ended waits again, and a withdrawal until it is done.
        self._jobs = {j.id: replace(j, state="waiting") if j.pending else j for j in jobs}
        self._hide()

    def add(self, documents: Sequence[Document]) -> Job:
        """Take documents; they are on the disk when this returns.

        Raises:
            PragError: the disk is full or cannot be written.
        """
        return self._take("add", tuple(d.name for d in documents), documents)

    def withdraw(self, name: str) -> Job:
        """Take the wish to withdraw a document; it is on the disk when this returns.

        Raises:
            PragError: the disk is full or cannot be written.
        """
        return self._take("withdraw", (name,), ())

    def jobs(self) -> list[Job]:
        """All of them, the last first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda j: j.id, reverse=True)

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        with self._lock:
            return self._jobs.get(job_id)

    def open_jobs(self) -> list[Job]:
        """Those of which something will still come, in the order they came in."""
        return [job for job in reversed(self.jobs()) if not job.over]

    def hidden(self) -> frozenset[str]:
        """Names of the documents that are withdrawn and not taken out yet."""
        return self._hidden

    def tell(self, job_ids: Sequence[str], **changes: Any) -> None:
        """How far some jobs are; kept in memory."""
        with self._lock:
            for job_id in job_ids:
                if job_id in self._jobs and not self._jobs[job_id].over:
                    self._jobs[job_id] = replace(self._jobs[job_id], **changes)

    def finish(self, job_id: str, error: str | None = None) -> None:
        """Say that a job is over. Its documents are not kept any longer."""
        state: State = "failed" if error else "done"
        with self._lock:
            job = replace(self._jobs[job_id], state=state, error=error, finished=time.time())
            self._write(job, ())
            self._jobs[job_id] = job
            over = sorted(j.id for j in self._jobs.values() if not j.pending)
            for old in over[:-FINISHED]:
                self._path(old).unlink(missing_ok=True)
                del self._jobs[old]
            self._hide()

    def reread(self, job_id: str) -> None:
        """Another process has said that a job is over."""
        job, _ = _read(self._path(job_id))
        with self._lock:
            self._jobs[job_id] = job
            self._hide()

    def documents(self, job_id: str) -> list[Document]:
        """The documents of a job to add."""
        return _read(self._path(job_id))[1]

    def _take(self, kind: Any, names: tuple[str, ...], documents: Sequence[Document]) -> Job:
        with self._lock:
            last = max(self._jobs, default="")
            number = max(time.time_ns(), int(last, 16) + 1 if last else 0)
            job = Job(f"{number:016x}", kind, names, time.time())
            self._write(job, documents)
            self._jobs[job.id] = job
            self._hide()
        return job

    def _hide(self) -> None:
        hidden = set()
        for job in sorted(self._jobs.values(), key=lambda j: j.id):
            if job.kind == "withdraw" and job.pending:
                hidden.add(job.documents[0])
            elif job.kind == "add" and job.state == "done":  # handed in again, after it
                hidden.difference_update(job.documents)
        self._hidden = frozenset(hidden)

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"

    def _write(self, job: Job, documents: Sequence[Document]) -> None:
        kept = [
            {
                "name": d.name,
                "source": d.source,
                "passages": [[p.title, p.text] for p in d.passages],
            }
            for d in documents
        ]
        text = json.dumps({"job": asdict(job), "documents": kept}, ensure_ascii=False)
        path = self._path(job.id)
        try:
            replace_text(path, text)
        except OSError as error:
            raise PragError(explain(error, path, "keeping a job")) from error


def _read(path: Path) -> tuple[Job, list[Document]]:
    try:
        data = json.loads(path.read_text("utf-8"))
        job = Job(**{**data["job"], "documents": tuple(data["job"]["documents"])})
        documents = [
            Document(d["name"], d["source"], tuple(Passage(*p) for p in d["passages"]))
            for d in data["documents"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PragError(
            f"{path}: a damaged job ({error!r}); move the file away, and hand its documents in "
            "again"
        ) from error
    return job, documents

"""Documents that were handed in: kept on the disk from the moment they are accepted.

`inbox/` of a knowledge base holds a file a job, named by its number, so that their order is that
in which they came. A job to add holds its documents until they are built in; one to withdraw
hides its document until it is taken out. Whoever is killed, the next one finds them there.

The folder is what all replicas of a service know: each reads what has changed in it before it
searches, and before an answer leaves. How far a build is, the one that builds writes into a file
beside the jobs.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prag.disk import explain
from prag.records import Document, PragError
from prag.serve import job_files
from prag.serve.job_files import Job, Kind, Mark, State

LOG = logging.getLogger("prag.serve")

INBOX = "inbox"
"""Its folder in a knowledge base."""

PROGRESS = "progress"
"""The file in it that tells how far the jobs are that are being built in."""

FINISHED = 500
"""Jobs that are done and still told about."""

SHARED_EVERY = 1.0
"""Seconds between two writings of how far a build is."""


_TOLD = ("state", "stage", "done", "total")


@dataclass(frozen=True)
class _Seen:
    """A file as it was read: the job, or what is wrong with it and the job that it was before."""

    mark: Mark | None
    job: Job | None
    damage: str = ""

    @property
    def settled(self) -> bool:
        """Whether the file will not change any more."""
        return self.job is not None and not self.job.pending and not self.damage


class Inbox:
    """The jobs of a knowledge base. May be used from any thread, and by several processes.

    `changes` counts what other processes were seen to have done to jobs that were not taken here.
    """

    def __init__(self, folder: Path) -> None:
        """Find the jobs that are there; a withdrawal that failed waits again.

        Raises:
            PragError: the folder cannot be made or read.
        """
        self.folder = folder
        self.changes = 0
        self._lock = threading.RLock()
        self._seen: dict[str, _Seen] = {}
        self._mine: set[str] = set()  # ids of those taken here
        self._hidden: frozenset[str] = frozenset()  # names of documents
        self._settled: frozenset[str] = frozenset()  # ids of jobs whose files are not read again
        self._progress: dict[str, dict[str, Any]] = {}
        self._progress_mark: Mark | None = None
        self._told = False  # whether something is to be shared
        self._shared = 0.0
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise PragError(explain(error, folder, "making the inbox")) from error
        job_files.sweep(folder)
        self.look()
        self._try_again()

    # -- what there is ------------------------------------------------------------------------

    def look(self) -> None:
        """Read what has changed in the folder: names, and the files of jobs that are not over.

        Raises:
            PragError: the folder cannot be read: nobody knows what is withdrawn.
        """
        with self._lock:
            try:
                with os.scandir(self.folder) as entries:
                    names = [entry.name for entry in entries]
            except OSError as error:
                raise PragError(explain(error, self.folder, "looking for jobs")) from error
            there = {name[:-5] for name in names if name.endswith(".json")}
            changed = False
            # A name may be missed while its file is replaced, hence the known ones.
            for job_id in (there | self._seen.keys()) - (there & self._settled):
                if self._read(job_id, self._seen.get(job_id)):
                    changed = True
                    self.changes += job_id not in self._mine
            if changed:
                self._changed()
            self._hear()

    def jobs(self) -> list[Job]:
        """All of them, the last first, as they are now."""
        with self._lock:
            self.look()
            return [self._shown(job) for job in reversed(self._known())]

    def get(self, job_id: str) -> Job | None:
        """A job by its id, as it is now."""
        with self._lock:
            self.look()
            found = self._seen.get(job_id)
            return None if found is None or found.job is None else self._shown(found.job)

    def open_jobs(self) -> list[Job]:
        """Those of which something will still come, in the order they came in."""
        return [job for job in reversed(self.jobs()) if not job.over]

    def hidden(self) -> frozenset[str]:
        """Names of the documents that are withdrawn and not taken out, at the last look."""
        return self._hidden

    def damaged(self) -> dict[str, str]:
        """The files that are no jobs, by name, and what is wrong with each, at the last look."""
        with self._lock:
            return {f"{i}.json": s.damage for i, s in sorted(self._seen.items()) if s.damage}

    def documents(self, job_id: str) -> list[Document]:
        """The documents of a job to add."""
        return job_files.read_documents(self._path(job_id))

    def later(self, job: Job, name: str) -> list[Job]:
        """The jobs that came after one and are about a document of a name."""
        return [j for j in self._known() if j.id > job.id and name in j.documents]

    # -- what is handed in --------------------------------------------------------------------

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

    # -- what comes of it ---------------------------------------------------------------------

    def lead(self) -> None:
        """From now on it is told here how far jobs are: what another one told is void."""
        with self._lock:
            self._progress.clear()
            self._told, self._shared = True, 0.0
            self.share()

    def tell(self, job_ids: Sequence[str], **changes: Any) -> None:
        """How far some jobs are; kept in memory until it is shared."""
        with self._lock:
            for job_id in job_ids:
                self._progress[job_id] = {**self._progress.get(job_id, {}), **changes}
            self._told = True

    def share(self) -> None:
        """Let other processes know what was told, unless they were a moment ago.

        That it cannot be written harms nothing: they see the jobs wait.
        """
        with self._lock:
            now = time.monotonic()
            if not self._told or now - self._shared < SHARED_EVERY:
                return
            self._told, self._shared = False, now
            still = {job.id for job in self._known() if not job.over}
            self._progress = {i: told for i, told in self._progress.items() if i in still}
            path = self.folder / PROGRESS
            try:
                job_files.replace(path, json.dumps(self._progress).encode(), durable=False)
                self._progress_mark = job_files.mark(path)
            except OSError as error:
                LOG.warning("%s", explain(error, path, "telling how far the jobs are"))

    def finish(self, job_id: str, error: str | None = None) -> None:
        """Say that a job is over. Its documents are not kept any longer.

        Raises:
            PragError: the disk is full, or cannot be read or written.
        """
        state: State = "failed" if error else "done"
        with self._lock:
            self.look()
            seen = self._seen.get(job_id)
            if seen is None or seen.job is None:
                return  # somebody has taken the file away: there is nothing to say it of
            self._rewrite(replace(seen.job, state=state, error=error, finished=time.time()))
            self._trim()
            self._changed()

    def reread(self, job_id: str) -> None:
        """Another process has said that a job is over."""
        with self._lock:
            self._read(job_id, self._seen.get(job_id))
            self._changed()

    # -- what the above share -----------------------------------------------------------------

    def _known(self) -> list[Job]:
        with self._lock:
            found = [seen.job for seen in self._seen.values() if seen.job is not None]
        return sorted(found, key=lambda job: job.id)

    def _shown(self, job: Job) -> Job:
        return job if job.over else replace(job, **self._progress.get(job.id, {}))

    def _take(self, kind: Kind, names: tuple[str, ...], documents: Sequence[Document]) -> Job:
        with self._lock:
            self.look()
            last = max((i for i in self._seen if _is_number(i)), default="0")
        number = max(time.time_ns(), int(last, 16) + 1)
        while True:
            job = Job(f"{number:016x}", kind, names, time.time())
            path = self._path(job.id)
            self._mine.add(job.id)
            try:
                if job_files.create(path, job, documents):
                    break
            except OSError as error:
                raise job_files.unkept(error, path) from error
            self._mine.discard(job.id)  # another one had the number
            number += 1
        with self._lock:
            self._read(job.id, self._seen.get(job.id))
            self._changed()
        return job

    def _rewrite(self, job: Job) -> None:
        path = self._path(job.id)
        try:
            job_files.rewrite(path, job)
        except OSError as error:
            raise job_files.unkept(error, path) from error
        self._seen[job.id] = _Seen(job_files.mark(path), job)

    def _read(self, job_id: str, known: _Seen | None) -> bool:
        """Read a job's file if it is another one than it was; whether it is."""
        path = self._path(job_id)
        job = None if known is None else known.job  # what was known hides on, damaged or not
        try:
            mark = job_files.mark(path)
            if mark is not None and known is not None and mark == known.mark:
                return False
            now = _Seen(mark, job_files.read_job(path))
        except FileNotFoundError:
            self._mine.discard(job_id)
            return self._seen.pop(job_id, None) is not None
        except PragError as error:
            now = _Seen(mark, job, str(error))
        except OSError as error:
            now = _Seen(None, job, explain(error, path, "reading a job"))  # try it again
        if now.damage and (known is None or known.damage != now.damage):
            LOG.error("%s", now.damage)
        self._seen[job_id] = now
        return True

    def _hear(self) -> None:
        """Read how far the jobs are, where another process tells it."""
        path = self.folder / PROGRESS
        try:
            mark = job_files.mark(path)
            if mark is not None and mark != self._progress_mark:
                heard = json.loads(path.read_bytes()).items()
                self._progress = {i: {f: v[f] for f in _TOLD if f in v} for i, v in heard}
                self._progress_mark = mark
        except (OSError, ValueError, TypeError, AttributeError) as error:
            LOG.warning("%s: cannot be read: %s", path, error)

    def _try_again(self) -> None:
        for job in self._known():
            if job.over and job.pending:
                waiting = replace(job, state="waiting", error=None, finished=None)
                try:
                    self._rewrite(waiting)
                except PragError as error:  # it hides its document all the same
                    LOG.error("%s", error)
        self._changed()

    def _trim(self) -> None:
        """Forget the oldest that are over; none that came after one that is still to be done."""
        jobs = self._known()
        first = min((job.id for job in jobs if job.pending), default="g")
        over = [job.id for job in jobs if not job.pending and job.id < first]
        for old in over[:-FINISHED]:
            self._path(old).unlink(missing_ok=True)
            del self._seen[old]

    def _changed(self) -> None:
        hidden = set()
        for job in self._known():
            if job.kind == "withdraw" and job.pending:
                hidden.add(job.documents[0])
            elif job.kind == "add" and job.state == "done":  # handed in again, after it
                hidden.difference_update(job.documents)
        self._hidden = frozenset(hidden)
        self._settled = frozenset(i for i, seen in self._seen.items() if seen.settled)

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"


def _is_number(name: str) -> bool:
    return len(name) == 16 and set(name) <= set("0123456789abcdef")

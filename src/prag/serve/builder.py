"""The process that builds documents in, and the thread that watches over it.

Training changes what the model's modules do while it lasts, so it cannot share a model with
questions that are answered meanwhile: it is done by a process of its own, with less of a claim to
the processor. It takes the jobs that wait, in their order, builds once for all of them, and writes
what it does to its standard output, a JSON object a line. It may be killed at any time: a job is
over when its file says so, and whatever it had done before is not done again.

Of several services over one folder one builds: the one that holds a lock, as long as it lives. The
process holds another, so that none begins before that of a service that was killed has ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import filelock

from prag.disk import InUseError, explain
from prag.knowledge_base import KnowledgeBase
from prag.records import PragError
from prag.serve.job_files import Job
from prag.serve.jobs import INBOX, Inbox

LOG = logging.getLogger("prag.serve")

LEADER = ".builder.lock"
"""Held by the service that builds."""

WORKER = ".building.lock"
"""Held by the process that it builds with."""

ELECTION = 1.0
"""Seconds after which a service that does not build looks whether nobody does."""

TRIES = 3
"""Times that the process may end in the middle of the same jobs before they have failed."""


Say = Callable[[dict[str, Any]], None]
"""Told `{"begin": [ids]}`, `{"stage", "done", "total"}`, and `{"over": id, "error": text}`."""


def work(kb: KnowledgeBase, inbox: Inbox, say: Say, at_once: int | None = None) -> None:
    """Do the jobs that wait, until there is none.

    Args:
        at_once: how many are done with one build; by default all that wait.
    """
    while jobs := inbox.open_jobs()[:at_once]:
        say({"begin": [job.id for job in jobs]})
        say({"stage": "load", "done": 0, "total": 0})
        building: list[Job] = []
        for job in jobs:
            error = _patient(partial(_enter, kb, inbox, job), say)
            if job.kind == "add" and error is None:
                building.append(job)
            else:
                _over(inbox, job, error, say)
        error = _patient(partial(_build, kb, say), say)
        for job in building:
            _over(inbox, job, error, say)


def _patient(do: Callable[[], None], say: Say) -> str | None:
    """Do something as soon as no other process writes; what went wrong, if something did."""
    while True:
        try:
            do()
        except InUseError:
            say({"stage": "wait", "done": 0, "total": 0})
            time.sleep(1.0)
        except PragError as error:
            return str(error)
        else:
            return None


def _enter(kb: KnowledgeBase, inbox: Inbox, job: Job) -> None:
    if job.kind == "add":
        wanted = [d for d in inbox.documents(job.id) if not _withdrawn(inbox, job, d.name)]
        if wanted:
            kb.add_documents(wanted)
    elif not _back(inbox, job) and kb.document(job.documents[0]) is not None:
        kb.withdraw(job.documents)  # else one that was killed had done it


def _withdrawn(inbox: Inbox, job: Job, name: str) -> bool:
    """Whether a document was withdrawn after it was handed in: it would come back."""
    return any(later.kind == "withdraw" for later in inbox.later(job, name))


def _back(inbox: Inbox, job: Job) -> bool:
    """Whether the document was handed in again and built in since: that one is to stay."""
    return any(j.kind == "add" and j.state == "done" for j in inbox.later(job, job.documents[0]))


def _build(kb: KnowledgeBase, say: Say) -> None:
    def tell(stage: str, done: int, total: int) -> None:
        say({"stage": stage, "done": done, "total": total})

    if kb.count().passages:  # where nothing is left, what was built is passed over
        kb.build(tell)


def _over(inbox: Inbox, job: Job, error: str | None, say: Say) -> None:
    inbox.finish(job.id, error)
    say({"over": job.id, "error": error})


def main(folder: str, device: str) -> None:
    """The process: a line on the standard input says that jobs wait; its end is the end.

    A line with a number says how many to build in at once.
    """
    with contextlib.suppress(OSError):
        os.nice(10)  # questions come first
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is not part of what is said
    orders = _orders()
    with filelock.FileLock(Path(folder) / WORKER):
        kb = KnowledgeBase.open(Path(folder), device=device)
        inbox = Inbox(kb.folder / INBOX)

        def say(what: dict[str, Any]) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        for line in orders:
            work(kb, inbox, say, int(line) if line.strip() else None)
            say({"idle": True})


def _orders() -> Iterator[str]:
    """The lines of the standard input. At its end the service is no more, and so is this."""
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # in the middle of whatever it is, as if killed: another one goes on with it

    threading.Thread(target=listen, daemon=True).start()
    return iter(lines.get, None)


class Builder:
    """Watches over the process: starts it when there is something to do, again when it died."""

    def __init__(
        self, folder: Path, inbox: Inbox, changed: Callable[[], None], device: str = "cpu"
    ) -> None:
        """Nothing runs yet; `wake` starts it, where this service is the one that builds.

        Args:
            folder: of the knowledge base.
            changed: called when a job is over.
            device: where the process has its model.

        Raises:
            PragError: the folder cannot be written.
        """
        self._folder, self._inbox, self._changed = folder, inbox, changed
        self._device = device
        self.elected = False
        # Any thread may let go of what another one has taken.
        self._lock = filelock.FileLock(folder / LEADER, timeout=0, thread_local=False)
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=20)  # the last lines of its standard error
        self._elect()
        self._thread = threading.Thread(target=self._run, name="prag-builder", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._process is None else self._process.pid

    def wake(self) -> None:
        """There may be something to do."""
        self._wanted.set()

    def close(self) -> None:
        """End the process, wherever it is; the jobs that were not over wait for the next start."""
        self._closing.set()
        self._wanted.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(timeout=10)
        if self.elected:
            self.elected = False
            self._inbox.lead()  # nothing runs any more
            self._lock.release()

    def _elect(self) -> bool:
        """Whether this is the service that builds; it is from when no other one is."""
        if not self.elected:
            try:
                self._lock.acquire()
            except filelock.Timeout:
                return False
            except OSError as error:
                raise PragError(explain(error, self._folder / LEADER, "locking it")) from error
            self.elected = True
            self._inbox.lead()
        return True

    def _run(self) -> None:
        died: dict[str, int] = {}  # how often the process ended in the middle of a job
        while not self._closing.is_set():
            self._wanted.wait(None if self.elected else ELECTION)
            self._wanted.clear()
            try:
                if not self._closing.is_set() and self._elect():
                    self._work_off(died)
            except PragError as error:  # a disk that is full, or away
                LOG.error("%s", error)
                self._closing.wait(ELECTION)
                self._wanted.set()
        self._end()

    def _work_off(self, died: dict[str, int]) -> None:
        while not self._closing.is_set() and (waiting := self._inbox.open_jobs()):
            # After a death one by one, so that only the job that is to blame fails.
            alone = any(job.id in died for job in waiting)
            ids = self._turn("1" if alone else "")
            if ids is None:
                continue
            self._end()
            if self._closing.is_set():
                break
            for job_id in ids or [waiting[0].id]:
                died[job_id] = died.get(job_id, 0) + 1
                if died[job_id] >= TRIES:
                    self._give_up(job_id)

    def _turn(self, at_once: str) -> list[str] | None:
        """Let the process do what waits; the jobs that it died over, None if it did not."""
        process = self._started()
        ids: list[str] = []
        if process.stdin is None or process.stdout is None:
            return ids
        try:
            process.stdin.write(f"{at_once}\n")
            process.stdin.flush()
        except OSError:
            return ids
        for line in process.stdout:
            said = json.loads(line)
            if "idle" in said:
                return None
            if "begin" in said:
                ids = said["begin"]
                self._inbox.tell(ids, state="running")
            elif "over" in said:
                self._inbox.reread(said["over"])
                ids = [job_id for job_id in ids if job_id != said["over"]]
                self._changed()
            else:
                self._inbox.tell(ids, **said)
        return ids

    def _give_up(self, job_id: str) -> None:
        self._inbox.finish(
            job_id,
            f"the building process ended {TRIES} times in the middle of this: "
            + " ".join(list(self._said)[-3:]),
        )
        self._changed()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._said.clear()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prag.serve.builder", str(self._folder), self._device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            threading.Thread(
                target=_listen, args=(self._process.stderr, self._said), daemon=True
            ).start()
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _listen(stream: IO[str] | None, said: deque[str]) -> None:
    for line in stream or ():
        said.append(line.strip())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

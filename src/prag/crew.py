"""Many processes that encode and augment, on one machine or many: actors of a Ray cluster.

Each has the base model loaded. Work is handed out a batch at a time, and what comes back is given
to whoever asked, in the order in which it is done: only that one process writes. A worker that dies
loses the batch it had; another one does it, and a new worker takes the place of the dead one.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch

from prag.augment import Augmenter, self_augmenter
from prag.config import Recipe
from prag.lora import Adapter
from prag.model import BaseModel, load_model
from prag.prompts import Lesson
from prag.records import Augmentation, Passage, PragError
from prag.trainer import Trainer

TRIES = 3
"""Workers that may fail over a batch before it is given up, and before anything is done at all."""

PATIENCE = 600.0
"""Seconds in which one worker at least must come, where none is at work."""

Filters = Mapping[str, "np.ndarray[Any, Any]"]

T = TypeVar("T")
W = TypeVar("W")


@dataclass(frozen=True)
class Workers:
    """How many workers, and where.

    Args:
        cpu: workers that compute on processors.
        gpu: workers that compute on a GPU each.
        address: of a Ray cluster: `ray://host:10001`, `host:6379`, `auto`; None starts one on this
            machine and ends it afterwards.
        cores: of each worker.
    """

    cpu: int = 1
    gpu: int = 0
    address: str | None = None
    cores: int = 1

    def __post_init__(self) -> None:
        if min(self.cpu, self.gpu) < 0 or self.cpu + self.gpu < 1:
            raise PragError("at least 1 worker is needed")
        if self.cores < 1:
            raise PragError("a worker has at least 1 core")


class Worker:
    """One process of a crew."""

    def __init__(self, model: str, fingerprint: str, recipe: Recipe, device: str, cores: int):
        torch.set_num_threads(cores)
        self._recipe = recipe
        self._base = load_model(model, device=device)
        self._trainer: Trainer | None = None
        self._augmenter: Augmenter | None = None
        if self._base.fingerprint != fingerprint:
            raise PragError(
                f"the model {model!r} is another one on this worker: its fingerprint is "
                f"{self._base.fingerprint}, not {fingerprint}"
            )

    def ready(self) -> bool:
        """Answers when the model is loaded."""
        return True

    def augment(self, passages: Sequence[Passage]) -> list[Augmentation]:
        """The augmentation of each passage, in order."""
        if self._augmenter is None:
            self._augmenter = self_augmenter(self._base, self._recipe.augment)
        return self._augmenter.augment(passages)

    def encode(self, lessons: Sequence[Lesson], filters: Filters) -> list[Adapter]:
        """The adapters of a group of passages, in the memory of the processor."""
        if self._trainer is None:
            measured = {name: torch.from_numpy(P.copy()) for name, P in filters.items()}
            self._trainer = Trainer.ready(self._base, self._recipe, filters=measured)
        return [
            Adapter(
                {name: (A.cpu(), B.cpu()) for name, (A, B) in made.factors.items()},
                made.rank,
                made.alpha,
            )
            for made in self._trainer.encode(lessons)
        ]


@dataclass(frozen=True)
class Failure:
    """A batch that was given up: which, and what the last worker said."""

    index: int
    reason: str


class Crew:
    """The workers of a build. Use it in a `with` block, after which they are gone.

    Args:
        base: as the process that hands out the work has it; workers load the same by its name.
    """

    def __init__(self, base: BaseModel, recipe: Recipe, workers: Workers) -> None:
        self.deaths = 0
        self.failures: list[Failure] = []
        self._ray = _ray()
        # A program that has a cluster already keeps it.
        self._own = workers.address is not None or not self._ray.is_initialized()
        self._connect(workers)
        self._kinds = ["cpu"] * workers.cpu + ["cuda"] * workers.gpu
        self._cores = workers.cores
        self._made_with = (base.name, base.fingerprint, recipe)
        self._hiring: dict[Any, tuple[Any, str]] = {}  # by the promise that it is ready
        self._idle: deque[tuple[Any, str]] = deque()
        self._refused = 0
        for kind in self._kinds:
            self._hire(kind)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor, _ in (*self._hiring.values(), *self._idle):
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()

    def augment(
        self, batches: Iterable[Sequence[Passage]]
    ) -> Iterator[tuple[Sequence[Passage], list[Augmentation]]]:
        """Batches of passages with their augmentations, as they are done.

        A batch is drawn when a worker is there for it.
        """
        return self._hand_out(batches, lambda actor, batch: actor.augment.remote(batch))

    def encode(
        self, trainer: Trainer, groups: Iterable[Sequence[Lesson]]
    ) -> Iterator[tuple[Sequence[Lesson], list[Adapter]]]:
        """Groups of lessons with their adapters, as they are done; drawn as `augment` does."""
        filters = self._ray.put({n: P.cpu().numpy() for n, P in trainer.filters.items()})
        return self._hand_out(groups, lambda actor, group: actor.encode.remote(group, filters))

    def check(self) -> None:
        """Make sure that nothing was given up.

        Raises:
            PragError: some batches were; all others are done.
        """
        if self.failures:
            raise PragError(
                f"{len(self.failures)} batches were given up, each after {TRIES} workers failed "
                f"over it ({self.failures[0].reason}); all others are done and kept: run it again, "
                "with fewer tokens a step if memory is what is missing"
            )

    def _hand_out(
        self, batches: Iterable[W], call: Callable[[Any, W], Any]
    ) -> Iterator[tuple[W, T]]:
        """Each batch with what comes of it, in the order in which it comes."""
        fresh = enumerate(batches)
        waiting: deque[tuple[int, W]] = deque()  # what a worker failed over, or one that is drawn
        running: dict[Any, tuple[tuple[Any, str], int, W]] = {}
        tries: Counter[int] = Counter()

        def more() -> bool:
            if not waiting:
                waiting.extend(islice(fresh, 1))
            return bool(waiting)

        while running or more():
            while self._idle and more():
                worker, (index, batch) = self._idle.popleft(), waiting.popleft()
                running[call(worker[0], batch)] = (worker, index, batch)
            promises = [*running, *self._hiring]
            done, _ = self._ray.wait(promises, num_returns=1, timeout=PATIENCE)
            if not done and not running:
                raise PragError(
                    f"no worker came in {PATIENCE:.0f} s: the cluster has no room for one with "
                    f"{self._cores} cores, or cannot start it; `ray status` says what it has"
                )
            for promise in done:
                if promise in self._hiring:
                    self._arrived(promise)
                    continue
                worker, index, batch = running.pop(promise)
                result, reason = self._result(promise, worker)
                if reason is None:
                    yield batch, result
                    continue
                tries[index] += 1
                if tries[index] < TRIES:
                    waiting.append((index, batch))
                else:
                    self.failures.append(Failure(index, reason))

    def _result(self, promise: Any, worker: tuple[Any, str]) -> tuple[Any, str | None]:
        """What a worker made, or why it did not."""
        try:
            result = self._ray.get(promise)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            return None, _reason(error)
        except self._ray.exceptions.RayError as error:
            self.deaths += 1
            self._ray.kill(worker[0])
            self._hire(worker[1])
            return None, _reason(error)
        self._idle.append(worker)
        return result, None

    def _hire(self, device: str) -> None:
        wants = {"num_cpus": self._cores, "num_gpus": 1 if device == "cuda" else 0}
        actor = self._ray.remote(**wants)(Worker).remote(*self._made_with, device, self._cores)
        self._hiring[actor.ready.remote()] = (actor, device)

    def _arrived(self, promise: Any) -> None:
        actor, device = self._hiring.pop(promise)
        try:
            self._ray.get(promise)
        except self._ray.exceptions.RayError as error:
            self._refused += 1
            self.deaths += 1
            if self._refused >= TRIES * len(self._kinds):
                raise PragError(
                    f"{self._refused} workers could not begin: {_reason(error)}"
                ) from error
            self._hire(device)
        else:
            self._refused = 0
            self._idle.append((actor, device))

    def _connect(self, workers: Workers) -> None:
        if not self._own:
            return
        # Ray tells its makers of every cluster unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if workers.address is not None:
                _check_reached(workers.address)
                self._ray.init(workers.address, **quiet)
            else:
                cores = workers.cores * (workers.cpu + workers.gpu)
                self._ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = workers.address or "this machine"
            raise PragError(
                f"no Ray cluster at {where}: {_reason(error)}: start one with "
                "`ray start --head`, or leave --on out"
            ) from error


def _check_reached(address: str) -> None:
    """Make sure that somebody listens: Ray itself asks for minutes, and then ends the process.

    Raises:
        OSError: nobody does.
        ValueError: not an address.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10.0):
        pass


def _reason(error: BaseException) -> str:
    """What a user can act on; else the last line of what Ray says."""
    text = str(error)
    if "PragError: " in text:
        return " ".join(text.rsplit("PragError: ", 1)[1].split())[:600]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else repr(error))[:300]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise PragError(
            f"workers need Ray, which is not installed ({error}): pip install 'prag[ray]'"
        ) from error
    return ray

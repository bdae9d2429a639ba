"""The adapter store under SIGKILL: whatever was reported done is there afterwards.

Three ways to place the kill: at random instants of a loop of commits and compactions, at every
state of the folder that a piece of work brings about, and with a half-written index.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import prag.store
from prag.lora import Adapter, Site, flatten, numbers, unflatten
from prag.records import AdapterKey
from prag.store import AdapterStore, StoredItem

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are of POSIX"),
]

SITES = (Site("up", 6, 10), Site("down", 10, 6))
BATCH = 3
SEED = 20250117
KILLS = 12
CODE = str(Path(prag.store.__file__).parent)


def key(i: int) -> AdapterKey:
    return AdapterKey(f"{i:016x}", "base", "recipe")


def adapter(i: int) -> Adapter:
    return unflatten(torch.arange(numbers(SITES, 2)) + 1000.0 * i, SITES, 2, 32.0)


def batch(n: int) -> list[StoredItem]:
    members = range(n * BATCH, (n + 1) * BATCH)
    return [StoredItem(key(i), adapter(i), f"e{i}") for i in members]


def assert_intact(store: AdapterStore, done: list[int]) -> None:
    """Every adapter of the batches `done` reads back, and whatever else there is is whole."""
    members = {i for n in done for i in range(n * BATCH, (n + 1) * BATCH)}
    stored = store.keys()
    assert {key(i) for i in members} <= set(stored)
    assert len(stored) % BATCH == 0, "a batch is stored by half"
    for k, read in store.read_many(stored).items():
        assert torch.equal(flatten(read, SITES), flatten(adapter(int(k.passage, 16)), SITES))
    assert store.verify().damaged == ()


# Everything below `main_*` runs in a child that a server with torch loaded has started: it has
# one thread, so it can fork, and what it forks can be killed without a second's start-up.


def main_random(folder: str, answer: str) -> None:
    """Kill a writer at random instants; after each kill the store must be intact."""
    torch.set_num_threads(1)
    log = Path(answer).with_name("log")
    instants = random.Random(SEED)
    leftovers = compactions = 0
    for attempt in range(KILLS):
        log.touch()
        logged = log.stat().st_size
        writer = forked(lambda: commit_forever(folder, log))
        wait_for("ready", log, logged)
        delay = instants.uniform(0.0, 0.2)
        time.sleep(delay)
        if attempt == KILLS - 1:  # after all these kills the loop still gets on
            wait_for("compact", log, logged)
        os.kill(writer, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(writer, 0)[1]) == signal.SIGKILL
        words = log.read_text("utf-8").split("\n")[:-1]
        done = [int(word.split()[1]) for word in words if word.startswith("batch")]
        compactions = words.count("compact")
        print(f"seed {SEED}, kill {attempt}, after {delay:.4f} s, batches done: {len(done)}")
        assert len(done) == len(set(done))
        with AdapterStore.open(folder) as store:
            assert_intact(store, done)
            swept = store.sweep()
            leftovers += swept.temporaries + swept.shards
            assert store.verify().orphans == ()
    counts = {"batches": len(done), "leftovers": leftovers, "compactions": compactions}
    Path(answer).write_text(json.dumps(counts), "utf-8")


def wait_for(word: str, log: Path, logged: int) -> None:
    """Until the writer has logged a word after the first `logged` bytes."""
    until = time.monotonic() + 60
    while f"{word}\n".encode() not in log.read_bytes()[logged:]:
        assert time.monotonic() < until, f"the writer does not come to {word!r}"
        time.sleep(0.001)


def commit_forever(folder: str, log: Path) -> None:
    """Commit batch after batch, and compact now and then; log each when it is done."""
    with AdapterStore.open(folder) as store, log.open("a", encoding="utf-8") as done:

        def report(word: str) -> None:
            done.write(word + "\n")
            done.flush()
            os.fsync(done.fileno())

        n = len(store) // BATCH
        report("ready")
        while True:
            store.commit(batch(n), SITES)
            report(f"batch {n}")
            n += 1
            if n % 2 == 0:
                store.compact(3000)
                report("compact")


def main_every_state(folder: str, answer: str) -> None:
    """Do each piece of work again and again, killed one state of the folder later each time."""
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # as in `unsynced`; this process ends with the test
    template = Path(folder) / "template"
    prepare(template)
    counts: dict[str, int] = {}
    for name, work in WORK.items():
        states = 0
        while True:
            place = Path(folder) / f"{name}-{states}"
            shutil.copytree(template, place)
            if not killed_at(states, place, work):
                break
            try:
                survives(place, name)
            except BaseException as error:
                raise AssertionError(f"{name}, killed in state {states}: {error!r}") from error
            states += 1
        counts[name] = states
    Path(answer).write_text(json.dumps(counts), "utf-8")


def main_half_written(folder: str, _: str) -> None:
    """Die in a transaction so large that SQLite has begun to write it into the index."""
    store = AdapterStore.open(folder)
    connection = store.index._connection
    connection.execute("PRAGMA cache_size = 1")
    with store.index.transaction("dying"):
        connection.execute("UPDATE adapters SET shard = 'nowhere', examples = hex(zeroblob(2000))")
        connection.execute("SELECT count(*) FROM adapters").fetchall()
        os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], None]) -> int:
    """The process id of a fork that does `work`; its exit status is 1 if that raises."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.settrace(None)
        os._exit(code)


def unsynced(place: Path) -> AdapterStore:
    """The store, opened so that SQLite does not wait for the disk: a kill is no power cut."""
    store = AdapterStore.open(place)
    store.index._connection.execute("PRAGMA synchronous = OFF")
    return store


# Pieces of work that are killed at every line


LEAST = {"commit": 5, "replace": 5, "compact": 8, "sweep": 3, "discard": 3}
"""States each must pass through: the test is none if the kills miss the work."""


def commit_one(store: AdapterStore) -> None:
    store.commit(batch(2), SITES)


def commit_again(store: AdapterStore) -> None:
    store.commit(batch(1), SITES)


def compact_all(store: AdapterStore) -> None:
    store.compact()


def sweep_all(store: AdapterStore) -> None:
    store.sweep()


def discard_one(store: AdapterStore) -> None:
    store.discard([item.key for item in batch(1)])


WORK: dict[str, Callable[[AdapterStore], None]] = {
    "commit": commit_one,
    "replace": commit_again,
    "compact": compact_all,
    "sweep": sweep_all,
    "discard": discard_one,
}


def prepare(place: Path) -> None:
    """Batches 0 and 1 in two shards, the first half garbage, and leftovers of a kill."""
    with AdapterStore.open(place) as store:
        store.commit([*batch(0), *batch(9)], SITES)
        store.discard([item.key for item in batch(9)])
        store.commit(batch(1), SITES)
    (place / "shards" / "aa.safetensors").write_bytes(b"no row names it")
    (place / "shards" / "bb.safetensors.tmp").write_bytes(b"half")


def state_of(place: Path) -> str:
    """What a kill would leave now: the names and the bytes of all files."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return hashlib.sha256(repr([(p.name, p.read_bytes()) for p in files]).encode()).hexdigest()


def killed_at(state: int, place: Path, work: Callable[[AdapterStore], None]) -> bool:
    """Run `work` in a fork that is killed when the folder comes into its n-th new state.

    It is looked at before every line of the store's code. False if it had fewer states.
    """
    seen: set[str] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        if event in ("line", "return"):
            seen.add(state_of(place))
            if len(seen) > state:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced() -> None:
        store = unsynced(place)
        sys.settrace(trace)
        work(store)

    status = os.waitpid(forked(traced), 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work itself failed"
    return False


def survives(place: Path, name: str) -> None:
    """The store opens, has what it must have, and the work can be done again."""
    must = [0] if name == "discard" else [0, 1]
    with AdapterStore.open(place, readonly=True) as store:
        assert_intact(store, must)
    with unsynced(place) as store:
        store.sweep()
        assert_intact(store, must)
        assert store.verify().orphans == ()
        WORK[name](store)
        assert_intact(store, [0, 1, 2] if name == "commit" else must)


# The tests


@pytest.fixture(scope="module")
def server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "prag.store"])
    return context


def run(server: Any, main: Callable[[str, str], None], folder: Path) -> dict[str, int]:
    """What `main` answers; what it prints is on the terminal."""
    answer = folder.with_name(folder.name + "-answer") / "counts"
    answer.parent.mkdir()
    child = server.Process(target=main, args=(str(folder), str(answer)))
    child.start()
    child.join(120)
    if child.is_alive():
        child.kill()
        pytest.fail("took longer than two minutes")
    assert child.exitcode == 0, "see the child's own traceback"
    return json.loads(answer.read_text("utf-8"))  # type: ignore[no-any-return]


def test_killed_at_random_instants(server: Any, tmp_path: Path) -> None:
    counts = run(server, main_random, tmp_path / "store")
    print(counts)
    assert counts["batches"] >= KILLS
    assert counts["compactions"] >= 1


def test_killed_in_every_state(server: Any, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    counts = run(server, main_every_state, folder)
    print(counts)
    assert counts.keys() == WORK.keys()
    assert all(counts[name] >= least for name, least in LEAST.items())


@pytest.mark.parametrize("readonly", [True, False])
def test_a_half_written_index_is_rolled_back(server: Any, tmp_path: Path, readonly: bool) -> None:
    many = [StoredItem(key(i), adapter(i), "e") for i in range(300)]
    with AdapterStore.open(tmp_path) as store:
        store.commit(many, SITES)
    child = server.Process(target=main_half_written, args=(str(tmp_path), ""))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    journal = tmp_path / "index.sqlite-journal"
    assert journal.stat().st_size > 0
    assert b"nowhere" in (tmp_path / "index.sqlite").read_bytes(), "the index was not touched"
    with AdapterStore.open(tmp_path, readonly) as store:
        assert_intact(store, list(range(100)))
    assert not journal.exists()

"""Opening a store at an address: what is there, and what this machine keeps of it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import filelock

from prag.disk import cache_folder
from prag.records import PragError
from prag.store.errors import explained
from prag.store.log import Log
from prag.store.objects import Objects
from prag.store.ranges import RangeCache
from prag.store.remote_shards import RemoteShards
from prag.store.replica import Replica

CACHE_BYTES = 4 * 1024**3
"""Bytes of adapters that a machine keeps of a store, unless PRAG_STORE_CACHE_BYTES says else."""


def exists_at(address: str) -> bool:
    """Whether there is a store at an address.

    Raises:
        PragError: the store cannot be reached, or something else is there.
    """
    return Log(Objects(address)).token() is not None


def open_at(address: str, readonly: bool) -> tuple[Objects, Replica, RemoteShards]:
    """The parts of the store at an address; opening for writing makes what is not there yet.

    Raises:
        PragError: there is no store, it cannot be reached, or the server will not do.
    """
    objects = Objects(address)
    log = Log(objects)
    token = log.token()
    if token is None:
        if readonly:
            raise PragError(f"{address}: there is no adapter store yet: run `prag build`")
        token = log.make()
    place = hashlib.sha256(objects.address.encode()).hexdigest()[:16]
    folder = cache_folder() / "stores" / f"{place}-{token}"
    with explained(folder, "making the cache of the adapter store"):
        folder.mkdir(parents=True, exist_ok=True)
    replica = _replica(log, folder / "index.sqlite", readonly)
    replica.refresh()
    ranges = RangeCache(folder / "ranges", _cache_bytes())
    return objects, replica, RemoteShards(objects, ranges, folder / "spool")


def _replica(log: Log, path: Path, readonly: bool) -> Replica:
    """The replica in a file, from the newest checkpoint where there is none, or a damaged one."""
    with filelock.FileLock(f"{path}.lock"):
        if path.exists():
            try:
                return Replica(log, path, readonly)
            except PragError:
                for ending in ("", "-wal", "-shm"):
                    path.with_name(path.name + ending).unlink(missing_ok=True)
        _from_checkpoint(log, path)
        return Replica(log, path, readonly)


def _from_checkpoint(log: Log, path: Path) -> None:
    latest = log.latest()
    draft = path.with_name(f"{path.name}.fetched")
    if latest is None or not log.fetch(latest, draft):
        return
    try:
        Replica(log, draft, readonly=True).close()
        draft.replace(path)
    except PragError:  # a damaged checkpoint: the log has all of it
        with suppress(OSError):
            draft.unlink()


def _cache_bytes() -> int:
    given = os.environ.get("PRAG_STORE_CACHE_BYTES", "")
    if given and not given.isdigit():
        raise PragError(f"PRAG_STORE_CACHE_BYTES={given!r}: a number of bytes, 0 for no cache")
    return int(given) if given else CACHE_BYTES

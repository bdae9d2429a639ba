"""The shards in an object store: written here and uploaded whole, read a range at a time.

What was read is kept in a folder of bounded size (`prag.store.ranges`). A shard that is visited
whole (by `verify`, by compaction) is downloaded to a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from prag.store.errors import explained
from prag.store.objects import Objects
from prag.store.ranges import RangeCache
from prag.store.shards import SUFFIX, Buffer, Entry, ShardDamage, ShardFolder, checksum

FOLDER = "shards"
FETCHED = 2
"""Shards that stay downloaded while shards are visited whole."""

READS = 3
"""Times that bytes with a wrong checksum are asked for before the shard is damaged."""


class RemoteShards:
    """The shards under an address.

    Args:
        objects: at that address.
        ranges: what was read of them before.
        spool: a folder for files on their way.
    """

    far = True

    def __init__(self, objects: Objects, ranges: RangeCache, spool: Path) -> None:
        self._objects, self._ranges = objects, ranges
        with explained(spool, "making the folder of files on their way"):
            spool.mkdir(parents=True, exist_ok=True)
            # Of this process: it goes with it, and what a kill leaves there is in no one's way.
            self._spool = tempfile.TemporaryDirectory(dir=spool, ignore_cleanup_errors=True)
        self._written = ShardFolder(Path(self._spool.name))
        self._fetched: OrderedDict[str, Path] = OrderedDict()

    def where(self, name: str) -> str:
        """The address of a shard."""
        return f"{self._objects.address}/{FOLDER}/{name}{SUFFIX}"

    def names(self) -> list[str]:
        """The shards that are there, sorted."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Bytes of each shard."""
        found = self._objects.listed(FOLDER)
        return {x.name.removesuffix(SUFFIX): x.size for x in found if x.name.endswith(SUFFIX)}

    def temporaries(self) -> list[Path]:
        """None: what a killed writer leaves is on its own machine."""
        return []

    def bytes_on_disk(self) -> int:
        """The size of all shards."""
        return sum(self.sizes().values())

    def leftovers(self, named: set[str], alive: float) -> list[str]:
        """The shards that are not `named` and are older than `alive` seconds.

        A younger one may be that of a writer who is about to name it.
        """
        found = []
        for name in self.names():
            if name not in named:
                age = self._objects.age(_object(name))
                if age is not None and age >= alive:
                    found.append(name)
        return found

    def write(
        self,
        metadata: Mapping[str, str],
        dtype: str,
        tensors: Sequence[str],
        length: int,
        width: int,
        payloads: Iterable[Buffer],
    ) -> tuple[str, list[Entry]]:
        """Write a shard here and upload it; see `ShardFolder.write`."""
        name, entries = self._written.write(metadata, dtype, tensors, length, width, payloads)
        try:
            self._objects.upload(self._written.file(name), _object(name))
        finally:
            self._written.remove(name)
        return name, entries

    def abandon(self, name: str) -> None:
        """Leave it: a request whose answer was lost may still name it. `prag gc` looks later."""

    def copy(self, name: str, entry: Entry, digest: str) -> bytearray:
        """The bytes of one tensor, from the folder of what was read before or from the store.

        Raises:
            ShardDamage: the shard is missing or too short, or the bytes have another checksum.
            PragError: the store cannot be reached.
        """
        kept = self._ranges.get(digest)
        if kept is not None:
            return kept
        for _ in range(READS):
            data = self._range(name, entry)
            if checksum(data) == digest:
                self._ranges.put(digest, data)
                return bytearray(data)
        raise ShardDamage("its checksum does not match")

    def _range(self, name: str, entry: Entry) -> bytes:
        if not name.isalnum():  # an index from elsewhere must not lead out of the folder
            raise ShardDamage("the object is missing")
        try:
            data = self._objects.read(_object(name), entry.offset, entry.offset + entry.length)
        except EOFError as error:
            raise ShardDamage(str(error)) from error
        if data is None:
            raise ShardDamage("the object is missing")
        return data

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """The shard opened as a file, downloaded if need be.

        Raises:
            ShardDamage: the shard is missing.
            PragError: the store cannot be reached.
        """
        path = self._fetched.get(name)
        if path is None:
            path = Path(self._spool.name) / f"{name}.fetched"
            while len(self._fetched) >= FETCHED:
                self._fetched.popitem(last=False)[1].unlink(missing_ok=True)
            with explained(path, "downloading a shard"):
                if not name.isalnum() or not self._objects.download(_object(name), path):
                    raise ShardDamage("the object is missing")
            self._fetched[name] = path
        with path.open("rb") as file:
            yield file

    def remove(self, name: str) -> int | None:
        """Delete a shard; the bytes that this freed, None if there was nothing to delete."""
        if not name.isalnum():
            return None
        with suppress(KeyError):
            self._fetched.pop(name).unlink(missing_ok=True)
        size = self._objects.size(_object(name))
        if size is not None:
            self._objects.remove(_object(name))
        return size

    def close(self) -> None:
        """Delete the files on their way."""
        self._fetched.clear()
        self._spool.cleanup()


def _object(name: str) -> str:
    return f"{FOLDER}/{name}{SUFFIX}"

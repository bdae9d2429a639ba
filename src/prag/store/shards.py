"""The shards: safetensors files, written once, never changed, read through memory maps.

They are written here and not by the library, because the bytes are streamed (a shard may be
larger than memory), the offsets must be known, and they are synced before they get their name.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from prag.disk import sync
from prag.store.errors import explained

SUFFIX = ".safetensors"
TEMPORARY = ".tmp"
OPEN_MAPS = 64
MAX_HEADER = 100_000_000
"""Bytes; the safetensors library refuses a longer header."""

Buffer = bytes | bytearray | memoryview


class ShardDamage(Exception):  # noqa: N818
    """Bytes of a shard are not there or not those that were written; the text says how."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a shard: where it stands, in bytes from the start of the file."""

    offset: int
    length: int


@dataclass(frozen=True)
class Header:
    """The header of a shard: its metadata, and its tensors by name."""

    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]


class Shards(Protocol):
    """Where shards are kept: a folder (`ShardFolder`) or an object store (`RemoteShards`)."""

    @property
    def far(self) -> bool:
        """Whether to read them all takes more than a look."""

    def where(self, name: str) -> str:
        """The place of a shard, for messages."""

    def names(self) -> list[str]:
        """The shards that are there, sorted."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each shard that is there."""

    def temporaries(self) -> list[Path]:
        """Files that a kill left before they became shards, sorted."""

    def leftovers(self, named: set[str], alive: float) -> list[str]:
        """Those of the shards not `named` in the index that nobody may be about to name.

        Args:
            alive: seconds in which another writer may, where there can be one.
        """

    def bytes_on_disk(self) -> int:
        """The size of all shards and temporary files."""

    def write(
        self,
        metadata: Mapping[str, str],
        dtype: str,
        tensors: Sequence[str],
        length: int,
        width: int,
        payloads: Iterable[Buffer],
    ) -> tuple[str, list[Entry]]:
        """Write a shard; see `ShardFolder.write`."""

    def abandon(self, name: str) -> None:
        """A shard was written, and what should name it in the index failed."""

    def copy(self, name: str, entry: Entry, digest: str) -> bytearray:
        """The bytes of one tensor, which have this checksum; ShardDamage if they have not."""

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The shard opened as a file; ShardDamage if it is missing or cannot be read."""

    def remove(self, name: str) -> int | None:
        """Delete a shard; the bytes that this freed, None if nothing was deleted."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True)
class _Map:
    view: mmap.mmap
    identity: tuple[int, int, int]  # device, inode, size: another file under this name differs


def checksum(data: Buffer) -> str:
    """The BLAKE2b of the bytes at 128 bits, in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def open_new(path: Path) -> BinaryIO:
    """Open a file that must not exist yet, for writing."""
    return path.open("xb")


class ShardFolder:
    """The folder of the shards, and the maps that are open on them.

    Args:
        path: the folder.
        open_maps: how many shards stay mapped; the one that was used longest ago goes first.
    """

    def __init__(self, path: Path, open_maps: int = OPEN_MAPS) -> None:
        self.path = path
        self._open_maps = open_maps
        self._maps: OrderedDict[str, _Map] = OrderedDict()
        self._lock = threading.Lock()

    far = False

    def file(self, name: str) -> Path:
        """The path of a shard."""
        return self.path / (name + SUFFIX)

    def where(self, name: str) -> str:
        """The path of a shard, for messages."""
        return str(self.file(name))

    def names(self) -> list[str]:
        """The shards that stand in the folder, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self._files(SUFFIX))

    def temporaries(self) -> list[Path]:
        """Files that a kill left before they got their name, sorted."""
        return sorted(self._files(TEMPORARY))

    def sizes(self) -> dict[str, int]:
        """Bytes of each shard."""
        return {p.removesuffix(SUFFIX): size for p, size in self._sizes(SUFFIX)}

    def bytes_on_disk(self) -> int:
        """The size of all shards and temporary files."""
        return sum(size for suffix in (SUFFIX, TEMPORARY) for _, size in self._sizes(suffix))

    def leftovers(self, named: set[str], alive: float) -> list[str]:
        """The shards that are not `named`, young or old: who asks holds the writer's lock."""
        return [name for name in self.names() if name not in named]

    def write(
        self,
        metadata: Mapping[str, str],
        dtype: str,
        tensors: Sequence[str],
        length: int,
        width: int,
        payloads: Iterable[Buffer],
    ) -> tuple[str, list[Entry]]:
        """Write a shard: under a temporary name, synced, renamed, the folder synced.

        If it fails, nothing of it stays.

        Args:
            metadata: the `__metadata__` of the header.
            dtype: the safetensors name of the dtype.
            tensors: the names of the tensors.
            length: bytes of each tensor.
            width: bytes of one number.
            payloads: the bytes of the tensors, in order.

        Returns:
            The shard's name, and where each tensor stands in it.

        Raises:
            PragError: the disk is full, or the folder cannot be written.
        """
        head = header_of(metadata, dtype, tensors, length, width)
        name = secrets.token_hex(8)
        final = self.file(name)
        temporary = final.with_name(final.name + TEMPORARY)
        with explained(self.path, "writing a shard"):
            try:
                with open_new(temporary) as file:
                    file.write(head)
                    written = 0
                    for payload in payloads:
                        if len(payload) != length:
                            raise ValueError(f"a tensor of {len(payload)} bytes, not {length}")
                        file.write(payload)
                        written += 1
                    if written != len(tensors):
                        raise ValueError(f"{written} tensors, not {len(tensors)}")
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(final)
                sync(self.path)
            except BaseException:
                for path in (temporary, final):
                    with suppress(OSError):
                        path.unlink()
                raise
        return name, [Entry(len(head) + i * length, length) for i in range(len(tensors))]

    def abandon(self, name: str) -> None:
        """Delete a shard that nothing names."""
        self.remove(name)

    def copy(self, name: str, entry: Entry, digest: str) -> bytearray:
        """The bytes of one tensor, copied out of the map.

        The copy is what is checked and what is used: the map could change in between, and a tensor
        on a map that cannot be written is unsafe.

        Raises:
            ShardDamage: the shard is missing or too short, or the bytes have another checksum.
        """
        view = self._mapped(name)
        data = bytearray(memoryview(view)[entry.offset : entry.offset + entry.length])
        if len(data) != entry.length:
            raise ShardDamage(f"truncated: {len(view)} bytes")
        if checksum(data) != digest:
            raise ShardDamage("its checksum does not match")
        return data

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """The shard opened as a file.

        For work that visits damaged disks: a bad sector is an error to a file, and the end of
        the process to a map.

        Raises:
            ShardDamage: the shard is missing or cannot be read.
        """
        with _damage(), self.file(name).open("rb") as file:
            yield file

    def remove(self, name: str) -> int | None:
        """Delete a shard; the bytes that this freed, None if there was nothing to delete.

        A shard that the system keeps (on Windows, one that another process reads) stays for a
        later sweep; that is None too.
        """
        if not name.isalnum():  # an index from elsewhere must not lead out of the folder
            return None
        with self._lock:
            self._maps.pop(name, None)
        path = self.file(name)
        try:
            size = path.stat().st_size
            path.unlink()
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            return None
        return size

    def close(self) -> None:
        """Let go of every map."""
        with self._lock:
            self._maps.clear()

    def _sizes(self, suffix: str) -> list[tuple[str, int]]:
        found = []
        for path in self._files(suffix):
            with suppress(FileNotFoundError):  # a writer may be at work
                found.append((path.name, path.stat().st_size))
        return found

    def _files(self, suffix: str) -> list[Path]:
        with explained(self.path, "reading the folder of the shards"):
            if not self.path.is_dir():
                return []
            return [p for p in self.path.iterdir() if p.name.endswith(suffix) and p.is_file()]

    def _mapped(self, name: str) -> mmap.mmap:
        """The shard's map.

        It is compared with the file each time: reading a map past the end of a file that has
        become shorter would kill the process. A map that leaves the cache is not closed, a
        reader may still hold it; it goes when the last one lets go.
        """
        with _damage(), self._lock:
            status = os.stat(self.file(name))  # noqa: PTH116 - a tenth of the time of Path.stat
            identity = (status.st_dev, status.st_ino, status.st_size)
            held = self._maps.get(name)
            if held is None or held.identity != identity:
                if status.st_size == 0:
                    raise ShardDamage("truncated: 0 bytes")
                with self.file(name).open("rb") as file:
                    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                held = self._maps[name] = _Map(view, identity)
            self._maps.move_to_end(name)
            while len(self._maps) > self._open_maps:
                self._maps.popitem(last=False)
            return held.view


def read_entry(file: BinaryIO, entry: Entry) -> bytes:
    """The bytes of one tensor, by plain reading.

    Raises:
        ShardDamage: the file is too short.
    """
    with _damage():
        file.seek(entry.offset)
        data = file.read(entry.length)
        if len(data) != entry.length:
            raise ShardDamage(f"truncated: {file.seek(0, os.SEEK_END)} bytes")
        return data


def read_header(file: BinaryIO) -> Header:
    """The header of a shard, checked against the size of the file.

    Raises:
        ShardDamage: it does not parse, or the file has another size than it says.
    """
    with _damage():
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise ShardDamage(f"the header does not fit into its {size} bytes")
        raw = file.read(length)
    try:
        head = json.loads(raw)
        metadata = {str(k): str(v) for k, v in head.pop("__metadata__", {}).items()}
        entries, at = {}, 0
        for name, tensor in head.items():
            start, end = tensor["data_offsets"]
            if start != at or end < start:
                raise ShardDamage(f"the header misplaces {name}")
            entries[name], at = Entry(8 + length + start, end - start), end
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardDamage(f"the header does not parse: {error}") from error
    if size != 8 + length + at:
        raise ShardDamage(f"{size} bytes where the header says {8 + length + at}")
    return Header(metadata, entries)


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ShardDamage("the file is missing") from error
    except OSError as error:
        raise ShardDamage(f"the file cannot be read: {error.strerror or error}") from error


def header_of(
    metadata: Mapping[str, str], dtype: str, tensors: Sequence[str], length: int, width: int
) -> bytes:
    """Length (8 bytes, little endian), JSON, spaces up to a multiple of 8 bytes."""
    head: dict[str, object] = {"__metadata__": dict(metadata)}
    for i, tensor in enumerate(tensors):
        head[tensor] = {
            "dtype": dtype,
            "shape": [length // width],
            "data_offsets": [i * length, (i + 1) * length],
        }
    text = json.dumps(head, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"{len(tensors)} adapters are too many for one shard")
    return len(text).to_bytes(8, "little") + text

"""A folder that keeps the bytes of adapters that came from far away, up to so many bytes.

A file is named by the checksum of what it holds, so what is read is checked, an adapter that moves
to another shard is still found, and several processes may share the folder.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from prag.store.shards import checksum


class RangeCache:
    """The bytes that were used last, on the disk.

    Args:
        folder: made when something is kept.
        limit: bytes; 0 keeps nothing. Other processes that share the folder add to it until the
            next one that is over the limit looks.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._held: int | None = None  # bytes in the folder, as far as this process knows

    def get(self, digest: str) -> bytearray | None:
        """The bytes of a checksum; None if they are not here, or not whole."""
        if not digest.isalnum():  # an index from elsewhere must not lead out of the folder
            return None
        path = self._path(digest)
        try:
            data = bytearray(path.read_bytes())
            if checksum(data) == digest:
                os.utime(path)
                return data
            path.unlink()
        except OSError:  # not there, or another process has just taken it away
            pass
        return None

    def put(self, digest: str, data: bytes) -> None:
        """Keep bytes; those that were used longest ago make room. A full disk keeps nothing."""
        if len(data) > self.limit or not digest.isalnum():
            return
        path = self._path(digest)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.replace(path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            return
        self._held = self._bytes() if self._held is None else self._held + len(data)
        if self._held > self.limit:
            self._make_room()

    def _make_room(self) -> None:
        """Down to nine tenths of the limit, so that it need not be done each time."""
        found = []
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held <= 0.9 * self.limit:
                break
            with suppress(OSError):
                path.unlink()
                held -= size
        self._held = held

    def _bytes(self) -> int:
        total = 0
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                total += path.stat().st_size
        return total

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

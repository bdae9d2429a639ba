"""The index in an object store: a log of changes, and checkpoints so that it is not read anew.

    store.json                       what this is, and a token that no other store has
    log/00000000000000000001.gz      the first change, then the second ...
    checkpoints/0000...0400.gz       the SQLite index after change 400
    checkpoints/latest.json          which checkpoint is the newest

A change is made by creating the object of the next number, which the store refuses if another
writer was quicker: that one's change is read, and the next number tried. So every change has its
place after all that came before it, and none is lost. Changes are never deleted; a replica of the
index (`prag.store.replica`) is what reading them in order gives.
"""

from __future__ import annotations

import gzip
import json
import secrets
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prag.records import AdapterKey, PragError
from prag.store.index import Move, Row, row_of, values_of
from prag.store.objects import Objects

FORMAT = 1
STORE = "store.json"
LATEST = "checkpoints/latest.json"


@dataclass(frozen=True)
class Change:
    """What one writer did to the index in one step.

    Args:
        rows: added, in place of those of the same keys; all of one layout.
        layout: the JSON of their sites.
        moves: where the bytes of adapters stand now; one that is not where it was stays.
        deleted: keys.
        token: tells it from an equal change of another writer.
    """

    rows: tuple[Row, ...] = ()
    layout: str = ""
    moves: tuple[Move, ...] = ()
    deleted: tuple[AdapterKey, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def size(self) -> int:
        """How many adapters it concerns."""
        return len(self.rows) + len(self.moves) + len(self.deleted)

    def to_bytes(self) -> bytes:
        """As it is kept: gzipped JSON."""
        data = {
            "token": self.token,
            "layout": self.layout,
            "rows": [values_of(row) for row in self.rows],
            "moves": self.moves,
            "deleted": [(key.passage, key.base, key.recipe) for key in self.deleted],
        }
        return gzip.compress(json.dumps(data, separators=(",", ":")).encode("utf-8"), mtime=0)

    @staticmethod
    def from_bytes(data: bytes) -> Change:
        """The change that was kept.

        Raises:
            ValueError: these are not the bytes of a change.
        """
        try:
            found = json.loads(gzip.decompress(data))
            return Change(
                rows=tuple(row_of(values) for values in found["rows"]),
                layout=str(found["layout"]),
                moves=tuple(_move(values) for values in found["moves"]),
                deleted=tuple(AdapterKey(*parts) for parts in found["deleted"]),
                token=str(found["token"]),
            )
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"it does not parse: {error}") from error


@dataclass(frozen=True)
class Checkpoint:
    """An index that was kept whole: after which change, and how many adapters those concerned."""

    version: int
    changes: int


class Log:
    """The changes of the store at an address."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def token(self) -> str | None:
        """What tells this store from one that is made later at the same address; None: no store.

        Raises:
            PragError: something else is there, or a newer format.
        """
        raw = self.objects.read(STORE)
        if raw is None:
            return None
        try:
            found = json.loads(raw)
            kind, version, token = found["kind"], int(found["format"]), str(found["token"])
        except (ValueError, KeyError, TypeError) as error:
            raise PragError(
                f"{self.objects.address}/{STORE}: not that of an adapter store ({error!r}): give "
                "another address"
            ) from error
        if kind != "prag-adapters" or version > FORMAT or not token.isalnum():
            raise PragError(
                f"{self.objects.address}: holds {kind!r} of format {version}, this version of prag "
                f"knows prag-adapters up to format {FORMAT}: give another address, or install a "
                "newer prag"
            )
        return token

    def make(self) -> str:
        """Make a store where there is none; its token, or that of who was quicker.

        Raises:
            PragError: the server does not know how to create an object on a condition.
        """
        self.objects.check_create()
        token = secrets.token_hex(8)
        data = {"kind": "prag-adapters", "format": FORMAT, "token": token}
        self.objects.create(STORE, json.dumps(data).encode())
        found = self.token()
        if found is None:
            raise PragError(
                f"{self.objects.address}: what was written there is not there: check it"
            )
        return found

    def append(self, version: int, change: Change) -> bool:
        """Make a change the one of this number; False if another is."""
        return self.objects.create(_name(version), change.to_bytes())

    def read(self, first: int, count: int) -> list[Change]:
        """The changes from number `first` on, at most `count`; fewer where there are no more.

        Raises:
            PragError: one is damaged, or lost: there is one after it.
        """
        names = [_name(version) for version in range(first, first + count)]
        found = self.objects.read_some(names)
        changes: list[Change] = []
        for name, data in zip(names, found, strict=True):
            if data is None:
                break
            changes.append(self._change(name, data))
        # Two may have been written between the reading of the first and that of the second.
        if any(data is not None for data in found[len(changes) :]):
            data = self.objects.read(names[len(changes)])
            if data is None:
                raise PragError(
                    f"{self.objects.address}/{names[len(changes)]}: this change of the index is "
                    "lost, a later one is there: restore it from a copy"
                )
        return changes

    def _change(self, name: str, data: bytes) -> Change:
        try:
            return Change.from_bytes(data)
        except ValueError:
            again = self.objects.read(name)  # it may have been torn on the way
        try:
            return Change.from_bytes(again or b"")
        except ValueError as error:
            raise PragError(
                f"{self.objects.address}/{name}: this change of the index is damaged ({error}): "
                "restore it from a copy"
            ) from error

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, as far as is known; it may be an older one."""
        raw = self.objects.read(LATEST)
        try:
            found: Any = json.loads(raw or b"null")
            return found and Checkpoint(int(found["version"]), int(found["changes"]))
        except (ValueError, KeyError, TypeError):
            return None  # all changes are there: it only takes longer

    def save(self, checkpoint: Checkpoint, index: Path) -> None:
        """Keep an index as a checkpoint."""
        packed = index.with_name(f"{index.name}.gz")
        try:
            with index.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
                shutil.copyfileobj(source, target)
            self.objects.upload(packed, _checkpoint(checkpoint.version))
        finally:
            packed.unlink(missing_ok=True)
        data = {"version": checkpoint.version, "changes": checkpoint.changes}
        self.objects.write(LATEST, json.dumps(data).encode())

    def fetch(self, checkpoint: Checkpoint, index: Path) -> bool:
        """Write the index of a checkpoint to a file; whether it is there and whole."""
        packed = index.with_name(f"{index.name}.gz")
        try:
            if not self.objects.download(_checkpoint(checkpoint.version), packed):
                return False
            with gzip.open(packed, "rb") as source, index.open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error):
            index.unlink(missing_ok=True)
            return False
        finally:
            packed.unlink(missing_ok=True)
        return True

    def drop_old_checkpoints(self) -> int:
        """Delete the checkpoints before the newest but one; how many."""
        latest = self.latest()
        found = [x.name for x in self.objects.listed("checkpoints") if x.name.endswith(".gz")]
        older = [n for n in found if latest and n < f"{latest.version:020d}.gz"]
        for name in older[:-1]:
            with suppress(PragError):
                self.objects.remove(f"checkpoints/{name}")
        return len(older[:-1])


def _name(version: int) -> str:
    return f"log/{version:020d}.gz"


def _checkpoint(version: int) -> str:
    return f"checkpoints/{version:020d}.gz"


def _move(values: Sequence[Any]) -> Move:
    shard, offset, passage, base, recipe, old_shard, old_offset = values
    return (shard, offset, passage, base, recipe, old_shard, old_offset)

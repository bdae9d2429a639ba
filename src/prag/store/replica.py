"""A replica of the index of an object store: SQLite on this machine, in step with the log.

Whoever writes appends to the log first and then to the replica; whoever reads asks the replica, and
looks whether the log has grown when something is not found. The replica can be deleted at any time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from prag.lora import Site
from prag.records import AdapterKey, PragError
from prag.store.index import Index, Row, moves_of
from prag.store.log import Change, Checkpoint, Log
from prag.store.shards import Entry

MOST_AT_ONCE = 64
"""Changes that are asked for together, where many are new."""

CHECKPOINT_AFTER = 20_000
"""Adapters that changes concern before a checkpoint is made; later a quarter of all, so that what
checkpoints take grows like the store and not like its square."""


class Replica(Index):
    """The index of the store at an address, as of the last `refresh`.

    Several processes of one machine may share its file; each applies only what none has applied.

    Args:
        log: of the store.
        path: the SQLite file.
        readonly: never change the store.
    """

    # A power cut may take back the last changes here, each whole: the log still has them.
    _durable = ("journal_mode = WAL", "synchronous = NORMAL")

    def __init__(self, log: Log, path: Path, readonly: bool) -> None:
        self._log = log
        self._asked = -1e9
        self._checkpoint: Checkpoint | None = None
        super().__init__(path, readonly=False)  # it follows the log, whoever reads
        self.readonly = readonly

    def _prepare(self) -> None:
        super()._prepare()
        with self.transaction("making the replica"):
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS replica (version INTEGER NOT NULL, "
                "changes INTEGER NOT NULL)"
            )
            if not self._connection.execute("SELECT count(*) FROM replica").fetchone()[0]:
                self._connection.execute("INSERT INTO replica VALUES (0, 0)")

    @property
    def version(self) -> int:
        """The number of the last change that is in it."""
        return int(self._one("SELECT version FROM replica"))

    def refresh(self, within: float = 0.0) -> bool:
        """Read the log on from where this stands; see `Index.refresh`.

        Raises:
            PragError: the store cannot be reached, or the log is damaged.
        """
        with self._lock:
            if time.monotonic() - self._asked < within:
                return False
            # Two at least: if one is not there and the one after it is, it was lost.
            began, count = self.version, 2
            while True:
                version = self.version
                changes = self._log.read(version + 1, count)
                for number, change in enumerate(changes, version + 1):
                    self._apply(number, change)
                if len(changes) < count:
                    break
                count = min(2 * count, MOST_AT_ONCE)
            self._asked = time.monotonic()
            return self.version > began

    def add(self, rows: Sequence[Row], sites: str) -> None:
        """Add rows of one layout, replacing those of the same keys."""
        self._append(Change(rows=tuple(rows), layout=sites))

    def move(self, rows: Sequence[Row], shard: str, entries: Sequence[Entry]) -> None:
        """See `Index.move`."""
        self._append(Change(moves=tuple(moves_of(rows, shard, entries))))

    def delete(self, keys: Sequence[AdapterKey]) -> int:
        """Delete the rows of these keys; how many there were."""
        with self._lock:
            self.refresh()
            there = tuple(self.rows(keys))
            if there:
                self._append(Change(deleted=there))
            return len(there)

    def names_shard(self, shard: str) -> bool:
        """Whether a row names this shard, by the newest state of the log."""
        self.refresh()
        return super().names_shard(shard)

    def sites(self, layout: str) -> tuple[Site, ...] | None:
        """The sites of a layout, None if the index does not know them."""
        found = super().sites(layout)
        if found is None and self.refresh():
            found = super().sites(layout)
        return found

    def tidy(self) -> None:
        """Delete the checkpoints that newer ones have replaced."""
        self._log.drop_old_checkpoints()

    def _append(self, change: Change) -> None:
        with self._lock:
            while True:
                self.refresh()
                version = self.version + 1
                if self._log.append(version, change):
                    break
            self._apply(version, change)
            with suppress(PragError):  # without a checkpoint opening takes longer, that is all
                self._keep_checkpoint()

    def _apply(self, version: int, change: Change) -> None:
        """Make a change here, unless another process of this machine has."""
        with self.transaction("following the log"):
            now = int(self._one("SELECT version FROM replica"))
            if now >= version:
                return
            if now != version - 1:
                raise PragError(f"{self.path}: stands at change {now}, before {version}: delete it")
            if change.rows:
                self._add(change.rows, change.layout)
            self._move(change.moves)
            self._delete(change.deleted)
            self._connection.execute(
                "UPDATE replica SET version = ?, changes = changes + ?", (version, change.size)
            )

    def _keep_checkpoint(self) -> None:
        changes = int(self._one("SELECT changes FROM replica"))
        enough = max(CHECKPOINT_AFTER, self.count() // 4)
        if changes - (self._checkpoint.changes if self._checkpoint else 0) < enough:
            return
        self._checkpoint = self._log.latest() or Checkpoint(0, 0)
        if changes - self._checkpoint.changes < enough:
            return  # another writer has made one
        made = Checkpoint(self.version, changes)
        draft = self.path.with_name(f"{self.path.name}.{made.version}")
        try:
            with closing(sqlite3.connect(draft)) as copy:
                self._connection.backup(copy)
            self._log.save(made, draft)
        finally:
            draft.unlink(missing_ok=True)
        self._checkpoint = made

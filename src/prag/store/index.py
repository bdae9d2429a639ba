"""The index: one SQLite file that says which adapters exist and where their bytes are.

An adapter exists when a row names it. Rows are added last, in one transaction, so a kill leaves
bytes without a row and never a row without bytes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prag.lora import Site
from prag.records import AdapterKey, PragError
from prag.store.errors import explained
from prag.store.shards import Entry

FORMAT_VERSION = 1
APPLICATION = 0x50524147
"""'PRAG', in the place where SQLite keeps whose database it is."""

CHUNK = 500
"""Parameters of one query; old builds of SQLite allow 999."""

WAIT = 60.0
"""Seconds to wait for another process that holds the index."""

_SCHEMA = (
    "CREATE TABLE layouts (id TEXT PRIMARY KEY, sites TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE adapters (
        passage TEXT NOT NULL, base TEXT NOT NULL, recipe TEXT NOT NULL,
        shard TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
        dtype TEXT NOT NULL, rank INTEGER NOT NULL, alpha REAL NOT NULL,
        layout TEXT NOT NULL REFERENCES layouts (id),
        checksum TEXT NOT NULL, examples TEXT NOT NULL, created INTEGER NOT NULL,
        PRIMARY KEY (passage, base, recipe)
    ) WITHOUT ROWID""",
    "CREATE INDEX adapters_by_shard ON adapters (shard)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)
_COLUMNS = (
    "passage, base, recipe, shard, offset, length, dtype, rank, alpha, layout, checksum, "
    "examples, created"
)


@dataclass(frozen=True)
class Row:
    """What the index knows of one adapter; `offset` and `length` are bytes of the shard's file."""

    key: AdapterKey
    shard: str
    offset: int
    length: int
    dtype: str
    rank: int
    alpha: float
    layout: str
    checksum: str
    examples: str
    created: int  # unix seconds

    @property
    def entry(self) -> Entry:
        """Where the bytes stand."""
        return Entry(self.offset, self.length)

    @property
    def form(self) -> tuple[str, int, float, str]:
        """Dtype, rank, alpha and layout: equal for all adapters of a shard."""
        return (self.dtype, self.rank, self.alpha, self.layout)


Move = tuple[str, int, str, str, str, str, int]
"""The new shard and offset of an adapter, its key, and the shard and offset it had."""


def sites_to_json(sites: Sequence[Site]) -> str:
    """The sites as the index and the shards carry them."""
    return json.dumps(
        [{"name": s.name, "inputs": s.inputs, "outputs": s.outputs} for s in sites],
        separators=(",", ":"),
    )


def layout_id(sites: str) -> str:
    """16 hex digits of the BLAKE2b of the sites' JSON."""
    return hashlib.blake2b(sites.encode("utf-8"), digest_size=8).hexdigest()


def begun(path: Path) -> bool:
    """Whether there is an index, or something else in its place that opening it will explain.

    A making that was killed before its commit leaves a file, which may hold pages, but no table.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        # Not read-only: the leftovers of a killed writer are rolled back before they are counted.
        with closing(_connected(path, "rw")) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.Error:
        return True
    return int(tables) > 0


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=WAIT,
        isolation_level=None,  # BEGIN and COMMIT are said where they belong
        check_same_thread=False,
    )


class Index:
    """The rows. One connection under a lock: may be used from any thread, not across a fork.

    Args:
        path: the SQLite file.
        readonly: never write a row. The file is opened so that the leftovers of a killed writer
            can still be rolled back, and as read-only where the file system is.

    Raises:
        PragError: no index, another program's file, a newer format, no right to write.
    """

    # EXTRA is FULL, and the folder is synced after the journal goes: else a power cut could take
    # back a commit after compaction has deleted the old files.
    _durable = ("journal_mode = DELETE", "synchronous = EXTRA")

    def __init__(self, path: Path, readonly: bool) -> None:
        self.path, self.readonly = path, readonly
        self._lock = threading.RLock()
        self._layouts: dict[str, tuple[Site, ...]] = {}
        mode = "rw" if readonly else "rwc"
        with explained(path, "opening the index"):
            self._connection = _connected(path, mode)
        try:
            with explained(path, "opening the index"):
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._check()
        if self.readonly:
            self._connection.execute("PRAGMA query_only = ON")
            return
        for pragma in self._durable:
            self._connection.execute(f"PRAGMA {pragma}")
        if self._is_empty():
            with self.transaction("making the index"):
                if self._is_empty():
                    for statement in _SCHEMA:
                        self._connection.execute(statement)

    def _is_empty(self) -> bool:
        return int(self._one("SELECT count(*) FROM sqlite_master")) == 0

    def _check(self) -> None:
        application = self._one("PRAGMA application_id")
        version = self._one("PRAGMA user_version")
        if self._is_empty():
            if self.readonly:
                raise PragError(f"{self.path}: the index has nothing in it yet: run `prag build`")
        elif application != APPLICATION:
            raise PragError(
                f"{self.path}: is the database of another program: move it away, or give another "
                "folder for the store"
            )
        elif version > FORMAT_VERSION:
            raise PragError(
                f"{self.path}: has format {version}, this version of prag knows formats up to "
                f"{FORMAT_VERSION}: install a newer prag"
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self, doing: str) -> Iterator[None]:
        """All or nothing of what is done inside; durable when it is left."""
        with self._lock, explained(self.path, doing):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def count(self) -> int:
        """How many adapters there are."""
        return int(self._one("SELECT count(*) FROM adapters"))

    def live_bytes(self) -> int:
        """The bytes of all adapters."""
        return int(self._one("SELECT coalesce(sum(length), 0) FROM adapters"))

    def shards(self) -> list[str]:
        """The shards that a row names, sorted."""
        return [r[0] for r in self._query("SELECT DISTINCT shard FROM adapters ORDER BY shard")]

    def ends(self) -> dict[str, int]:
        """How many bytes each shard that a row names must have at least."""
        found = self._query("SELECT shard, max(offset + length) FROM adapters GROUP BY shard")
        return dict(found)

    def names_shard(self, shard: str) -> bool:
        """Whether a row names this shard."""
        return bool(self._query("SELECT 1 FROM adapters WHERE shard = ? LIMIT 1", (shard,)))

    def keys(self, base: str | None, recipe: str | None) -> list[AdapterKey]:
        """The keys, sorted; only those of a base model, of a recipe, where one is given."""
        found = self._query(
            "SELECT passage, base, recipe FROM adapters "
            "WHERE (? IS NULL OR base = ?) AND (? IS NULL OR recipe = ?) "
            "ORDER BY passage, base, recipe",
            (base, base, recipe, recipe),
        )
        return [AdapterKey(*parts) for parts in found]

    def keys_of_passage(self, passage: str) -> list[AdapterKey]:
        """The keys of one passage, whatever the base and the recipe."""
        found = self._query(
            "SELECT passage, base, recipe FROM adapters WHERE passage = ?", (passage,)
        )
        return [AdapterKey(*parts) for parts in found]

    def examples(self, keys: Iterable[AdapterKey]) -> dict[AdapterKey, str]:
        """The examples digests of those of the keys that exist."""
        found = self._select("passage, base, recipe, examples", keys)
        return {AdapterKey(*parts[:3]): parts[3] for parts in found}

    def rows(self, keys: Iterable[AdapterKey]) -> dict[AdapterKey, Row]:
        """The rows of those of the keys that exist."""
        return {row.key: row for row in map(row_of, self._select(_COLUMNS, keys))}

    def rows_of_shard(self, shard: str) -> list[Row]:
        """The rows that name a shard, in the order of their bytes."""
        found = self._query(
            f"SELECT {_COLUMNS} FROM adapters WHERE shard = ? ORDER BY offset", (shard,)
        )
        return [row_of(parts) for parts in found]

    def sites(self, layout: str) -> tuple[Site, ...] | None:
        """The sites of a layout, None if the index has lost them."""
        if layout not in self._layouts:
            found = self._query("SELECT sites FROM layouts WHERE id = ?", (layout,))
            if not found:
                return None
            self._layouts[layout] = tuple(Site(**site) for site in json.loads(found[0][0]))
        return self._layouts[layout]

    def add(self, rows: Sequence[Row], sites: str) -> None:
        """Add rows of one layout, replacing those of the same keys."""
        with self.transaction("writing the index"):
            self._add(rows, sites)

    def move(self, rows: Sequence[Row], shard: str, entries: Sequence[Entry]) -> None:
        """Say that the bytes of these rows now stand in another shard.

        A row that was replaced since it was read keeps its new place.
        """
        with self.transaction("writing the index"):
            self._move(moves_of(rows, shard, entries))

    def delete(self, keys: Sequence[AdapterKey]) -> int:
        """Delete the rows of these keys; how many there were."""
        with self.transaction("writing the index"):
            return self._delete(keys)

    def refresh(self, within: float = 0.0) -> bool:
        """Take over what other machines have written; whether that was anything.

        Args:
            within: seconds; nothing is asked for if it was asked for since then.
        """
        return False  # one file is the whole index: every query sees what is written

    def tidy(self) -> None:
        """Delete what opening it elsewhere no longer needs."""

    def problems(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; nothing if it is sound."""
        found = [str(r[0]) for r in self._query("PRAGMA integrity_check(5)")]
        return [] if found == ["ok"] else found

    # -- within a transaction ---------------------------------------------------------------

    def _add(self, rows: Iterable[Row], sites: str) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO layouts VALUES (?, ?)", (layout_id(sites), sites)
        )
        self._connection.executemany(
            f"INSERT OR REPLACE INTO adapters ({_COLUMNS}) VALUES ({', '.join('?' * 13)})",
            map(values_of, rows),
        )

    def _move(self, moves: Iterable[Move]) -> None:
        self._connection.executemany(
            "UPDATE adapters SET shard = ?, offset = ? WHERE passage = ? AND base = ? "
            "AND recipe = ? AND shard = ? AND offset = ?",
            moves,
        )

    def _delete(self, keys: Iterable[AdapterKey]) -> int:
        done = self._connection.executemany(
            "DELETE FROM adapters WHERE passage = ? AND base = ? AND recipe = ?",
            map(_parts, keys),
        )
        return done.rowcount

    def _select(self, columns: str, keys: Iterable[AdapterKey]) -> Iterator[tuple[Any, ...]]:
        by_rest: dict[tuple[str, str], list[str]] = {}
        for key in keys:
            by_rest.setdefault((key.base, key.recipe), []).append(key.passage)
        for rest, passages in by_rest.items():
            for at in range(0, len(passages), CHUNK):
                chunk = passages[at : at + CHUNK]
                marks = ", ".join("?" * len(chunk))
                yield from self._query(
                    f"SELECT {columns} FROM adapters "
                    f"WHERE passage IN ({marks}) AND base = ? AND recipe = ?",
                    (*chunk, *rest),
                )

    def _query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        # All at once: an open cursor would hold up the writer.
        with self._lock, explained(self.path, "reading the index"):
            return self._connection.execute(sql, parameters).fetchall()

    def _one(self, sql: str) -> Any:
        return self._query(sql)[0][0]


def _parts(key: AdapterKey) -> tuple[str, str, str]:
    return (key.passage, key.base, key.recipe)


def row_of(values: Sequence[Any]) -> Row:
    """The row of its 13 values, in the order of the table."""
    return Row(AdapterKey(*values[:3]), *values[3:])


def values_of(row: Row) -> tuple[Any, ...]:
    """The 13 values of a row, in the order of the table."""
    place = (row.shard, row.offset, row.length)
    return (*_parts(row.key), *place, *row.form, row.checksum, row.examples, row.created)


def moves_of(rows: Sequence[Row], shard: str, entries: Sequence[Entry]) -> list[Move]:
    """The bytes of these rows now stand in `shard`, at these places."""
    return [
        (shard, entry.offset, *_parts(row.key), row.shard, row.offset)
        for row, entry in zip(rows, entries, strict=True)
    ]

"""The SQLite file behind the catalogue: its schema, its transactions, its errors in plain words.

Tables: `documents` (name, source, digest), `passages` (id, title, text), and `parts`, which says
which passage stands at which position of which document. The file's `user_version` is the
version of this schema, its `application_id` says that it is prag's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prag.disk import explain
from prag.records import PragError

VERSION = 1  # of the schema
_APPLICATION = 0x50524147  # "PRAG"
_PAGE = 1000  # rows fetched at a time

_SCHEMA = (
    """CREATE TABLE documents (
        key INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        source TEXT NOT NULL,
        digest TEXT NOT NULL
    )""",
    """CREATE TABLE passages (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        text TEXT NOT NULL
    )""",
    """CREATE TABLE parts (
        document INTEGER NOT NULL REFERENCES documents (key),
        position INTEGER NOT NULL,
        passage INTEGER NOT NULL REFERENCES passages (key),
        PRIMARY KEY (document, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX parts_passage ON parts (passage)",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


class Database:
    """One open file. Every method raises PragError for what SQLite cannot do.

    Args:
        path: the file; it is created with its tables where there is none, unless `readonly`.
        readonly: write nothing, so that a folder that cannot be written will do.
    """

    def __init__(self, path: Path, readonly: bool) -> None:
        self.path = path
        if readonly and not path.exists():
            raise PragError(f"{path}: no such catalogue; add documents to make one")
        if readonly and path.with_name(f"{path.name}-journal").exists():
            self._roll_back()
        with self.errors():
            self._connection = self._connect("ro" if readonly else "rwc")
        try:
            self._prepare(readonly)
        except BaseException:
            self._connection.close()
            raise

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def _roll_back(self) -> None:
        """Let SQLite undo what a killed writer left half done, which takes one that may write.

        Where that is not possible the read that follows says so, if there is something to undo.
        """
        try:
            connection = self._connect("rw")
            try:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            finally:
                connection.close()
        except sqlite3.Error:
            return

    def _prepare(self, readonly: bool) -> None:
        self.execute("PRAGMA foreign_keys = ON")
        if not readonly:
            self.execute("PRAGMA journal_mode = DELETE")
            self.execute("PRAGMA synchronous = FULL")
            self.execute("PRAGMA secure_delete = ON")
        empty = self.value("SELECT count(*) FROM sqlite_master") == 0
        version = self.value("PRAGMA user_version")
        application = self.value("PRAGMA application_id")
        if empty and version == 0 and application == 0 and not readonly:
            with self.transaction():
                for statement in _SCHEMA:
                    self.execute(statement)
            return
        if application != _APPLICATION:
            raise PragError(f"{self.path}: a database, but no catalogue of prag; name another file")
        if version > VERSION:
            raise PragError(
                f"{self.path}: written by a newer prag (schema {version}, this one knows "
                f"{VERSION}); upgrade prag"
            )

    def state(self) -> tuple[int, ...]:
        """Another one after every change to the file, whoever made it.

        Among it the counter in the file's header that SQLite adds to with each transaction (SQLite
        file format, 1.3.7).
        """
        try:
            with self.path.open("rb") as file:
                header = file.read(28)
            found = self.path.stat()
        except OSError as error:
            raise PragError(explain(error, self.path, "reading the catalogue")) from error
        return found.st_ino, found.st_size, found.st_mtime_ns, int.from_bytes(header[24:28], "big")

    def close(self) -> None:
        """Close the file; nothing may be asked of it afterwards."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block's changes or, on any error, none of them."""
        with self.errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have made SQLite roll back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, *values: object) -> None:
        """Run a statement that gives nothing back."""
        with self.errors():
            self._connection.execute(statement, values)

    def insert(self, statement: str, *values: object) -> int:
        """Run an INSERT; returns the key of the new row."""
        with self.errors():
            key = self._connection.execute(statement, values).lastrowid
        assert key is not None
        return key

    def row(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """The first row, None if there is none."""
        with self.errors():
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return row

    def value(self, statement: str, *values: object) -> Any:
        """The first column of the first row, which there must be."""
        row = self.row(statement, *values)
        assert row is not None
        return row[0]

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows."""
        with self.errors():
            return self._connection.execute(statement, values).fetchall()

    def column(self, statement: str, *values: object) -> list[Any]:
        """The first column of all rows."""
        return [row[0] for row in self.rows(statement, *values)]

    def scan(self, columns_from: str, by: str = "key") -> Iterator[tuple[Any, ...]]:
        """Every row of a table in the order of `by`, which must be unique and the first column.

        A page at a time: a reader that stops midway leaves no lock behind.
        """
        last: object = -1  # below every key, and below every id
        while True:
            rows = self.rows(
                f"SELECT {columns_from} WHERE {by} > ? ORDER BY {by} LIMIT {_PAGE}", last
            )
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """SQLite's errors as PragErrors that name the file and say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            message = str(error).lower()
            remedy = next((remedy for sign, remedy in _REMEDIES if sign in message), "run again")
            raise PragError(f"{self.path}: {error}: {remedy}") from error
        except UnicodeEncodeError as error:
            raise PragError(f"{self.path}: a text holds half a surrogate pair: {error}") from error


_REMEDIES = (
    ("full", "nothing was changed; free some space and run again"),
    (
        "readonly",
        "nothing was changed; make the file and its folder writable, or copy them to where they "
        "are (a write that was cut short is undone when the file is next opened there)",
    ),
    ("unable to open", "see that its folder exists and that you may read and write there"),
    ("locked", "another process is writing; run again when that has ended"),
    ("not a database", "no catalogue of prag; name another file, or put back a copy"),
    ("malformed", "the file is damaged; put back a copy, or delete it and add the documents again"),
    ("utf-8", "the file is damaged; put back a copy, or delete it and add the documents again"),
    ("disk i/o", "nothing was changed; check the disk, then run again"),
)

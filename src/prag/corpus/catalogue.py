"""The catalogue: the documents and passages of a knowledge base, in one SQLite file.

A passage that several documents hold is stored once and stays while any of them has it. Every
change is one transaction: whatever interrupts it, the file holds what it held before. What is
withdrawn is overwritten in the file, not only unlinked (`secure_delete`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from prag.corpus.database import Database
from prag.records import ID_LENGTH, Document, Passage, PragError, content_id

_SHORTEST_PREFIX = 8  # hex digits of a passage id that a user may shorten it to
_ASKED = 500  # ids in one statement; SQLite may be built to allow no more than 999
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class PutReport:
    """What `put` did.

    `added`, `replaced` and `unchanged` count documents. `passages_added` are new in the
    catalogue; `passages_removed` left it, and `removed_ids` names them. `duplicates` counts the
    passages of added and replaced documents that were not stored because they stood there
    already.
    """

    added: int
    replaced: int
    unchanged: int
    passages_added: int
    passages_removed: int
    duplicates: int
    removed_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class WithdrawReport:
    """The names of the documents and the ids of the passages that left the catalogue."""

    documents: tuple[str, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True)
class DocumentRow:
    """A document of the catalogue; `passages` is how many it has."""

    name: str
    source: str
    passages: int


@dataclass(frozen=True)
class Counts:
    """How much the catalogue holds."""

    documents: int
    passages: int


class Catalogue:
    """An open catalogue; `open` makes one, `close` or the end of a `with` block closes it.

    It may be handed from thread to thread, but only one may use it at a time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: str | Path, readonly: bool = False) -> Catalogue:
        """Open a catalogue; one that does not exist is created, unless `readonly`.

        Raises:
            PragError: the file cannot be opened or is no catalogue, or a newer prag wrote it.
        """
        return cls(Database(Path(path), readonly))

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def close(self) -> None:
        """Close the file; the catalogue cannot be used afterwards."""
        self._database.close()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put(self, documents: Iterable[Document]) -> PutReport:
        """Add documents, or replace those of a known name whose passages differ.

        One transaction: all of them or, on any error, none.

        Raises:
            PragError: a document without passages, two documents of one name that differ, two
                passages of one id that differ, or a file that cannot be written.
        """
        added = replaced = unchanged = passages_added = duplicates = 0
        orphans: set[int] = set()  # keys of passages that may have lost their last document
        seen: dict[str, str] = {}  # name -> source, of this call
        with self._database.transaction():
            for document in documents:
                if not document.passages:
                    raise PragError(f"{document.source}: {document.name!r} has no passages")
                row = self._database.row(
                    "SELECT key, digest FROM documents WHERE name = ?", document.name
                )
                digest = document.digest
                if row is not None and row[1] == digest:
                    unchanged += 1
                    seen.setdefault(document.name, document.source)
                    continue
                if document.name in seen:
                    raise PragError(
                        f"{document.source}: {document.name!r} is also the name of the document "
                        f"at {seen[document.name]}, which differs; give each its own name"
                    )
                seen[document.name] = document.source
                if row is None:
                    key = self._database.insert(
                        "INSERT INTO documents (name, source, digest) VALUES (?, ?, ?)",
                        document.name,
                        document.source,
                        digest,
                    )
                    added += 1
                else:
                    key = row[0]
                    orphans.update(
                        self._database.column("SELECT passage FROM parts WHERE document = ?", key)
                    )
                    self._database.execute("DELETE FROM parts WHERE document = ?", key)
                    self._database.execute(
                        "UPDATE documents SET source = ?, digest = ? WHERE key = ?",
                        document.source,
                        digest,
                        key,
                    )
                    replaced += 1
                new = self._store(key, document)
                passages_added += new
                duplicates += len(document.passages) - new
            removed = self._sweep(orphans)
        return PutReport(
            added, replaced, unchanged, passages_added, len(removed), duplicates, tuple(removed)
        )

    def withdraw(self, ids: Sequence[str]) -> WithdrawReport:
        """Take documents, or single passages of all their documents, out of the catalogue.

        A document that is left without passages goes too. Adding a document again brings back
        what was withdrawn from it.

        Args:
            ids: each the name of a document, or a passage's id or at least its first 8 digits.

        Raises:
            PragError: an id is unknown or ambiguous, all such are named; nothing is withdrawn.
        """
        gone: list[str] = []
        with self._database.transaction():
            documents, passages = self._resolve(ids)
            orphans: set[int] = set()
            for document in documents:
                orphans.update(
                    self._database.column("SELECT passage FROM parts WHERE document = ?", document)
                )
                self._database.execute("DELETE FROM parts WHERE document = ?", document)
            shrunk: set[int] = set(documents)
            for passage in passages:
                shrunk.update(
                    self._database.column("SELECT document FROM parts WHERE passage = ?", passage)
                )
                self._database.execute("DELETE FROM parts WHERE passage = ?", passage)
            for key in sorted(shrunk):
                left = self._ids_of(key)
                if left:
                    self._database.execute(
                        "UPDATE documents SET digest = ? WHERE key = ?", content_id(*left), key
                    )
                else:
                    gone.append(
                        self._database.value("SELECT name FROM documents WHERE key = ?", key)
                    )
                    self._database.execute("DELETE FROM documents WHERE key = ?", key)
            removed = self._sweep(orphans | set(passages))
        return WithdrawReport(tuple(gone), tuple(removed))

    def passages(self) -> Iterator[Passage]:
        """Every passage, in the order in which they were first added."""
        for _, title, text in self._database.scan("key, title, text FROM passages"):
            yield Passage(title, text)

    def ids(self) -> Iterator[str]:
        """The id of every passage, sorted."""
        for (id_,) in self._database.scan("id FROM passages", by="id"):
            yield id_

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """The passages of these ids, in the order asked for.

        Raises:
            PragError: the catalogue has no passage of one of the ids.
        """
        found: dict[str, Passage] = {}
        for start in range(0, len(ids), _ASKED):
            some = ids[start : start + _ASKED]
            marks = ", ".join("?" * len(some))
            rows = self._database.rows(
                f"SELECT id, title, text FROM passages WHERE id IN ({marks})", *some
            )
            found.update((id_, Passage(title, text)) for id_, title, text in rows)
        missing = [id_ for id_ in ids if id_ not in found]
        if missing:
            raise PragError(f"{self.path}: no passage {_listed(missing)}")
        return [found[id_] for id_ in ids]

    def find(self, prefix: str) -> list[str]:
        """The ids of the passages that begin with these hex digits, sorted."""
        prefix = prefix.lower()
        if not _HEX.issuperset(prefix):
            return []
        # "g" sorts behind every hex digit, so this is one range of the index.
        return self._database.column(
            "SELECT id FROM passages WHERE id >= ? AND id < ? ORDER BY id", prefix, prefix + "g"
        )

    def documents(self) -> Iterator[DocumentRow]:
        """Every document, in the order in which they were first added."""
        count = "(SELECT count(*) FROM parts WHERE document = documents.key)"
        for _, name, source, passages in self._database.scan(
            f"key, name, source, {count} FROM documents"
        ):
            yield DocumentRow(name, source, passages)

    def document(self, name: str) -> DocumentRow | None:
        """The document of a name, None if there is none."""
        row = self._database.row("SELECT key, source FROM documents WHERE name = ?", name)
        return None if row is None else DocumentRow(name, row[1], len(self._ids_of(row[0])))

    def passages_of(self, name: str) -> list[Passage]:
        """The passages of a document, in its order; none where there is no such document."""
        row = self._database.row("SELECT key FROM documents WHERE name = ?", name)
        return [] if row is None else self.get(self._ids_of(row[0]))

    def documents_of(self, passage_id: str) -> list[str]:
        """The names of the documents that hold a passage.

        Raises:
            PragError: the catalogue has no such passage.
        """
        names: list[str] = self._database.column(
            "SELECT name FROM documents WHERE key IN (SELECT document FROM parts "
            "JOIN passages ON passages.key = passage WHERE id = ?) ORDER BY key",
            passage_id,
        )
        if not names:
            raise PragError(f"{self.path}: no passage {passage_id!r}")
        return names

    def count(self) -> Counts:
        """How many documents and passages there are."""
        return Counts(
            self._database.value("SELECT count(*) FROM documents"),
            self._database.value("SELECT count(*) FROM passages"),
        )

    def state(self) -> tuple[int, ...]:
        """Another one after every change; so what was read in a state holds while it lasts."""
        return self._database.state()

    def digest(self) -> str:
        """16 hex digits of the set of passage ids: the same set, in any order, is the same."""
        state = hashlib.sha256()
        for id_ in self.ids():
            state.update(f"{id_}\n".encode())
        return state.hexdigest()[:ID_LENGTH]

    def integrity(self) -> list[str]:
        """What is damaged, a sentence each; an empty list is a sound catalogue.

        SQLite's own check of the file, then every passage against its id and every document
        against its digest.
        """
        found: list[str] = []
        try:
            checks = self._database.column("PRAGMA quick_check")
            found += [f"{self.path}: {check}" for check in checks if check != "ok"]
            for row in self._database.rows("PRAGMA foreign_key_check"):
                found.append(f"{self.path}: a row of {row[0]} refers to a missing row of {row[2]}")
            # As bytes: a text that is no UTF-8 any more is to be named, not to end the check.
            for key, id_, title, text in self._database.scan(
                "key, id, CAST(title AS BLOB), CAST(text AS BLOB) FROM passages"
            ):
                if hashlib.sha256(title + b"\n" + text).hexdigest()[:ID_LENGTH] != id_:
                    found.append(f"passage {id_}: its text is not what was stored")
                if self._database.row("SELECT 1 FROM parts WHERE passage = ?", key) is None:
                    found.append(f"passage {id_}: it belongs to no document")
            for key, name, digest in self._database.scan("key, name, digest FROM documents"):
                if content_id(*self._ids_of(key)) != digest:
                    found.append(f"document {name!r}: its passages are not those stored with it")
        except PragError as error:
            found.append(f"the check could not go on: {error}")
        return found

    def _store(self, document_key: int, document: Document) -> int:
        """Write the passages of a document; returns how many of them are new."""
        new = 0
        for position, passage in enumerate(document.passages):
            id_ = passage.id
            row = self._database.row("SELECT key, title, text FROM passages WHERE id = ?", id_)
            if row is None:
                key = self._database.insert(
                    "INSERT INTO passages (id, title, text) VALUES (?, ?, ?)",
                    id_,
                    passage.title,
                    passage.text,
                )
                new += 1
            elif (row[1], row[2]) == (passage.title, passage.text):
                key = row[0]
            else:
                raise PragError(
                    f"{document.source}: a passage of {document.name!r} has the id {id_} of "
                    f"another passage ({row[1]!r}); change a character of its text"
                )
            self._database.execute(
                "INSERT INTO parts VALUES (?, ?, ?)", document_key, position, key
            )
        return new

    def _ids_of(self, document_key: int) -> list[str]:
        """The ids of a document's passages, in order."""
        return self._database.column(
            "SELECT id FROM parts JOIN passages ON passages.key = passage "
            "WHERE document = ? ORDER BY position",
            document_key,
        )

    def _sweep(self, keys: Iterable[int]) -> list[str]:
        """Delete those of the passages that no document holds; returns their ids."""
        removed = []
        for key in sorted(keys):
            if self._database.row("SELECT 1 FROM parts WHERE passage = ?", key) is None:
                removed.append(self._database.value("SELECT id FROM passages WHERE key = ?", key))
                self._database.execute("DELETE FROM passages WHERE key = ?", key)
        return removed

    def _resolve(self, ids: Sequence[str]) -> tuple[list[int], list[int]]:
        """The keys of the documents and of the passages that the ids name."""
        documents: list[int] = []
        passages: list[int] = []
        wrong: list[str] = []
        for id_ in ids:
            row = self._database.row("SELECT key FROM documents WHERE name = ?", id_)
            if row is not None:
                documents.append(row[0])
                continue
            found = self.find(id_) if len(id_) >= _SHORTEST_PREFIX else []
            if len(found) == 1:
                passages.append(
                    self._database.value("SELECT key FROM passages WHERE id = ?", found[0])
                )
            elif found:
                wrong.append(f"{id_!r} begins the ids of {len(found)} passages ({_listed(found)})")
            else:
                wrong.append(f"{id_!r} is neither a document nor a passage")
        if wrong:
            raise PragError(
                f"{self.path}: nothing was withdrawn: {'; '.join(wrong)}. Name a document as it "
                f"was added, or a passage by at least {_SHORTEST_PREFIX} digits of its id"
            )
        return documents, passages


def _listed(items: Sequence[str], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(repr(item) for item in items[:most]) + more

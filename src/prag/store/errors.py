"""What can go wrong with a store, in words a user can act on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prag.disk import explain, full, unwritable
from prag.records import AdapterKey, PragError

NAMED = 10
"""How many passages a message names before it only counts."""


class MissingAdapter(PragError):  # noqa: N818 - named as users say it
    """An adapter was asked for that the store has no row of.

    Args:
        key: what was asked for.
        others: the keys of the same passage that the store does have.
    """

    def __init__(self, key: AdapterKey, others: Sequence[AdapterKey], place: Path | str) -> None:
        self.key, self.others = key, tuple(others)
        same_base = sorted({other.recipe for other in others if other.base == key.base})
        bases = sorted({other.base for other in others})
        if same_base:
            what = (
                f"passage {key.passage} has an adapter, but for another recipe "
                f"{_listed(same_base)}, not {key.recipe}: ask with that recipe, or run "
                "`prag build` with this one"
            )
        elif bases:
            what = (
                f"passage {key.passage} has an adapter, but for another base model "
                f"{_listed(bases)}, not {key.base}: ask with that model, or run "
                "`prag build` with this one"
            )
        else:
            what = f"there is no adapter for passage {key.passage} at all: run `prag build`"
        super().__init__(f"{place}: {what}")


class DamagedAdapter(PragError):  # noqa: N818
    """The bytes of an adapter are not those that were stored, or are gone.

    Args:
        key: the adapter that was read.
        shard: the path or address of its shard.
        keys: every adapter that the index places in this shard.
        reason: what was found.
    """

    def __init__(
        self, key: AdapterKey, shard: str, keys: Sequence[AdapterKey], reason: str
    ) -> None:
        self.key, self.shard, self.keys, self.reason = key, shard, tuple(keys), reason
        passages = sorted({k.passage for k in keys})
        super().__init__(
            f"{shard}: the adapter of passage {key.passage} is damaged ({reason}); this shard "
            f"holds the adapters of {len(passages)} passages: {_listed(passages)}; run "
            f"`{mending(shard)}` to make the damaged ones again"
        )


def mending(place: Path | str, kb: Path | str = "") -> str:
    """The command that makes damaged adapters again, of a store in a folder or at an address."""
    words = ["prag build", *([str(kb)] if kb else []), *(["--check"] if is_address(place) else [])]
    return " ".join(words)


def is_address(place: object) -> bool:
    """Whether this is an address for fsspec (`s3://bucket/path`) and not a folder."""
    return isinstance(place, str) and "://" in place


def _listed(names: Sequence[str]) -> str:
    """The first ten, and how many more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn the errors of the disk and of SQLite into a PragError that names `path`.

    Args:
        path: the file or folder that is worked on.
        doing: what was being done, as a noun phrase ("writing a shard").
    """
    try:
        yield
    except OSError as error:
        raise PragError(explain(error, path, doing)) from error
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise  # a mistake of the program, not of the disk
    except sqlite3.DatabaseError as error:
        raise PragError(_explain_sqlite(str(error), path, doing)) from error


def _explain_sqlite(message: str, path: Path, doing: str) -> str:
    # By message and not by code: sqlite3 gives codes only from Python 3.11 on.
    if "is full" in message:
        return full(path, doing)
    if "readonly database" in message:
        return unwritable(path, doing)
    if "not a database" in message or "malformed" in message:
        return (
            f"{path}: the index of the adapter store cannot be read ({message}): restore this "
            "file from a copy, or move its folder away and run `prag build` to make the "
            "adapters again"
        )
    if "unable to open" in message:
        return (
            f"{path}: cannot be opened ({message}): check the rights on it and its folder; if "
            f"{path.name}-journal stands beside it, a writer was killed: open it once from a "
            "place where it can be written"
        )
    if "locked" in message:
        return f"{path}: another process holds it, {doing} was not done: try again later"
    return f"{path}: {doing} failed: {message}"

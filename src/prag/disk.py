"""What every room that writes needs of a disk: durable files, and errors in plain words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from prag.records import PragError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP)


class InUseError(PragError):
    """Another process is writing to a folder."""


def cache_folder() -> Path:
    """What can be made again is kept here: PRAG_CACHE, else prag under the user's cache folder."""
    if os.environ.get("PRAG_CACHE"):
        return Path(os.environ["PRAG_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prag"


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows opens no folders, and orders their changes itself
    # Windows syncs only what is open for writing.
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(handle)


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Within the block no other process writes to a folder that does this; `.lock` stays in it.

    Raises:
        InUseError: another process is writing.
        PragError: the folder cannot be written.
    """
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise InUseError(
            f"another process is writing to {folder}; wait until it is done, then run the "
            "command again"
        ) from None
    except OSError as error:
        raise PragError(explain(error, folder, "locking it")) from error
    try:
        yield
    finally:
        lock.release()


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that whatever interrupts it leaves the old content or the new.

    Raises:
        OSError: as the disk says; the old content stays, and nothing beside it.
    """
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        sync(path.parent)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def explain(error: OSError, path: Path, doing: str) -> str:
    """What went wrong on the disk, where, and how to mend it.

    Args:
        path: the file or folder that is worked on.
        doing: what was being done, as a noun phrase ("writing a shard").
    """
    if error.errno in _NO_ROOM:
        return full(path, doing)
    if error.errno in _NO_RIGHT:
        return unwritable(path, doing)
    return f"{path}: {doing} failed: {error.strerror or error}"


def full(path: Path, doing: str) -> str:
    """The message for a disk without room."""
    return (
        f"{path}: the disk is full (no space left), {doing} was not finished; what was stored "
        "before is unharmed: free some space and run it again"
    )


def unwritable(path: Path, doing: str) -> str:
    """The message for a place that cannot be written to."""
    return (
        f"{path}: cannot be written, {doing} was not done: give yourself the right to write "
        "there, or copy the knowledge base to a place that can be written"
    )

"""Objects at an address: what the adapter store needs of an object store, through fsspec.

An object is written whole and then never changed, but for the one that says where the newest
checkpoint is. What may pass by itself (a server that answers 500, that is slow, throttles or
breaks off) is tried again, longer and longer apart, and counted.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from prag.disk import sync
from prag.records import PragError

TRIES = 8
"""Times that a request is made before it has failed."""

FIRST_WAIT = 0.2
"""Seconds before the second try; each next wait is twice as long."""

LONGEST_WAIT = 10.0
"""Seconds between two tries, at most."""

TIMEOUT = 60
"""Seconds that a server may be silent."""

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """An object in a listing: its name without the folder, and its size in bytes."""

    name: str
    size: int


class Objects:
    """The objects under an address. May be used from any thread, not across a fork.

    Where the server is and who may use it is for fsspec to know: the usual variables of the
    environment and files of each kind of store (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` ...).

    Args:
        address: `s3://bucket/path`, `gs://...`, `az://...`, `file:///...`.
        timeout: seconds that a server may be silent.

    Raises:
        PragError: no such kind of store is known, or what reads it is not installed.
    """

    def __init__(self, address: str, timeout: float = TIMEOUT) -> None:
        self.address = address.rstrip("/")
        self.retried = 0
        self._files, self._root = _file_system(self.address, timeout)
        self._local = _protocol(self._files) == "file"
        # In one request: else s3fs asks for the size first, to read large ones in parts.
        self._whole = {"max_concurrency": 1} if _protocol(self._files) == "s3" else {}

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """The bytes of an object, or those from `start` up to `end`; None if there is none.

        Raises:
            EOFError: the object ends before `end`.
        """

        def get() -> bytes:
            path = self._path(name)
            try:
                data: bytes = self._files.cat_file(path, start=start, end=end, **self._whole)
            except OSError as error:
                if error.errno != errno.EINVAL or end is None:
                    raise
                data = b""  # a range that begins after the end
            if start is not None and end is not None and len(data) != end - start:
                size = int(self._files.info(path)["size"])
                if size < end:
                    raise EOFError(f"truncated: {size} bytes")
                raise ConnectionError(f"{len(data)} bytes came of {end - start}")
            return data

        with suppress(FileNotFoundError):
            return self._patient(f"reading {name}", get)
        return None

    def read_some(self, names: Sequence[str]) -> list[bytes | None]:
        """The bytes of several objects at once; None for each that is not there."""
        if len(names) == 1:
            return [self.read(names[0])]
        paths = [self._path(name) for name in names]
        found = self._patient(
            "reading", lambda: self._files.cat(paths, on_error="return", **self._whole)
        )
        return [
            self.read(name)
            if isinstance(data, Exception) and not isinstance(data, FileNotFoundError)
            else None
            if isinstance(data, Exception)
            else data
            for name, data in ((n, found.get(p)) for n, p in zip(names, paths, strict=True))
        ]

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of this name: of several who try, one does.

        Args:
            data: unlike anything that another writer would write, so that a try whose answer was
                lost is told from another's.

        Returns:
            Whether this is what is there now.
        """
        with suppress(FileExistsError):
            self._put(f"creating {name}", lambda: self._create(name, data))
            return True
        return self.read(name) == data

    def write(self, name: str, data: bytes) -> None:
        """Write an object, in place of what was there."""
        self._put(f"writing {name}", lambda: self._files.pipe_file(self._path(name), data))

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object; when this returns all of it is there."""
        size = path.stat().st_size
        for _ in range(TRIES):
            self._put(
                f"uploading {name}", lambda: self._files.put_file(str(path), self._path(name))
            )
            there = self.size(name)
            if there == size:
                break
            self.retried += 1
        else:
            raise PragError(f"{self.address}/{name}: {there} bytes are there of {size}: try again")
        if self._local:
            sync(Path(self._path(name)))
            sync(Path(self._path(name)).parent)

    def download(self, name: str, path: Path) -> bool:
        """Write an object to a file; whether there was one."""

        def get() -> None:
            self._files.get_file(self._path(name), str(path))
            came = path.stat().st_size
            if came != size:
                raise ConnectionError(f"{came} bytes came of {size}")

        size = self.size(name)
        with suppress(FileNotFoundError):
            if size is not None:
                self._patient(f"downloading {name}", get)
                return True
        path.unlink(missing_ok=True)
        return False

    def listed(self, folder: str) -> list[Listed]:
        """What is in a folder, sorted; nothing where there is no such folder."""

        def ls() -> list[dict[str, Any]]:
            return self._files.ls(self._path(folder), detail=True)  # type: ignore[no-any-return]

        with suppress(FileNotFoundError):
            found = self._patient(f"listing {folder}", ls)
            objects = [f for f in found if f["type"] == "file"]
            named = (Listed(str(f["name"]).rsplit("/", 1)[-1], int(f["size"])) for f in objects)
            return sorted((x for x in named if x.name), key=lambda x: x.name)
        return []

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""
        with suppress(FileNotFoundError):
            self._patient(f"deleting {name}", lambda: self._files.rm_file(self._path(name)))

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none."""
        with suppress(FileNotFoundError):
            return self._patient(
                f"looking at {name}", lambda: int(self._files.info(self._path(name))["size"])
            )
        return None

    def age(self, name: str) -> float | None:
        """Seconds since an object was written; None if there is none."""

        def modified() -> datetime:
            return self._files.modified(self._path(name))  # type: ignore[no-any-return]

        with suppress(FileNotFoundError):
            at = self._patient(f"looking at {name}", modified)
            at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
            return (datetime.now(timezone.utc) - at).total_seconds()
        return None

    def check_create(self) -> None:
        """Make sure that the second of two who create an object is refused.

        Raises:
            PragError: the server lets it pass, so two writers could lose each other's work.
        """
        name = f"probe-{secrets.token_hex(8)}"
        try:
            first = self.create(name, b"first")
            refused = not self.create(name, b"second")
        except PragError:
            raise
        except Exception as error:
            raise PragError(
                f"{self.address}: objects cannot be created on a condition there ({error}): use a "
                "store, and a version of its fsspec package, with conditional writes"
            ) from error
        finally:
            with suppress(PragError):
                self.remove(name)
        if not first or not refused:
            raise PragError(
                f"{self.address}: the server overwrites what it was told to create only if it is "
                "not there (If-None-Match): two writers would lose each other's adapters, so it "
                "cannot hold an adapter store"
            )

    def _create(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if self._local:
            # fsspec looks and then writes; a link is made or refused in one step.
            draft = Path(f"{path}.{secrets.token_hex(4)}")
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            try:
                sync(draft)
                os.link(draft, path)
                sync(draft.parent)
            finally:
                draft.unlink()
        elif _protocol(self._files) in ("az", "abfs", "abfss"):
            self._files.pipe_file(path, data, overwrite=False)
        else:
            self._files.pipe_file(path, data, mode="create")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, doing: str, request: Callable[[], object]) -> None:
        """A request that writes: what is not found is what it would be written into."""
        try:
            self._patient(doing, request)
        except FileNotFoundError as error:
            raise PragError(
                f"{self.address}: {doing} failed, there is no such bucket or container ({error}): "
                "make it first, or give another address"
            ) from error

    def _patient(self, doing: str, request: Callable[[], T]) -> T:
        """What a request brings, tried again where that may help.

        Raises:
            FileNotFoundError, FileExistsError: as the store says.
            PragError: it failed each time, or is not allowed.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_attempt
        from tenacity.wait import wait_exponential, wait_random

        def count(_: object) -> None:
            self.retried += 1

        tries = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(FIRST_WAIT, max=LONGEST_WAIT) + wait_random(0, FIRST_WAIT),
            retry=retry_if_exception(_may_pass),
            before_sleep=count,
            reraise=True,
        )
        try:
            return tries(request)
        except (FileNotFoundError, FileExistsError, PragError):
            raise
        except PermissionError as error:
            raise PragError(
                f"{self.address}: {doing} is not allowed ({error}): check the credentials in the "
                "environment and what they may do there"
            ) from error
        except Exception as error:
            if not _may_pass(error):
                raise
            raise PragError(
                f"{self.address}: {doing} failed {TRIES} times ({_words(error)}): check that the "
                "store is up and can be reached, then run it again; what was stored before is "
                "unharmed"
            ) from error


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    final = (FileNotFoundError, FileExistsError, PermissionError, EOFError, PragError)
    mistakes = (TypeError, ValueError, AttributeError, LookupError, NotImplementedError)
    return isinstance(error, Exception) and not isinstance(error, (*final, *mistakes))


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _protocol(files: Any) -> str:
    protocol = files.protocol
    names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
    return "file" if "file" in names else str(names[0])


def _file_system(address: str, timeout: float) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    protocol = address.split("://", 1)[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):  # one who retries is enough, and this one counts
        silent = {"connect_timeout": timeout, "read_timeout": timeout}
        options["config_kwargs"] = {**silent, "retries": {"total_max_attempts": 1}}
        # Said here, since connections are shared by all that are made with the same options.
        options["endpoint_url"] = os.environ.get("AWS_ENDPOINT_URL") or None
    elif protocol in ("file", "local"):
        options = {"auto_mkdir": True}
    try:
        import tenacity  # noqa: F401
        from fsspec.core import url_to_fs

        files, root = url_to_fs(address, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol, "s3")
        raise PragError(
            f"{address}: what reads this address is not installed ({error}): "
            f"pip install 'prag[{extra}]'"
        ) from error
    except ValueError as error:
        raise PragError(
            f"{address}: not an address of an object store ({error}): use s3://bucket/path, "
            "gs://bucket/path or az://container/path"
        ) from error
    if protocol in ("s3", "s3a"):
        files.retries = 1
    return files, str(root).rstrip("/")

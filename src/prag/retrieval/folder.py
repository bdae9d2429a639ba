"""The folder of a retrieval index: how it is replaced as a whole, and checked when opened.

    meta.json            what the index is; replaced last, in one step
    data-<8 hex>/        the files of the index; meta.json names the one that counts
        ids.npy          the passages' ids in the order of the corpus, 16 bytes each
        ...              what the kind of retriever adds

A build fills a new data folder and then replaces meta.json. Killed before that step it leaves the
old index in force; a data folder that meta.json does not name is removed by the next build.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prag.disk import replace_text, sync
from prag.records import ID_LENGTH, Passage, PragError

FORMAT = 1
"""Version of the format on disk; raised whenever an older reader would misread it."""

META = "meta.json"
IDS = "ids.npy"
_DATA = re.compile(r"data-[0-9a-f]{8}")
_BLOCK = 1 << 20  # bytes read at once

T = TypeVar("T")


@dataclass(frozen=True)
class IndexFile:
    """One file of an index: its size in bytes and the SHA-256 of its content."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class IndexInfo:
    """What meta.json says of an index.

    `digest` is the caller's hash of the corpus, or else the hash of the ids in order: another
    digest is an index of another corpus. `settings` are the numbers that the scores depend on,
    and what was cut short while building. `libraries` are versions, for a reader; nothing is
    refused for them.
    """

    kind: str
    format: int
    passages: int
    digest: str
    data: str
    settings: Mapping[str, Any]
    libraries: Mapping[str, str]
    files: Mapping[str, IndexFile] = field(default_factory=dict)


@dataclass(frozen=True)
class Filled:
    """What a `fill` function of `write_index` wrote: the ids, and what meta.json shall say."""

    ids: NDArray[np.bytes_]
    settings: Mapping[str, Any]
    libraries: tuple[str, ...]


class IdList:
    """Collects the ids of the passages that pass through it."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def reading(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """The passages, unchanged."""
        for passage in passages:
            self._bytes += passage.id.encode("ascii")
            yield passage

    def array(self) -> NDArray[np.bytes_]:
        """The ids so far [N], 16 bytes each.

        Raises:
            PragError: there are none, or an id is there twice.
        """
        ids = np.frombuffer(bytes(self._bytes), dtype=f"S{ID_LENGTH}")
        if not len(ids):
            raise PragError("no passages to index: add documents before building the index")
        ordered = np.sort(ids)
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(twice):
            first = ordered[twice[0]].decode("ascii")
            raise PragError(
                f"{len(twice)} passages to index were given more than once, the first is {first}:"
                " give every passage once"
            )
        return ids


def write_index(
    folder: Path, kind: str, fill: Callable[[Path], Filled], digest: str | None = None
) -> None:
    """Make or replace the index in a folder; until the last step the old one stays in force.

    Args:
        folder: made if it is not there.
        kind: the retriever's word.
        fill: given an empty folder, writes every file of the index but the ids.
        digest: the caller's hash of the corpus; None takes the hash of the ids.

    Raises:
        PragError: the folder cannot be written (permission, disk full).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"data-{uuid.uuid4().hex[:8]}"
        data.mkdir()
        try:
            filled = fill(data)
            np.save(data / IDS, filled.ids, allow_pickle=False)
            info = IndexInfo(
                kind=kind,
                format=FORMAT,
                passages=len(filled.ids),
                digest=digest if digest is not None else _digest(filled.ids),
                data=data.name,
                settings=filled.settings,
                libraries={name: metadata.version(name) for name in filled.libraries},
                files={p.relative_to(data).as_posix(): _seal(p) for p in _files(data)},
            )
            for place in (data, *(p for p in data.rglob("*") if p.is_dir())):
                sync(place)
            _replace_meta(folder, info)
        except BaseException:
            if not _in_force(folder, data):
                shutil.rmtree(data, ignore_errors=True)
            raise
    except OSError as error:
        where = error.filename if error.filename is not None else folder
        raise PragError(
            f"{folder}: the retrieval index cannot be written ({where}: {error.strerror or error});"
            " see that the disk has room and the folder may be written, then run `prag build`"
        ) from error
    for other in folder.iterdir():
        if _DATA.fullmatch(other.name) and other.name != data.name:
            shutil.rmtree(other, ignore_errors=True)


def read_index(folder: Path, kind: str, load: Callable[[Path, IndexInfo], T]) -> T:
    """Open the index of a folder: check what it is, then `load(data folder, info)`.

    Raises:
        PragError: no index, an index of another kind or format, or a damaged one.
    """
    while True:
        info = index_info(folder)
        if info.kind != kind:
            raise PragError(
                f"{folder}: a retrieval index of kind {info.kind!r}, not {kind!r};"
                " run `prag build` to make the other"
            )
        try:
            for name, file in info.files.items():
                size = (folder / info.data / name).stat().st_size
                if size != file.bytes:
                    raise ValueError(f"{name} has {size} bytes in place of {file.bytes}")
            return load(folder / info.data, info)
        except (PragError, OSError, ValueError, KeyError, TypeError) as error:
            # A build in another process may have replaced the index between two reads.
            if not _in_force(folder, folder / info.data):
                continue
            if isinstance(error, PragError):
                raise
            raise _damaged(folder, str(error)) from error


def index_info(folder: Path) -> IndexInfo:
    """What meta.json says of the index in a folder.

    Raises:
        PragError: there is no index, or meta.json is damaged or of another format.
    """
    try:
        raw = json.loads((folder / META).read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise PragError(
                f"{folder}: a retrieval index of format {raw['format']}, this version of prag"
                f" reads format {FORMAT}; run `prag build` to make it again"
            )
        raw["files"] = {name: IndexFile(**file) for name, file in raw["files"].items()}
        info = IndexInfo(**raw)
        if not _DATA.fullmatch(info.data) or any(".." in name for name in info.files):
            raise ValueError("it names files outside its folder")
        return info
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PragError(f"{folder}: no retrieval index here; run `prag build`") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"{META}: {error}") from error


def verify_index(folder: Path) -> list[str]:
    """Read every file of the index and compare checksums; what is wrong, empty if nothing is.

    Opening an index compares sizes only, so that it stays cheap; this finds changed bytes too.

    Raises:
        PragError: as `index_info`.
    """
    info = index_info(folder)
    wrong = []
    for name, file in info.files.items():
        try:
            if _checksum(folder / info.data / name) != file.sha256:
                wrong.append(f"{name}: its content has changed")
        except OSError as error:
            wrong.append(f"{name}: {error.strerror or error}")
    return wrong


def load_ids(data: Path, info: IndexInfo) -> NDArray[np.bytes_]:
    """The ids of the passages [N], memory-mapped.

    Raises:
        ValueError: the file is not what meta.json says.
    """
    ids: NDArray[np.bytes_] = np.load(data / IDS, mmap_mode="r", allow_pickle=False)
    if ids.shape != (info.passages,) or ids.dtype != np.dtype(f"S{ID_LENGTH}"):
        raise ValueError(f"{IDS} holds {ids.dtype} {ids.shape}, not {info.passages} ids")
    return ids


def _digest(ids: NDArray[np.bytes_]) -> str:
    return hashlib.sha256(ids.tobytes()).hexdigest()[:ID_LENGTH]


def _in_force(folder: Path, data: Path) -> bool:
    """Whether meta.json names this data folder."""
    try:
        return index_info(folder).data == data.name
    except PragError:
        return False


def _damaged(folder: Path, reason: str) -> PragError:
    return PragError(
        f"{folder}: the retrieval index is damaged ({reason}); run `prag build` to make it again"
    )


def _files(data: Path) -> list[Path]:
    return sorted(p for p in data.rglob("*") if p.is_file())


def _seal(path: Path) -> IndexFile:
    sync(path)
    return IndexFile(path.stat().st_size, _checksum(path))


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _replace_meta(folder: Path, info: IndexInfo) -> None:
    replace_text(folder / META, json.dumps(asdict(info), indent=1) + "\n")

"""Files into documents.

There are two kinds of file. In a file of records (JSONL, TSV, Parquet) each line or row is one
passage as it stands, and a document of its own. Any other file (text, Markdown, HTML, PDF) is one
document, and its text is chunked into passages.

What makes a later version the same document is its name:

- a file: the path as the user gave it, so that it is replaced when its text changes;
- a record: `<file name>#<id>`, so that the record of one id is replaced when its text changes,
  also when the file was moved to another folder. Files of one name in several folders share their
  ids: records that are not the same need ids that are not the same;
- a record without an id, and text from the standard input: `<file name>#<hash of its content>`,
  since nothing else tells it from others. A changed one is a new document, and the old one stays
  until it is withdrawn.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from prag.corpus.chunking import chunk
from prag.corpus.formats import Refused, clean, decoded, from_html, from_markdown, from_pdf
from prag.corpus.rows import read_jsonl, read_parquet, read_tsv
from prag.records import Document, Passage, PragError, Reject

_MOST_PROBLEMS = 100  # kept for one file; the rest are counted
_RECORDS = (".jsonl", ".tsv", ".jsonl.gz", ".tsv.gz", ".parquet")
_DOCUMENTS = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
_KNOWN = ", ".join(_RECORDS + _DOCUMENTS)
_UPLOADS = ", ".join((".jsonl", ".tsv", *_DOCUMENTS))


@dataclass(frozen=True)
class ReadReport:
    """What was read. The `text` of each Reject is a place, `file` or `file:line` (or row).

    Args:
        documents: in the order of the files; names are unique.
        problems: what is wrong, and how to mend it. At most 100 a file and one that counts the
            rest.
        ignored: what was left out and is no fault: files of a folder with an ending that no
            reader knows, hidden ones, documents that stand twice, PDF pages without text.
    """

    documents: tuple[Document, ...]
    problems: tuple[Reject, ...]
    ignored: tuple[Reject, ...]


def read(
    paths: Sequence[str | Path], chunk_words: int = 100, stdin: BinaryIO | None = None
) -> ReadReport:
    """Read files into documents. Nothing that a file holds stops it: problems are returned.

    Args:
        paths: each a file, a folder (all its files, in sorted order) or "-" (the standard input:
            JSONL if its first character is "{", else text).
        chunk_words: words of a passage, for files that are chunked.
        stdin: what to read for "-"; by default the process's own.

    Raises:
        PragError: `chunk_words` is below 1, or a library for a kind of file is not installed.
    """
    if chunk_words < 1:
        raise PragError(f"a chunk has at least 1 word, not {chunk_words}")
    gathered = _Gathered(chunk_words)
    if isinstance(paths, str):  # a sequence of letters to Python, one path to its user
        paths = [paths]
    for given in paths:
        if str(given) == "-":
            _read_stdin(sys.stdin.buffer if stdin is None else stdin, gathered)
            continue
        path = Path(given)
        if path.is_dir():
            _read_folder(path, gathered)
        else:
            _read_file(path, gathered)
    return ReadReport(tuple(gathered.documents), tuple(gathered.problems), tuple(gathered.ignored))


def read_named(name: str, data: bytes, chunk_words: int = 100) -> ReadReport:
    """Read what has a name but is no file here, an upload say, as a file of that name.

    Args:
        name: never used as a path; its ending says what the data are, text if it has none.

    Raises:
        PragError: a library for the kind of file is not installed.
    """
    gathered = _Gathered(chunk_words)
    path = PurePosixPath(name)
    ending = _ending(path) if path.suffix else ".txt"

    def entries() -> Iterable[Document | Reject]:
        if ending in (".jsonl", ".tsv"):
            read_records = read_jsonl if ending == ".jsonl" else read_tsv
            return read_records(name, name, io.BytesIO(data))
        if ending not in _DOCUMENTS:
            raise Refused(f"is not read from an upload; known endings are {_UPLOADS}")
        return [_document(name, path.stem, ending, data, gathered)]

    gathered.file(name, entries)
    return ReadReport(tuple(gathered.documents), tuple(gathered.problems), tuple(gathered.ignored))


class _Gathered:
    """What has been read so far."""

    def __init__(self, chunk_words: int) -> None:
        self.chunk_words = chunk_words
        self.documents: list[Document] = []
        self.problems: list[Reject] = []
        self.ignored: list[Reject] = []
        self._sources: dict[str, tuple[str, str]] = {}  # a document's name -> digest, source

    def file(self, place: str, reader: Callable[[], Iterable[Document | Reject]]) -> None:
        """Take all that the reader of one file gives; what stops it is one more problem."""
        problems: list[Reject] = []
        count = 0
        for entry in _to_the_end(place, reader):
            count += 1
            problem = self._add(entry) if isinstance(entry, Document) else entry
            if problem is not None:
                problems.append(problem)
        if not count:
            problems.append(Reject(place, "holds no records; leave it out, or fill it"))
        self.problems += problems[:_MOST_PROBLEMS]
        more = len(problems) - _MOST_PROBLEMS
        if more > 0:
            self.problems.append(Reject(place, f"{more} more problems that are not listed here"))

    def ignore(self, place: str, reason: str) -> None:
        self.ignored.append(Reject(place, reason))

    def _add(self, document: Document) -> Reject | None:
        """Take a document; a Reject if another of its name has been taken."""
        digest = document.digest
        if document.name not in self._sources:
            self._sources[document.name] = (digest, document.source)
            self.documents.append(document)
            return None
        known, source = self._sources[document.name]
        if known == digest:
            self.ignore(document.source, f"the same as {source}, which was taken")
            return None
        return Reject(
            document.source,
            f"{document.name!r} is the name of {source} too, whose text differs; give each its "
            "own id",
        )


def _to_the_end(
    place: str, reader: Callable[[], Iterable[Document | Reject]]
) -> Iterator[Document | Reject]:
    try:
        yield from reader()
    except Refused as error:
        yield Reject(place, str(error))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Reject(place, f"damaged gzip data ({error}); fetch or pack the file again")
    except OSError as error:
        yield Reject(place, f"cannot be read: {error.strerror or error}")


def _read_stdin(stream: BinaryIO, gathered: _Gathered) -> None:
    data = stream.read()
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        gathered.file("stdin", lambda: read_jsonl("stdin", "stdin", io.BytesIO(data)))
    else:
        gathered.file("stdin", lambda: [_document("stdin", "", ".txt", data, gathered)])


def _read_folder(folder: Path, gathered: _Gathered) -> None:
    """Every file below the folder that a reader knows; links to folders are not followed."""
    unreadable: list[Reject] = []

    def note(error: OSError) -> None:
        unreadable.append(Reject(str(error.filename), f"cannot be read: {error.strerror}"))

    read_any = False
    for root, folders, files in os.walk(folder, onerror=note):
        for name in folders:
            path = Path(root, name)
            if name.startswith("."):
                gathered.ignore(path.as_posix(), "hidden; name it to read it")
            elif path.is_symlink():
                gathered.ignore(path.as_posix(), "a link to a folder; name it to read it")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if name.startswith("."):
                gathered.ignore(path.as_posix(), "hidden; name it to read it")
            elif not _ending(path):
                gathered.ignore(path.as_posix(), _unknown(path))
            else:
                _read_file(path, gathered)
                read_any = True
    if not read_any:
        reason = f"holds no file that can be read; known endings are {_KNOWN}"
        unreadable.append(Reject(folder.as_posix(), reason))
    gathered.problems += unreadable


def _ending(path: PurePath) -> str:
    """The ending of a file's name that a reader knows, '' if none does."""
    name = path.name.lower()
    return next((ending for ending in _RECORDS + _DOCUMENTS if name.endswith(ending)), "")


def _unknown(path: Path) -> str:
    if path.name.lower().endswith((".json", ".json.gz")):
        return "JSON is read as JSONL: write one object a line, and end the name in .jsonl"
    return f"no reader knows this ending; known are {_KNOWN}"


def _read_file(path: Path, gathered: _Gathered) -> None:
    place = path.as_posix()
    gathered.file(place, lambda: _entries(path, place, gathered))


def _entries(path: Path, place: str, gathered: _Gathered) -> Iterator[Document | Reject]:
    ending = _ending(path)
    status = path.stat()
    if not ending:
        raise Refused(_unknown(path))
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file; to read a stream, pipe it in and name it -")
    if status.st_size == 0:
        raise Refused("empty; leave it out, or fill it")
    if ending == ".parquet":
        yield from read_parquet(place, path.name, path)
    elif ending in _RECORDS:
        # A packed file has the name of what is in it, so that it makes the same documents.
        packed = ending.endswith(".gz")
        name = path.name[: -len(".gz")] if packed else path.name
        read_records = read_jsonl if ending.startswith(".jsonl") else read_tsv
        with gzip.open(path) if packed else path.open("rb") as file:
            yield from read_records(place, name, file)
    else:
        yield _document(place, path.stem, ending, path.read_bytes(), gathered)


def _document(place: str, stem: str, ending: str, data: bytes, gathered: _Gathered) -> Document:
    """A file that is chunked; without a stem (the standard input) its content names it."""
    if ending == ".pdf":
        title, text, blank = from_pdf(data)
        if blank:
            some = ", ".join(map(str, blank[:10])) + (" …" if len(blank) > 10 else "")
            gathered.ignore(place, f"{len(blank)} pages without text (scans?): {some}")
    elif ending in (".md", ".markdown"):
        title, text = from_markdown(clean(decoded(data)))
    elif ending in (".html", ".htm"):
        title, text = from_html(decoded(data))
    else:
        title, text = "", decoded(data)
    title = " ".join(clean(title).split()) or clean(stem)
    chunks = chunk(clean(text), gathered.chunk_words)
    if not chunks:
        raise Refused("holds no text; leave it out, or fill it")
    for part in chunks:
        # Its size in words would mean nothing, and a passage of any length could come of it.
        if len(part) > 1000 and len(part) > 40 * (part.count(" ") + 1):
            raise Refused(
                f"{part[:20]!r}… has no spaces between its words and cannot be chunked; cut the "
                "text into passages and give them as JSONL"
            )
    document = Document(place, place, tuple(Passage(title, part) for part in chunks))
    return document if stem else replace(document, name=f"{place}#{document.digest}")

"""Files of records: JSONL, TSV, Parquet. Each line or row is one passage as it stands.

A record is `id, title, text` or, as FlashRAG has it, `id, contents` with the title in the first
line. The readers give a Document for each record, or a Reject that says what is wrong with it,
and go on behind it; what ends a file early is raised.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

from prag.corpus.formats import Refused, decoded, missing
from prag.records import Document, Passage, Reject

_MOST_WORDS = 2000  # of a record, which is one passage
_MOST_BYTES = 1_000_000  # of a line, or of a record's text
_BATCH = 1024  # Parquet rows read at a time

_Bytes: TypeAlias = "BinaryIO | io.BufferedIOBase"

_COLUMNS = ("id", "title", "text", "contents")
_SURROGATE = re.compile("[\ud800-\udfff]")
_AS_TEXT = "put long text in a .txt file, which is chunked"
_QUOTING = "quote its fields as Python's csv module does"


def read_jsonl(place: str, name: str, file: _Bytes) -> Iterator[Document | Reject]:
    """One object a line; blank lines are passed over.

    Args:
        place: the file as the user gave it, for messages.
        name: its name, the first half of its records' names.
    """
    for number, line in _lines(place, file):
        if isinstance(line, Reject):
            yield line
        elif line.strip():
            here = f"{place}:{number}"
            try:
                yield _record(here, name, _object(line))
            except Refused as error:
                yield Reject(here, str(error))


def read_tsv(place: str, name: str, file: _Bytes) -> Iterator[Document | Reject]:
    """Tab-separated with a header, quoted as the csv module does; a quoted text may hold lines."""
    pulled: list[int] = []  # the numbers of the lines that make up the row
    unread: list[Reject] = []  # of lines before or inside the row

    def lines() -> Iterator[str]:
        for number, line in _lines(place, file):
            if isinstance(line, Reject):
                unread.append(line)
            else:
                pulled.append(number)
                yield line

    # strict: else a quote that does not close would silently swallow the rows behind it.
    reader = csv.reader(lines(), delimiter="\t", strict=True)
    header: list[str] = []
    while True:
        pulled.clear()
        try:
            row = next(reader, None)
            if row is None:
                break
            if not header:
                header = _header(row)
            elif row:
                yield _record(f"{place}:{pulled[0]}", name, _fields(header, row, pulled))
        except (csv.Error, Refused) as error:
            said = str(error) if isinstance(error, Refused) else f"not TSV: {error}; {_QUOTING}"
            yield Reject(f"{place}:{pulled[0]}", said)
            if not header:
                break
        yield from unread
        unread.clear()
    yield from unread


def read_parquet(place: str, name: str, path: Path) -> Iterator[Document | Reject]:
    """The same columns as JSONL has keys; the place of a record is its row, from 1.

    Raises:
        Refused: the file is damaged, or has none of the columns.
        PragError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing("Parquet", "pyarrow") from error

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [column for column in names if column in _COLUMNS]
            if "text" not in columns and "contents" not in columns:
                raise Refused(f"has no column text or contents but {names}; rename one of them")
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                for row in range(batch.num_rows):
                    number += 1
                    here = f"{place}:{number}"
                    try:
                        # Value by value: one that is not UTF-8 fails alone.
                        data = {column: batch.column(column)[row].as_py() for column in columns}
                        yield _record(here, name, data)
                    except (Refused, UnicodeDecodeError) as error:
                        yield Reject(here, str(error))
    except (pyarrow.ArrowException, OSError) as error:
        raise Refused(
            f"a damaged Parquet file (behind row {number}: {error}); fetch or write it again"
        ) from error


def _lines(place: str, file: _Bytes) -> Iterator[tuple[int, str | Reject]]:
    """The lines of a file with their numbers; a Reject for one that is too long or no UTF-8."""
    number = end = 0
    while line := file.readline(_MOST_BYTES + 1):
        number, start, end = number + 1, end, end + len(line)
        if len(line) > _MOST_BYTES:
            # The rest of it is passed over in parts, so that memory is bounded.
            while not line.endswith(b"\n") and (line := file.readline(_MOST_BYTES)):
                end += len(line)
            too_long = f"a line of over {_MOST_BYTES:,} bytes; {_AS_TEXT}"
            yield number, Reject(f"{place}:{number}", too_long)
            continue
        try:
            text: str | Reject = decoded(line, start)
        except Refused as error:
            text = Reject(f"{place}:{number}", str(error))
        yield number, text


def _object(line: str) -> dict[str, object]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON: {error}; a line is one whole object") from error
    if not isinstance(data, dict):
        raise Refused(f"a JSON {type(data).__name__}; a line is an object with id, title, text")
    return data


def _header(row: list[str]) -> list[str]:
    if "text" not in row and "contents" not in row:
        raise Refused(f"the first line must be the header, id, title and text, not {row[:5]}")
    return row


def _fields(header: list[str], row: list[str], pulled: list[int]) -> dict[str, object]:
    if pulled[-1] - pulled[0] + 1 != len(pulled):
        raise Refused("a line inside this row cannot be read; mend that line")
    if len(row) != len(header):
        raise Refused(f"{len(row)} columns where the header has {len(header)}; mend the row")
    return dict(zip(header, row, strict=True))


def _record(place: str, name: str, data: Mapping[str, object]) -> Document:
    """A record as a document of one passage. Its text is only stripped: ids rest on it."""
    if "text" in data:
        title, text = _text(data, "title"), _text(data, "text")
    elif "contents" in data:
        # FlashRAG: the first line is the title, in double quotes. A single line is the text.
        title, newline, text = _text(data, "contents").rstrip().partition("\n")
        title, text = (title.strip(), text) if newline else ("", title)
        if len(title) > 1 and title.startswith('"') and title.endswith('"'):
            title = title[1:-1]
    else:
        raise Refused(f"has neither 'text' nor 'contents' but {', '.join(map(repr, data))}")
    passage = Passage(title.strip(), text.strip())
    if not passage.text:
        raise Refused("has no text; leave the record out, or fill it")
    words = len(passage.text.split())
    if words > _MOST_WORDS or len(passage.text) > _MOST_BYTES:
        raise Refused(
            f"a text of {words:,} words; a record is one passage, of at most {_MOST_WORDS:,} "
            f"words and {_MOST_BYTES:,} characters: {_AS_TEXT}"
        )
    id_ = data.get("id")
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    known = _text({"id": id_}, "id").strip() or passage.id
    return Document(f"{name}#{known}", place, (passage,))


def _text(data: Mapping[str, object], key: str) -> str:
    """The text under a key, '' for none."""
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Refused(f"{key!r} is of kind {type(value).__name__}, not a text; convert it")
    if _SURROGATE.search(value):
        raise Refused(f"{key!r} holds half a surrogate pair (\\ud800 to \\udfff); take it out")
    return value

"""The rows of a file (a JSON list, JSON lines, TSV) with their places, for messages.

What is wrong with a row is a PragError that names the file, the row and its id. The checks
say only what every set shares: what a field must be. Which fields there are, the set knows.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prag.corpus.formats import Refused, decoded
from prag.records import PragError

_SURROGATE = re.compile("[\ud800-\udfff]")
_IDS = ("_id", "id", "ID", "Q_id")
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True)
class Row:
    """One row: where it stands, and its fields."""

    place: str
    data: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The place and the id, if there is one."""
        id_ = next((self.data[key] for key in _IDS if key in self.data), None)
        known = isinstance(id_, (str, int)) and id_ != ""
        return f"{self.place} (id {id_!r})" if known else self.place

    def error(self, message: str) -> PragError:
        """The error that says where the row is, which id it has, and the message."""
        return PragError(f"{self.where}: {message}")

    def get(self, key: str) -> Any:
        """A field that must be there.

        Raises:
            PragError: it is not.
        """
        if key not in self.data:
            raise self.error(
                f"the field {key!r} is missing; the row has {', '.join(map(repr, self.data))}"
            )
        return self.data[key]

    def text(self, key: str) -> str:
        """A field that is a text and not blank, stripped. An id may be a whole number."""
        value = self.get(key)
        if key in _IDS and type(value) is int:
            value = str(value)
        text = self.as_text(value, repr(key)).strip()
        if not text:
            raise self.error(f"the field {key!r} is empty; fill it")
        return text

    def texts(self, key: str) -> list[str]:
        """A field that is a list of texts, as they are."""
        return self.as_texts(self.get(key), repr(key))

    def as_text(self, value: object, what: str) -> str:
        """The value, if it is a text that can be written as UTF-8."""
        if not isinstance(value, str):
            raise self.error(f"{what} is {kind_of(value)}, not a text")
        if _SURROGATE.search(value):
            raise self.error(f"{what} holds half a surrogate pair (\\ud800 to \\udfff); mend it")
        return value

    def as_texts(self, value: object, what: str) -> list[str]:
        """The value, if it is a list of texts."""
        items = self.as_list(value, what)
        return [self.as_text(item, f"{what}[{at}]") for at, item in enumerate(items)]

    def as_list(self, value: object, what: str) -> list[Any]:
        """The value, if it is a list."""
        if not isinstance(value, list):
            raise self.error(f"{what} is {kind_of(value)}, not a list")
        return value

    def as_object(self, value: object, what: str) -> Row:
        """The value as a row of its own, which knows the place of this one, if it is an object."""
        if not isinstance(value, dict):
            raise self.error(f"{what} is {kind_of(value)}, not an object")
        return Row(f"{self.where}, {what}", value)

    def flag(self, key: str) -> bool:
        """A field that is true or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key!r} is {kind_of(value)}, not true or false")
        return value


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), type(value).__name__)


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The bytes of a file, or its first `most`.

    Raises:
        PragError: it is not there or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as error:
        raise PragError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise PragError(f"{path}: cannot be read: {error.strerror}") from error


def read_json_rows(path: Path) -> list[Row]:
    """The rows of a JSON list, or of JSON lines (blank lines are passed over).

    Raises:
        PragError: the file is not UTF-8 or not JSON, or a row is not an object.
    """
    text = _read_text(path)
    if text.lstrip()[:1] == "[":
        return [_row(f"{path}, row {at}", item) for at, item in enumerate(_list(path, text), 1)]
    rows = []
    # Only \n ends a line: a text in JSON may hold other characters that end lines.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                rows.append(_row(place, json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise PragError(f"{place}: not JSON: {error}; a line is one object") from error
    return rows


def read_tsv_rows(path: Path) -> list[Row]:
    """The rows of a tab-separated file with a header, quoted as Python's csv module does.

    Raises:
        PragError: the file is not UTF-8 or not TSV, or a row has not the header's columns.
    """
    # newline="": the csv module itself tells a line end inside quotes from one between rows.
    lines = io.StringIO(_read_text(path), newline="")
    reader = csv.reader(lines, delimiter="\t", strict=True)
    rows: list[Row] = []
    header: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            place, begin = f"{path}:{begin}", reader.line_num + 1
            if header is None:
                header = cells
            elif cells:
                row = Row(place, dict(zip(header, cells, strict=False)))
                if len(cells) != len(header):
                    raise row.error(
                        f"{len(cells)} columns where the header has {len(header)}; mend the row"
                    )
                rows.append(row)
    except csv.Error as error:
        raise PragError(
            f"{path}:{begin}: not TSV: {error}; quote its fields as Python's csv module does"
        ) from error
    return rows


def _read_text(path: Path) -> str:
    try:
        return decoded(read_bytes(path))
    except Refused as error:
        raise PragError(f"{path}: {error}") from error


def _list(path: Path, text: str) -> list[object]:
    try:
        items: list[object] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PragError(f"{path}: not JSON: {error}; fetch or write the file again") from error
    return items


def _row(place: str, item: object) -> Row:
    if not isinstance(item, dict):
        raise PragError(f"{place}: {kind_of(item)}; a row is an object of fields")
    return Row(place, item)

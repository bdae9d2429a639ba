"""The rows of a run: written as they are done, read back whole or not at all.

RUN/run.json     what decides the rows; a run goes on only under the same
RUN/rows.jsonl   one line a question and condition
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prag.disk import explain, replace_text
from prag.records import PragError

Row = dict[str, Any]
"""One question under one condition; docs/evaluation.md names the fields."""

FILE = "rows.jsonl"


def read_rows(folder: Path) -> list[Row]:
    """The rows of a run, packed by gzip or not. A last line that a kill has torn is left out.

    Raises:
        PragError: there are none, a line that is not the last is damaged, or a question is there
            twice under one condition, which would count twice.
    """
    path = folder / FILE
    packed = path.with_name(f"{FILE}.gz")
    try:
        if path.is_file():
            data = path.read_bytes()
        elif packed.is_file():
            data = gzip.decompress(packed.read_bytes())
        else:
            raise PragError(f"{folder} holds no {FILE}: it is no run of `prag eval`")
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise PragError(f"the rows in {folder} cannot be read: {error}") from error
    rows, seen = [], set()
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what stands after the last \n is torn
        try:
            row = json.loads(line)
            rows.append({**row, "id": row["id"], "method": row["method"]})
        except (ValueError, KeyError, TypeError) as error:
            raise PragError(
                f"{path}:{number}: not a row ({error}): take the line out, and `prag eval` makes "
                "it again"
            ) from error
        key = (rows[-1]["method"], rows[-1]["id"])
        if key in seen:
            raise PragError(
                f"{path}:{number}: a second row of question {key[1]!r} under {key[0]!r}: take one "
                "of the two out"
            )
        seen.add(key)
    return rows


class RowFile:
    """The rows of a run that goes on."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Begin a run in a folder, or go on with the one that is there.

        Raises:
            PragError: the folder holds a run of other settings, or something else, or cannot be
                written.
        """
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._agree(folder / "run.json", manifest)
            self._unpack()
            self.rows = read_rows(folder) if self.path.exists() else []
            self._cut_torn()
        except OSError as error:
            raise PragError(explain(error, folder, "beginning the run")) from error
        self.done = {(row["method"], row["id"]) for row in self.rows}

    def write(self, rows: Iterable[Row]) -> None:
        """Add rows; they are on the disk when this returns.

        Raises:
            PragError: the disk is full or cannot be written; earlier rows are unharmed.
        """
        new = list(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PragError(explain(error, self.path, "writing rows")) from error
        self.rows += new
        self.done |= {(row["method"], row["id"]) for row in new}

    def _unpack(self) -> None:
        """Rows that were packed to be kept are unpacked to go on with."""
        packed = self.path.with_name(f"{FILE}.gz")
        if packed.exists() and not self.path.exists():
            replace_text(self.path, gzip.decompress(packed.read_bytes()).decode("utf-8"))
            packed.unlink()

    def _agree(self, path: Path, manifest: dict[str, Any]) -> None:
        if not path.exists():
            if self.path.exists():
                raise PragError(f"{self.path.parent} holds rows without their run.json: use --out")
            replace_text(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
            return
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise PragError(f"{path} is damaged ({error}): use another --out") from error
        other = [k for k in {**manifest, **there} if there.get(k) != manifest.get(k)]
        if other:
            shown = "; ".join(f"{k}: {there.get(k)!r}, now {manifest.get(k)!r}" for k in other)
            raise PragError(
                f"{path.parent} holds a run of other settings ({shown}): use another --out, or "
                "the same settings to go on with it"
            )

    def _cut_torn(self) -> None:
        """Cut off what a kill left of a line, so that the next row begins on its own."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)

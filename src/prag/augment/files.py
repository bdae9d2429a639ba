"""Augmentations on disk: JSON lines, readable, append-only, reusable across recipes.

A line is one passage:

    {"id": ..., "origin": ..., "rewrites": [...], "qa": [{"question", "answer", "full_answer"}],
     "rejects": [{"text", "reason"}]}

Files made elsewhere may have `rewrite` (one text) for `rewrites`, and no origin or rejects. A later
line of the same passage replaces an earlier one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prag.augment.checks import pair_of, whole_text
from prag.disk import explain
from prag.records import Augmentation, PragError, Reject


class AugmentationFile:
    """One file of augmentations, read from its beginning or at known lines, and appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Augmentation]:
        """All augmentations by passage id; errors as of `lines`."""
        return {made.passage_id: made for _, made in self.lines()}

    def lines(self) -> Iterator[tuple[int, Augmentation]]:
        """Each line's first byte and its augmentation; a file that is not there has none.

        A last line without its line break was cut by a kill and does not count.

        Raises:
            PragError: another line is damaged; file and line are named.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            at = 0
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    return
                try:
                    made = from_json(json.loads(raw))
                except (ValueError, TypeError) as error:
                    raise PragError(
                        f"{self.path}:{number}: damaged augmentation ({error}); remove the line, "
                        "and `prag build` makes it again"
                    ) from error
                yield at, made
                at += len(raw)

    def at(self, places: Iterable[int]) -> Iterator[Augmentation]:
        """The augmentations of the lines that begin at these bytes, as `lines` gave them."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(place)
                yield from_json(json.loads(file.readline()))

    def append(self, augmentations: Sequence[Augmentation]) -> None:
        """Add lines; when this returns they are on the disk.

        Raises:
            PragError: the disk is full or the file cannot be written; what was there stays.
        """
        lines = "".join(json.dumps(to_json(a), ensure_ascii=False) + "\n" for a in augmentations)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a buffer would be written after all when the file is closed.
            with self.path.open("ab", buffering=0) as file:
                self._drop_torn_line()
                start = self.path.stat().st_size
                try:
                    left = memoryview(lines.encode("utf-8"))
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, start)
                    raise
        except OSError as error:
            raise PragError(explain(error, self.path, "writing augmentations")) from error

    def remove(self, passage_ids: set[str]) -> int:
        """Take the lines of these passages out; a kill leaves the old file or the new one.

        Returns:
            How many passages were in it.
        """
        there = self.load()
        kept = [a for i, a in there.items() if i not in passage_ids]
        if len(kept) == len(there):
            return 0
        fresh = AugmentationFile(self.path.with_suffix(".new"))
        fresh.path.unlink(missing_ok=True)
        fresh.append(kept)
        fresh.path.replace(self.path)
        return len(there) - len(kept)

    def _drop_torn_line(self) -> None:
        size = self.path.stat().st_size
        if size == 0:
            return
        with self.path.open("rb") as file:
            at = size
            while at > 0:
                start = max(0, at - 65536)
                file.seek(start)
                block = file.read(at - start)
                cut = block.rfind(b"\n")
                if cut >= 0:
                    at = start + cut + 1
                    break
                at = start
        if at < size:
            os.truncate(self.path, at)


def to_json(augmentation: Augmentation) -> dict[str, Any]:
    """An augmentation as one line's object."""
    return {
        "id": augmentation.passage_id,
        "origin": augmentation.origin,
        "rewrites": list(augmentation.rewrites),
        "qa": [asdict(pair) for pair in augmentation.pairs],
        "rejects": [asdict(reject) for reject in augmentation.rejects],
    }


def from_json(data: Any, origin: str = "") -> Augmentation:
    """The augmentation of one line's object; `origin` stands where the line has none.

    Raises:
        ValueError: a field is missing or of the wrong kind.
    """
    if not isinstance(data, dict) or not isinstance(data.get("id"), str) or not data["id"]:
        raise ValueError("not an object with an 'id'")
    rewrites = data.get("rewrites", [data["rewrite"]] if data.get("rewrite") else [])
    pairs = data.get("qa")
    if not isinstance(pairs, list):
        raise ValueError("'qa' is not a list of pairs")
    if not isinstance(rewrites, list) or not all(isinstance(r, str) for r in rewrites):
        raise ValueError("'rewrites' is not a list of texts")
    rejects = data.get("rejects", [])
    if not isinstance(rejects, list) or not all(
        isinstance(r, dict) and isinstance(r.get("text"), str) and isinstance(r.get("reason"), str)
        for r in rejects
    ):
        raise ValueError("'rejects' is not a list of objects with 'text' and 'reason'")
    return Augmentation(
        data["id"],
        tuple(map(whole_text, rewrites)),
        tuple(pair_of(item) for item in pairs),
        str(data.get("origin") or origin),
        tuple(Reject(r["text"], r["reason"]) for r in rejects),
    )


def read_foreign(path: Path, origin: str) -> Iterator[Augmentation]:
    """The augmentations of a file made elsewhere.

    Raises:
        PragError: the file cannot be read, or a line is damaged; the line is named.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PragError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield from_json(json.loads(line), origin)
        except (ValueError, TypeError, KeyError) as error:
            raise PragError(f"{path}:{number}: {error}; nothing was imported") from error

"""The augmentations of a knowledge base: whose is used for which passage, and making them.

A passage may have several: made by the base model, by an endpoint, taken from files. The origins
in the settings come first, in their order; what the base itself made is the last choice.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from prag.augment import AugmentationFile, Augmenter, read_foreign
from prag.config import Recipe
from prag.crew import Crew
from prag.progress import Tell
from prag.records import Augmentation, Passage

BATCH = 16
"""Passages augmented between two writes."""

SLICE = 2048
"""Passages that are in memory together while a corpus is augmented or encoded. With fewer, more of
the batches and groups that they fall into are not full."""

T = TypeVar("T")


def slices(things: Iterable[T]) -> Iterator[list[T]]:
    """The things in order, `SLICE` at a time."""
    rest = iter(things)
    while some := list(islice(rest, SLICE)):
        yield some


@dataclass(frozen=True, slots=True)
class Entry:
    """The augmentation that is used for a passage, without its text.

    Args:
        origin: who made it.
        place: the byte at which its line begins, in the file of that origin.
        pairs, rejects: how many it has.
    """

    origin: str
    place: int
    pairs: int
    rejects: int


@dataclass(frozen=True)
class ImportReport:
    """What an import of augmentations brought. `unknown` are ids of no passage here."""

    origin: str
    imported: int
    unknown: int
    without_pairs: int


@dataclass(frozen=True)
class Augmentations:
    """The augmentations in a knowledge base's folder, for one recipe.

    Args:
        folder: of the knowledge base.
        origins: the preferred first, the base model's own the last.
    """

    folder: Path
    recipe: Recipe
    origins: tuple[str, ...]

    def file(self, origin: str) -> AugmentationFile:
        """Where those of an origin are kept; recipes that augment alike share the file."""
        kind, _, name = origin.partition(":")
        readable = "".join(c if c.isalnum() or c in "-._@" else "-" for c in name)
        mark = "" if kind == "file" else f"-{self.recipe.augment_fingerprint(origin)}"
        return AugmentationFile(self.folder / "augmentations" / f"{kind}-{readable}{mark}.jsonl")

    def entries(self, passage_ids: Collection[str]) -> dict[str, Entry]:
        """What is used for each of the passages that have an augmentation; reads every line."""
        return {
            made.passage_id: Entry(
                sys.intern(made.origin), place, len(made.pairs), len(made.rejects)
            )
            for place, made in self._lines(passage_ids)
        }

    def read(self, entries: dict[str, Entry]) -> dict[str, Augmentation]:
        """The augmentations of some entries, by passage id; under the lock that they are of."""
        of: defaultdict[str, list[int]] = defaultdict(list)
        for entry in entries.values():
            of[entry.origin].append(entry.place)
        return {
            made.passage_id: made
            for origin, places in of.items()
            for made in self.file(origin).at(sorted(places))
        }

    def known(self, passage_ids: Collection[str]) -> dict[str, Augmentation]:
        """The augmentation that is used for each of the passages that have one."""
        return {made.passage_id: made for _, made in self._lines(passage_ids)}

    def _lines(self, passage_ids: Collection[str]) -> Iterator[tuple[int, Augmentation]]:
        """Every line of these passages; what a passage's last one says is used."""
        for origin in reversed(self.origins):
            for place, made in self.file(origin).lines():
                if made.passage_id in passage_ids:
                    yield place, made

    def make(
        self,
        augmenter: Augmenter,
        missing: Iterable[Sequence[Passage]],
        total: int,
        progress: Tell,
        crew: Crew | None = None,
    ) -> int:
        """Augment passages and write them down, a batch at a time.

        Args:
            missing: the passages, a slice of the corpus at a time.
            total: how many they are.
            crew: who does what `augmenter`, the base model itself, would do here.

        Returns:
            How many.
        """
        file = self.file(augmenter.origin)
        batches = (batch for some in missing for batch in _batches(some))
        progress("augment", 0, total)
        made: Iterable[tuple[Sequence[Passage], list[Augmentation]]]
        if crew is None:
            made = ((batch, augmenter.augment(batch)) for batch in batches)
        else:
            made = crew.augment(batches)
        done = 0
        for _, augmentations in made:
            file.append(augmentations)
            done += len(augmentations)
            progress("augment", done, total)
        if crew is not None:
            crew.check()
        return done

    def take(self, path: Path, label: str | None, passage_ids: set[str]) -> ImportReport:
        """Take the augmentations of a file made elsewhere; an id may be shortened to 12 digits.

        Raises:
            PragError: a line is damaged; nothing is imported.
        """
        found = list(read_foreign(path, origin=""))
        mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        origin = f"file:{label or path.stem}@{mark}"
        by_prefix = {passage_id[:12]: passage_id for passage_id in passage_ids}
        mine, unknown = {}, 0
        for augmentation in found:
            whole = by_prefix.get(augmentation.passage_id[:12])
            if whole and whole.startswith(augmentation.passage_id):
                mine[whole] = replace(augmentation, passage_id=whole, origin=origin)
            else:
                unknown += 1
        file = self.file(origin)
        there = file.load()
        file.append([a for a in mine.values() if there.get(a.passage_id) != a])
        return ImportReport(
            origin=origin,
            imported=len(mine),
            unknown=unknown,
            without_pairs=sum(not a.pairs for a in mine.values()),
        )


def fingerprints(recipe: Recipe, origins: Iterable[str]) -> dict[str, str]:
    """The fingerprint of the recipe with each of the origins."""
    return {origin: recipe.fingerprint(origin) for origin in set(origins)}


def _batches(passages: Sequence[Passage]) -> list[list[Passage]]:
    """Passages of like length share a batch, so that little of it is padding."""
    ordered = sorted(passages, key=lambda p: (len(p.text), p.id))
    return [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]

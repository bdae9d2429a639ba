"""The augmentations of a knowledge base: whose is used for which passage, and making them.

A passage may have several: made by the base model, by an endpoint, taken from files. The origins
in the settings come first, in their order; what the base itself made is the last choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prag.augment import AugmentationFile, Augmenter, read_foreign
from prag.config import Recipe
from prag.crew import Crew
from prag.progress import Tell
from prag.records import Augmentation, Passage

BATCH = 16
"""Passages augmented between two writes."""


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

    def known(self, passage_ids: set[str]) -> dict[str, Augmentation]:
        """The augmentation that is used for each of the passages that have one."""
        found: dict[str, Augmentation] = {}
        for origin in reversed(self.origins):
            for passage_id, augmentation in self.file(origin).load().items():
                if passage_id in passage_ids:
                    found[passage_id] = augmentation
        return found

    def make(
        self,
        augmenter: Augmenter,
        missing: Sequence[Passage],
        progress: Tell,
        crew: Crew | None = None,
    ) -> int:
        """Augment passages and write them down, a batch at a time.

        Args:
            crew: who does what `augmenter`, the base model itself, would do here.

        Returns:
            How many.
        """
        file = self.file(augmenter.origin)
        # Passages of like length share a batch, so that little of it is padding.
        ordered = sorted(missing, key=lambda p: (len(p.text), p.id))
        batches = [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
        progress("augment", 0, len(ordered))
        made: Iterable[tuple[int, list[Augmentation]]]
        if crew is None:
            made = ((i, augmenter.augment(batch)) for i, batch in enumerate(batches))
        else:
            made = crew.augment(batches)
        done = 0
        for _, augmentations in made:
            file.append(augmentations)
            done += len(augmentations)
            progress("augment", done, len(ordered))
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


def fingerprints(recipe: Recipe, augmentations: dict[str, Augmentation]) -> dict[str, str]:
    """The fingerprint of the recipe with each origin among the augmentations."""
    return {o: recipe.fingerprint(o) for o in {a.origin for a in augmentations.values()}}

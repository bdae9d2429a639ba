"""A knowledge base over a tiny model, and an augmenter that needs no model."""

from __future__ import annotations

import json
from pathlib import Path

from prag.records import Augmentation, Passage, QAPair


class WrittenAugmenter:
    """Pairs made from a passage's words: quick, and different for every passage."""

    origin = "endpoint:written"

    def augment(self, passages):
        return [self._one(p) for p in passages]

    def _one(self, p: Passage) -> Augmentation:
        words = p.text.split()
        pairs = tuple(
            QAPair(f"What is word {i} of {p.title}?", words[i % len(words)], p.text)
            for i in range(1 + len(words) % 3)
        )
        return Augmentation(p.id, (f"In other words: {p.text}",), pairs, self.origin)


def write_corpus(path: Path, count: int, start: int = 0) -> Path:
    """A JSONL corpus of short passages, each about a tower of its own."""
    names = ["Aldern", "Brixo", "Calver", "Dunmar", "Estrel", "Fenwick", "Gorran", "Hadley"]
    rows = []
    for i in range(start, start + count):
        name = f"{names[i % len(names)]}{i}"
        extra = " ".join(f"stone{j}" for j in range(i % 4))
        text = f"{name} is a tower of {20 + i} metres {extra} built by mason{i} in {1500 + i}."
        rows.append({"id": str(i), "title": name, "text": text})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def adapters_of(kb):
    """Every stored adapter's numbers, by key."""
    with kb._store(readonly=True) as store:
        return {key: store.read(key, kb.base.dtype) for key in store.keys()}  # noqa: SIM118

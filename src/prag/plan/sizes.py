"""Bytes that a knowledge base takes, by part, before it is built.

Adapters are exact: the shards of the groups that a build makes, headers included. What SQLite, the
index of the retriever and the lines of augmentations take is read off small files that are really
written, of the sample, at two sizes; what grows with the corpus is told from what does not.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from prag.augment.files import to_json
from prag.config import Codec
from prag.corpus import Catalogue
from prag.lora import Adapter, Site
from prag.plan.shape import Adapted
from prag.plan.workload import Workload
from prag.records import AdapterKey, Document, Passage, content_id
from prag.retrieval import build_retriever
from prag.retrieval.base import indexed_text
from prag.retrieval.bm25 import tokenizer
from prag.store import AdapterStore, StoredItem, shard_bytes
from prag.store.codecs import length

FEW, MANY = 256, 1024
"""Rows of the files that are written to see what a row takes."""

TIMES = 8
"""How often the sample is in the larger of the two indexes."""

HEAPS = 0.6
"""The power of a corpus that its vocabulary grows with (Heaps' law), where no sample tells."""

FAR = 100
"""Times a sample's size up to which it tells: it is steeper in few texts than in many."""

LEAST = 16
"""Passages of a sample that can tell."""

_SITE = (Site("layers.0.up", 8, 8),)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a built knowledge base by part, and the seconds that indexing a passage took.

    Args:
        adapter: of one adapter, as it is read from the store.
        adapters: the shards.
        adapter_index: the store's index.
        words: of the vocabulary that the retriever's index is foreseen to have.
    """

    adapter: int
    adapters: float
    adapter_index: float
    augmentations: float
    corpus: float
    retrieval: float
    words: float
    index_s: float

    @property
    def text(self) -> float:
        """What answering from the passages' text needs."""
        return self.corpus + self.retrieval

    @property
    def learnt(self) -> float:
        """What adapters add to it: themselves, and what they were trained on."""
        return self.adapters + self.adapter_index + self.augmentations

    @property
    def total(self) -> float:
        """All of it."""
        return self.text + self.learnt

    def as_dict(self) -> dict[str, float]:
        """What is of bytes, the words, and the total."""
        sizes = {name: value for name, value in asdict(self).items() if name != "index_s"}
        return {**sizes, "total": self.total}


def sizes_of(work: Workload, adapted: Adapted, codec: Codec) -> Sizes:
    """The bytes of a corpus, with adapters in a codec. Writes small files, for a second or two.

    Raises:
        PragError: no room for them.
    """
    train = work.recipe.train
    groups, times = work.groups()
    shards = [
        shard_bytes(
            [AdapterKey(le.passage_id, "0" * 16, "0" * 16) for le in group],
            adapted.sites,
            train.rank,
            train.alpha,
            codec,
        )
        for group in groups
    ]
    lines = [
        len((json.dumps(to_json(a), ensure_ascii=False) + "\n").encode())
        for a in work.augmentations
    ]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = [_index(folder / f"store-{n}", n, codec) for n in (FEW, MANY)]
        texts = [_corpus(folder / f"{n}.sqlite", work, n) for n in (FEW, MANY)]
        retrieval, words, index_s = _retrieval(folder, work)
    return Sizes(
        adapter=length(codec, adapted.numbers),
        adapters=times * sum(shards),
        adapter_index=_line(rows, work.encoded),
        augmentations=work.passages * sum(lines) / len(lines),
        corpus=_line(texts, work.passages),
        retrieval=retrieval,
        words=words,
        index_s=index_s,
    )


def _line(at: Sequence[int], rows: float) -> float:
    """On the line through the sizes at `FEW` and `MANY` rows; never under its beginning."""
    each = (at[1] - at[0]) / (MANY - FEW)
    return max(0.0, at[0] - FEW * each) + rows * each


def _index(folder: Path, rows: int, codec: Codec) -> int:
    """Bytes of the index of a store with so many adapters, in groups as a build commits them."""
    adapter = Adapter({_SITE[0].name: (torch.zeros(1, 8), torch.zeros(8, 1))}, 1, 1.0)
    base = "0" * 16
    with AdapterStore.open(folder) as store:
        for at in range(0, rows, 64):
            keys = [
                AdapterKey(content_id(str(n)), base, base) for n in range(at, min(at + 64, rows))
            ]
            store.commit([StoredItem(k, adapter, k.passage) for k in keys], _SITE, codec)
    return (folder / "index.sqlite").stat().st_size


def _others(sample: Sequence[Passage], wanted: int) -> list[Passage]:
    """So many passages with the words of the sample, each another one by the spaces at its end."""
    return [
        Passage(p.title, p.text + " " * (n // len(sample)))
        for n, p in ((n, sample[n % len(sample)]) for n in range(wanted))
    ]


def _corpus(path: Path, work: Workload, rows: int) -> int:
    """Bytes of a catalogue of so many passages, each a record of the file that the sample is of."""
    where = work.source
    catalogue = Catalogue.open(path)
    try:
        catalogue.put(
            Document(f"{Path(where).name}#{p.id[:12]}", f"{where}:{n}", (p,))
            for n, p in enumerate(_others(work.sample, rows))
        )
    finally:
        catalogue.close()
    return path.stat().st_size


def _retrieval(folder: Path, work: Workload) -> tuple[float, float, float]:
    """Bytes and words of the BM25 index of the corpus, and the seconds a passage took."""
    n = len(work.sample)
    sizes, seconds = [], []
    for often in (1, TIMES):
        where = folder / f"retrieval-{often}"
        passages = _others(work.sample, n * often)
        began = time.perf_counter()
        build_retriever("bm25", passages, where)
        seconds.append(time.perf_counter() - began)
        sizes.append(sum(f.stat().st_size for f in where.rglob("*") if f.is_file()))
    each = (sizes[1] - sizes[0]) / ((TIMES - 1) * n)
    known, growth = _vocabulary(work.sample)
    a_word = max(0.0, sizes[0] - n * each) / max(1, known)
    times = work.passages / n
    words = known * min(times, FAR) ** growth * max(times / FAR, 1.0) ** HEAPS
    return work.passages * each + words * a_word, words, seconds[1] / (TIMES * n)


def _vocabulary(sample: Sequence[Passage]) -> tuple[int, float]:
    """The words of a sample, and the power of its size that they grow with."""
    tokens_of = tokenizer()
    seen: set[str] = set()
    half = 0
    for n, passage in enumerate(sample):
        if n == len(sample) // 2:
            half = len(seen)
        seen.update(tokens_of(indexed_text(passage)))
    if len(sample) < LEAST or not half:
        return len(seen), HEAPS
    return len(seen), min(
        1.0, math.log(len(seen) / half) / math.log(len(sample) / (len(sample) // 2))
    )

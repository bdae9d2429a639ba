"""`prag bench store`: bytes of an adapter by codec, and what a large store costs to open and read.

The bytes and the reading by codec are those of the model's default recipe, of numbers drawn at
random. The large stores hold synthetic adapters of 1 KB: what grows with their number is the
index, and a million adapters of a real size would be as many gigabytes as a disk has.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prag.bench.answering import drawn
from prag.bench.processes import in_a_process, medians
from prag.bench.reading import key
from prag.bench.timing import alternate
from prag.config import PAPER, default_recipe
from prag.evaluate.texts import format_passages
from prag.knowledge_base.export import write_peft
from prag.lora import Adapter, Site, flatten
from prag.model import BaseModel
from prag.progress import Tell, silent
from prag.records import PragError
from prag.replay import sites_of
from prag.store import CODECS, AdapterStore, Codec, StoredItem

SITES = (Site("layers.0.up", 64, 64),)
"""Of the synthetic adapters: 256 numbers with rank 2."""

BATCH = 10_000
"""Adapters of one commit, and of the smaller of the two stores."""

READS = 2_000
"""Adapters read from a large store."""

TURNS = 3
"""Processes that open a large store, one after the other."""


def bench_store(
    base: BaseModel, adapters: int = 1_000_000, rounds: int = 20, progress: Tell = silent
) -> dict[str, Any]:
    """Measure the codecs on adapters of the default recipe, and stores of many small ones.

    Args:
        adapters: of the larger store; the smaller one has 10,000.
        rounds: of turns in which each codec's adapter is read.

    Returns:
        `published_bytes`: of the weights of one PEFT folder with the recipe `paper`, in float32;
        `codecs`: by codec the bytes of an adapter, `over_published` (published bytes over these),
        `error` (the norm of what is lost over the norm) and `read_ms`; `stores`: by number of
        adapters what opening and reading take (`reading.measure`), `resume_s` (finding which of
        all of them are there), `commit_s` (writing them) and `index_bytes` an adapter.

    Raises:
        PragError: the disk is full.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        published = _published_bytes(base, folder)
        codecs = _codecs(base, folder, published, rounds)
        sizes = sorted({min(BATCH, adapters), adapters})
        stores = {str(n): _large(folder / str(n), n, progress) for n in sizes}
    return {"published_bytes": published, "codecs": codecs, "stores": stores}


def _published_bytes(base: BaseModel, folder: Path) -> int:
    recipe = PAPER
    adapter = drawn(sites_of(base, recipe.train), recipe, torch.float32, _generator())
    passage, _ = format_passages()[0]
    write_peft(folder / "published", base.name, adapter, passage)
    return (folder / "published" / "adapter_model.safetensors").stat().st_size


def _codecs(base: BaseModel, folder: Path, published: int, rounds: int) -> dict[str, Any]:
    recipe = default_recipe(base.parameters)
    sites = sites_of(base, recipe.train)
    adapter = drawn(sites, recipe, torch.float32, _generator())
    vector = flatten(adapter, sites)  # [P]
    found: dict[str, Any] = {}
    stores: dict[str, AdapterStore] = {}
    reads: dict[str, Callable[[], object]] = {}
    for codec in CODECS:
        store = stores[codec] = AdapterStore.open(folder / codec)
        store.commit([StoredItem(key(0), adapter, "")], sites, codec)
        size = store.stored_bytes([key(0)])[key(0)]
        lost = (flatten(store.read(key(0)), sites) - vector).norm() / vector.norm()
        found[codec] = {"bytes": size, "over_published": published / size, "error": lost.item()}
        reads[codec] = partial(store.read, key(0))
    for name, spread in alternate(reads, rounds).items():
        found[name]["read_ms"] = 1000 * spread.median
        stores[name].close()
    return found


def _large(folder: Path, adapters: int, progress: Tell) -> dict[str, Any]:
    codec: Codec = "float32"
    one = drawn(SITES, PAPER, torch.float32, _generator())
    began = time.perf_counter()
    with AdapterStore.open(folder) as store:
        for at in range(0, adapters, BATCH):
            _commit(store, one, range(at, min(at + BATCH, adapters)), codec)
            progress("store", min(at + BATCH, adapters), adapters)
    committed = time.perf_counter() - began
    began = time.perf_counter()
    with AdapterStore.open(folder, readonly=True) as store:
        there = len(store.examples(map(key, range(adapters))))
    resumed = time.perf_counter() - began
    if there != adapters:
        raise PragError(f"{folder}: {there} of {adapters} adapters are there")
    turns = [in_a_process("prag.bench.reading", folder, adapters, READS) for _ in range(TURNS)]
    return {
        **medians(turns),
        "resume_s": resumed,
        "commit_s": committed,
        "index_bytes": (folder / "index.sqlite").stat().st_size / adapters,
    }


def _commit(store: AdapterStore, one: Adapter, which: range, codec: Codec) -> None:
    store.commit([StoredItem(key(n), one, f"{n:016x}") for n in which], SITES, codec)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

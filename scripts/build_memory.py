"""How much memory a build takes beside training, as the corpus grows.

    python scripts/build_memory.py --sizes 2000 20000 --out results/build-memory.jsonl

For each number of synthetic passages (`prag.bench.zipf`) it makes a knowledge base for a tiny
random model with SmolLM2's tokenizer and recipe `paper`, with a rewrite and three pairs a passage
as long as a strong model's, and with an adapter of every passage in the store (of zeros: what is in
them does not matter here). A process of its own then builds it: texts, augmentations and lessons
are read, compared with the store and indexed, and everything is kept. A row has the most memory
that it took, and what it had before: the library and the model.

Two sizes give the memory that a passage takes, in which the index is a part (`--retriever`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from plan_check import tiny_folder
from prag import KnowledgeBase
from prag.bench import zipf
from prag.bench.processes import memory_mb
from prag.config import PAPER
from prag.knowledge_base.build import plan_lessons
from prag.lora import numbers, unflatten
from prag.provenance import made_by
from prag.records import Passage
from prag.replay import sites_of
from prag.store import AdapterStore, StoredItem


def main() -> None:
    """Measure every size, writing its row when it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--retriever", default="tantivy", help="its build takes memory as well")
    parser.add_argument("--out", type=Path, default=Path("results/build-memory.jsonl"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(built(Path(args.step))))
        return
    origin = made_by(shlex.join(["python", *sys.argv]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as made:
            prepare(Path(made), size, args.retriever)
            command = [sys.executable, __file__, "--step", str(Path(made) / "kb")]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        row = {"passages": size, "retriever": args.retriever, **figures, **origin}
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def prepare(folder: Path, size: int, retriever: str) -> None:
    """A knowledge base with augmentations, and adapters of zeros."""
    model = str(tiny_folder(folder / "model"))
    kb = KnowledgeBase.create(folder / "kb", model, PAPER, retriever=retriever)
    corpus, made = folder / "corpus.jsonl", folder / "made.jsonl"
    with corpus.open("w") as texts, made.open("w") as pairs:
        for passage in zipf.passages(size):
            row = {"id": passage.id, "title": passage.title, "text": passage.text}
            texts.write(json.dumps(row) + "\n")
            pairs.write(json.dumps(augmentation(passage)) + "\n")
    kb.add(corpus)
    kb.augment_from(made)
    sites = sites_of(kb.base, PAPER.train)
    rank, alpha = PAPER.train.rank, PAPER.train.alpha
    empty = unflatten(torch.zeros(numbers(sites, rank)), sites, rank, alpha)
    passages = kb.passages()
    known = kb.augmentations_of({p.id for p in passages})
    with AdapterStore.open(kb.folder / "adapters") as store:
        for at in range(0, size, 500):
            plan = plan_lessons(kb.base, PAPER, passages[at : at + 500], known)
            items = [StoredItem(k, empty, le.digest) for k, le in plan.lessons.items()]
            store.commit(items, sites)


def augmentation(passage: Passage) -> dict[str, Any]:
    """As long as a real one: the passage again, and three questions about its words."""
    words = passage.text.split()
    return {
        "id": passage.id,
        "rewrite": passage.text,
        "qa": [
            {
                "question": f"What comes after {' '.join(words[i : i + 8])}?",
                "answer": " ".join(words[i + 8 : i + 10]),
                "full_answer": " ".join(words[i : i + 10]),
            }
            for i in (0, 10, 20)
        ],
    }


def built(folder: Path) -> dict[str, Any]:
    """Build it in this process."""
    kb = KnowledgeBase.open(folder)
    before = memory_mb() if kb.base else None
    began = time.perf_counter()
    report = kb.build()
    return {
        "encoded": report.encoded,
        "kept": report.kept,
        "seconds": time.perf_counter() - began,
        "before_mb": before,
        "peak_mb": memory_mb(peak=True),
    }


if __name__ == "__main__":
    main()

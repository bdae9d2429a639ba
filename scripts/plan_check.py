"""What `prag plan` foresees beside what a build then takes: hours by stage, bytes by part.

    python scripts/plan_check.py --passages corpus.jsonl --out results/plan/check.jsonl
    python scripts/plan_check.py --passages corpus.jsonl --sizes 20 60 --tiny-sizes 60 --quick

On the machine that it runs on. For each size it times the machine on a sample of that corpus (60
passages, or all of fewer), foresees augmentation, encoding, indexing and every byte, and then
builds a fresh knowledge base of so many passages; a row of the output is one size. The larger
sizes are built with SmolLM2 and its default recipe where --sizes names them, and with a tiny random
model where --tiny-sizes does: 10,000 passages with SmolLM2 would take two cores five hours, so for
that number the arithmetic is checked on a model whose build is done in minutes, and what weighs
there is what a step costs whatever its size. Nothing else should run beside it.

Passages come from files of any kind that `prag add` reads, each passage once, in their order; where
there are fewer than a size asks for, they are taken again with a number after the text, so that
each is another passage. That is said in the row (`repeated`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prag import KnowledgeBase
from prag.config import default_recipe
from prag.corpus import read
from prag.model import load_model
from prag.plan import Use, plan
from prag.progress import shown
from prag.provenance import made_by
from prag.records import Passage

SAMPLE = 60
"""Passages that the plan may see."""

TINY = "tiny"
"""The random model's name in the rows."""


@dataclass(frozen=True)
class Size:
    """So many passages, with the packaged model or the tiny one."""

    model: str
    passages: int


def main() -> None:
    """Check every size, writing its row when it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=Path, nargs="+", required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--tiny-sizes", type=int, nargs="*", default=[10_000])
    parser.add_argument("--seconds", type=float, default=60.0, help="of timed training")
    parser.add_argument("--quick", action="store_true", help="5 seconds of timed training")
    parser.add_argument("--out", type=Path, default=Path("results/plan/check.jsonl"))
    args = parser.parse_args()
    known = passages_of(args.passages)
    sizes = [Size("smollm2", n) for n in args.sizes] + [Size(TINY, n) for n in args.tiny_sizes]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        with tempfile.TemporaryDirectory() as made:
            row = check(size, known, Path(made), 5.0 if args.quick else args.seconds)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        show(row)


def passages_of(paths: list[Path]) -> list[Passage]:
    """Every passage of the files, once, in order."""
    report = read(paths)
    for problem in report.problems:
        sys.exit(f"{problem.text}: {problem.reason}")
    return list({p.id: p for d in report.documents for p in d.passages}.values())


def check(size: Size, known: list[Passage], folder: Path, seconds: float) -> dict[str, Any]:
    """Foresee and build one size."""
    model = "smollm2" if size.model == "smollm2" else str(tiny_folder(folder / "model"))
    chosen = [varied(known[n % len(known)], n // len(known)) for n in range(size.passages)]
    corpus, sample = folder / "corpus.jsonl", folder / "sample.jsonl"
    write(corpus, chosen)
    few = min(SAMPLE, len(chosen))
    write(sample, [chosen[i * len(chosen) // few] for i in range(few)])
    with shown(_err()) as tell:
        foreseen = plan(
            size.passages, model, sample=sample, use=Use(), seconds=seconds, progress=tell
        )
    base = load_model(model)
    kb = KnowledgeBase.create(folder / "kb", base)
    kb.add(corpus)
    began = time.perf_counter()
    with shown(_err()) as tell:
        report = kb.build(tell)
    wall = time.perf_counter() - began
    ours = {stage: 3600 * hours for stage, hours in foreseen.costs.hours.items()}
    sizes = foreseen.sizes
    parts = {
        "adapters": sizes.adapters,
        "adapter_index": sizes.adapter_index,
        "augmentations": sizes.augmentations,
        "corpus": sizes.corpus,
        "retrieval": sizes.retrieval,
    }
    command = shlex.join(["python", *sys.argv])
    return {
        "model": size.model,
        "passages": size.passages,
        "distinct": len(known),
        "repeated": size.passages > len(known),
        "sample": min(SAMPLE, size.passages),
        "recipe": default_recipe(base.parameters).name,
        "seed": 0,
        "encoded": {"foreseen": foreseen.work.encoded, "measured": report.encoded},
        "seconds": both(ours, dict(report.seconds)),
        "wall_s": wall,
        "bytes": both(parts, bytes_of(kb.folder)),
        "figures": {n: f.value for n, f in foreseen.hardware.figures.items()},
        "made_by": made_by(command),
    }


def both(foreseen: dict[str, float], measured: dict[str, float]) -> dict[str, Any]:
    """Each part and the total: what was foreseen, what was measured, the error as a share."""
    foreseen = {**foreseen, "total": sum(foreseen.values())}
    measured = {**measured, "total": sum(measured.values())}
    return {
        name: {
            "foreseen": value,
            "measured": measured[name],
            "error": value / measured[name] - 1 if measured[name] else None,
        }
        for name, value in foreseen.items()
    }


def bytes_of(folder: Path) -> dict[str, float]:
    """What stands in the folder of a knowledge base, by part."""

    def under(path: Path) -> float:
        return float(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()))

    return {
        "adapters": under(folder / "adapters" / "shards"),
        "adapter_index": float((folder / "adapters" / "index.sqlite").stat().st_size),
        "augmentations": under(folder / "augmentations"),
        "corpus": float((folder / "corpus.sqlite").stat().st_size),
        "retrieval": under(folder / "retrieval"),
    }


def varied(passage: Passage, again: int) -> Passage:
    """The passage itself the first time, then with a number after its text."""
    return passage if not again else Passage(passage.title, f"{passage.text} ({again})")


def write(path: Path, passages: list[Passage]) -> None:
    """As JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for p in passages:
            file.write(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n")


def tiny_folder(folder: Path) -> Path:
    """A random Llama of 3 layers with the tokenizer of the packaged model, in a folder."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from prag.model import packaged_folder

    tokenizer = AutoTokenizer.from_pretrained(str(packaged_folder()))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def show(row: dict[str, Any]) -> None:
    """A row as a table."""
    print(f"\n{row['passages']:,} passages, {row['model']}, {row['made_by']['processor']}")
    for what, unit in (("seconds", "s"), ("bytes", "bytes")):
        for name, pair in row[what].items():
            error = "" if pair["error"] is None else f"{100 * pair['error']:+.1f} %"
            print(
                f"  {name:14} foreseen {pair['foreseen']:>16,.1f} {unit}, measured "
                f"{pair['measured']:>16,.1f} {unit}  {error}"
            )


def _err() -> Any:
    from rich.console import Console

    return Console(stderr=True)


if __name__ == "__main__":
    main()

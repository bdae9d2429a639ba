"""What a tree over shared beginnings would save of the tokens that a passage is trained on.

    python scripts/count_tree.py DATA... --augmentations FILE

If a recipe took one step for all sequences of a passage, what several of them begin with alike
would have to be computed once, as a tree. Neither recipe does: each takes a step a sequence, as the
paper does. Counted are the tokens of one epoch; with recipe `small` without the beginning that all
its prompts share, which is read once as it is. DATA are question sets: folders with corpus.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer

from prag.augment import read_foreign, taught
from prag.config import PAPER, SMALL
from prag.evaluate.texts import format_passages
from prag.model import packaged_folder
from prag.prompts import lesson
from prag.quiet import beginning
from prag.records import Passage


def main() -> None:
    """Print a line for each recipe and kind of passages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--augmentations", type=Path, required=True)
    args = parser.parse_args()
    known: dict[str, Passage] = {}
    for folder in args.data:
        for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            known[row["id"]] = Passage(row["title"], row["text"])
    made = read_foreign(args.augmentations, origin="file")
    pairs = {
        "of a strong model": [
            (known[a.passage_id[:12]], a) for a in made if a.passage_id[:12] in known
        ],
        "packaged": list(format_passages()),
    }
    base: Any = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(packaged_folder()))
    for recipe in (PAPER, SMALL):
        begins = len(beginning(base, recipe)) if recipe.train.quiet else 0
        for name, each in pairs.items():
            wholes, trees = [], []
            for passage, augmentation in each:
                used = taught(augmentation, passage, recipe)
                if used.pairs:
                    found = lesson(base.tokenizer, passage, used, recipe.train, recipe.wording)
                    rows = [e.ids for e in found.examples]
                    wholes.append(sum(len(row) - begins for row in rows))
                    trees.append(nodes(rows, begins))
            saved = [1 - tree / whole for tree, whole in zip(trees, wholes, strict=True)]
            print(
                f"{recipe.name}, pairs {name}: {len(wholes)} passages, "
                f"{statistics.mean(wholes):.0f} tokens an epoch, {statistics.mean(trees):.0f} as a "
                f"tree, {1 - sum(trees) / sum(wholes):.1%} saved "
                f"({min(saved):.1%} to {max(saved):.1%} of a passage's)"
            )


def nodes(rows: list[tuple[int, ...]], skip: int) -> int:
    """How many different beginnings of more than `skip` tokens the rows have."""
    return len({row[: end + 1] for row in rows for end in range(skip, len(row))})


if __name__ == "__main__":
    main()

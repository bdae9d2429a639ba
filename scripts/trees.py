"""What it saves to learn all sequences of a passage in one step, as a tree (`train.step`).

    python scripts/trees.py DATA... --augmentations FILE --out results/trees.jsonl

Counted are the tokens of one epoch of each passage that has an augmentation, with recipe `paper`
and `small`, a sequence after the other and as a tree; with `small` without the beginning that all
its prompts share, which is read once as it is. Then `--passages` of them are trained for one epoch
by recipe `paper` in both ways, in turns: the ratio of the times, a row a round. DATA are question
sets: folders with corpus.jsonl.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from prag.augment import read_foreign, taught
from prag.batches import TOKENS_A_STEP, epoch_tokens, group_lessons
from prag.config import PAPER, SMALL, Recipe, Step
from prag.encode import encode_group
from prag.model import BaseModel, load_model
from prag.prompts import Lesson, lesson
from prag.provenance import made_by
from prag.quiet import beginning
from prag.records import Augmentation, Passage

STEPS: tuple[Step, ...] = ("sequence", "passage")


def main() -> None:
    """Count, then time; a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--augmentations", type=Path, required=True)
    parser.add_argument("--passages", type=int, default=12, help="that are trained")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/trees.jsonl"))
    args = parser.parse_args()
    origin = made_by(shlex.join(["python", *sys.argv]))
    base = load_model("smollm2")
    pairs = augmented(args.data, args.augmentations)
    rows: list[dict[str, Any]] = [counted(base, recipe, pairs) for recipe in (PAPER, SMALL)]
    lessons = lessons_of(base, PAPER, pairs)
    chosen = [lessons[i * len(lessons) // args.passages] for i in range(args.passages)]
    rows += [timed(base, chosen, turn) for turn in range(args.rounds)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row))
            file.write(json.dumps({**row, **origin}) + "\n")


def augmented(folders: list[Path], path: Path) -> list[tuple[Passage, Augmentation]]:
    """The passages of the sets that the file has an augmentation of."""
    known: dict[str, Passage] = {}
    for folder in folders:
        for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines():
            passage = Passage(json.loads(line)["title"], json.loads(line)["text"])
            known[passage.id[:12]] = passage
    made = read_foreign(path, origin="file")
    return [(known[a.passage_id[:12]], a) for a in made if a.passage_id[:12] in known]


def lessons_of(
    base: BaseModel, recipe: Recipe, pairs: list[tuple[Passage, Augmentation]]
) -> list[Lesson]:
    """Of those that have a pair to learn."""
    used = [(p, taught(a, p, recipe)) for p, a in pairs]
    return [lesson(base.tokenizer, p, a, recipe.train, recipe.wording) for p, a in used if a.pairs]


def counted(
    base: BaseModel, recipe: Recipe, pairs: list[tuple[Passage, Augmentation]]
) -> dict[str, Any]:
    """Tokens of an epoch in both ways."""
    skip = len(beginning(base, recipe)) if recipe.train.quiet else 0
    lessons = lessons_of(base, recipe, pairs)
    tokens: dict[str, float] = {
        step: statistics.fmean(epoch_tokens(le, skip, step) for le in lessons) for step in STEPS
    }
    return {
        "what": "tokens of an epoch",
        "recipe": recipe.name,
        "passages": len(lessons),
        **tokens,
        "saved": 1 - tokens["passage"] / tokens["sequence"],
    }


def timed(base: BaseModel, lessons: list[Lesson], turn: int) -> dict[str, Any]:
    """Seconds of an epoch of some passages in both ways, who begins changing."""
    seconds: dict[str, float] = {}
    for step in STEPS if turn % 2 == 0 else STEPS[::-1]:
        train = replace(PAPER.train, step=step)
        groups = group_lessons(lessons, TOKENS_A_STEP, step=step)
        began = time.perf_counter()
        for group in groups:
            encode_group(base, train, group)
        seconds[step] = time.perf_counter() - began
    return {
        "what": "seconds of an epoch",
        "recipe": PAPER.name,
        "passages": len(lessons),
        "round": turn,
        **seconds,
        "ratio": seconds["sequence"] / seconds["passage"],
    }


if __name__ == "__main__":
    main()

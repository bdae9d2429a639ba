"""The main job, end to end: forty real passages become adapters, ten questions are asked four ways.

    python examples/demo.py [--kb FOLDER] [--strong]

A second run re-uses what is built. `--strong` trains on the question-answer pairs that a strong
model wrote (examples/popqa/README.md), in a knowledge base of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prag import KnowledgeBase, PragError
from prag.methods import CORE
from prag.metrics import presence
from prag.progress import shown
from prag.records import Answer

DATA = Path(__file__).parent / "popqa"
QUESTIONS = 10
console = Console(highlight=False)


def main() -> None:
    """Build what is missing, ask, show."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kb", type=Path, help="folder of the knowledge base")
    parser.add_argument("--strong", action="store_true", help="pairs by a strong model")
    options = parser.parse_args()
    folder = options.kb or Path("demo-kb-strong" if options.strong else "demo-kb")
    began = time.perf_counter()

    kb = opened(folder)
    report, _ = kb.add(DATA / "corpus.jsonl")
    console.print(f"{folder}: {report.passages_added} passages added, {report.unchanged} unchanged")
    if options.strong:
        kb.augment_from(DATA / "augmentations.jsonl")
    with shown(console) as tell:
        built = kb.build(tell)
    pairs = kb.status().pairs
    console.print(
        f"{built.passages} passages: {built.augmented} augmented now, {built.encoded} encoded now, "
        f"{built.kept} re-used; {pairs} question-answer pairs, {built.rejects} rejected, "
        f"{len(built.left_out)} passages without a valid pair\n"
    )

    rows = [json.loads(line) for line in (DATA / "questions.jsonl").read_text("utf-8").splitlines()]
    rows = rows[:QUESTIONS]
    answers = {}
    for name in CORE:
        answers[name] = kb.ask_many([row["question"] for row in rows], name)
        console.print(f"asked {name}")
    for i, row in enumerate(rows):
        show(row, {name: made[i] for name, made in answers.items()})
    summarise(rows, answers)
    console.print(f"\n{time.perf_counter() - began:.0f} s in all")


def opened(folder: Path) -> KnowledgeBase:
    """The demo's knowledge base, made if it is not there."""
    if (folder / "prag.json").exists():
        return KnowledgeBase.open(folder)
    console.print("loading SmolLM2-135M-Instruct (de-quantised once, half a minute)")
    return KnowledgeBase.create(folder, model="smollm2")


def show(row: dict, answers: dict[str, Answer]) -> None:
    """One question, the four answers beside each other."""
    golds = row["golden_answers"]
    console.print(f"\n[bold]{escape(row['question'])}[/]  ({escape(', '.join(golds[:3]))})")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("method", "golden answer", "seconds", "tokens", "answer"):
        table.add_column(column)
    for name, answer in answers.items():
        found = "[green]present[/]" if presence(answer.raw, golds) else "no"
        text = " ".join(answer.raw.split())
        table.add_row(
            name,
            found,
            f"{sum(answer.timings.values()):.2f}",
            str(answer.prompt_tokens),
            escape(text if len(text) <= 60 else text[:59] + "…"),
        )
    console.print(table)
    sources = answers["combined"].sources
    in_weights = {s.passage_id for s in answers["parametric"].sources if s.adapter}
    console.print(
        "retrieved: "
        + ", ".join(
            f"{escape(s.title)} ({s.score:.1f}{', in the weights' * (s.passage_id in in_weights)})"
            for s in sources
        ),
        style="dim",
    )


def summarise(rows: list[dict], answers: dict[str, list[Answer]]) -> None:
    """How often a golden answer is present, by method."""
    table = Table(title=f"\n{len(rows)} questions", title_justify="left", box=None, pad_edge=False)
    for column in ("method", "golden answer present", "seconds a question", "prompt tokens"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, made in answers.items():
        right = sum(
            presence(a.raw, row["golden_answers"]) for a, row in zip(made, rows, strict=True)
        )
        table.add_row(
            name,
            f"{right:.0f} of {len(rows)}",
            f"{sum(sum(a.timings.values()) for a in made) / len(made):.2f}",
            f"{sum(a.prompt_tokens for a in made) / len(made):.0f}",
        )
    console.print(table)
    for note in {note for made in answers.values() for a in made for note in a.notes}:
        console.print(f"note: {escape(note)}", style="dim")


if __name__ == "__main__":
    try:
        main()
    except PragError as error:
        console.print(f"[bold red]demo:[/] {escape(str(error))}")
        sys.exit(1)

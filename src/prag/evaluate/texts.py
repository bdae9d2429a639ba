"""The texts that the evaluation brings along, read from the package when they are asked for.

They are this project's own words and belong to no question set, so that what is measured on them
is not what a knowledge base has been taught:

- 50 general-knowledge questions, asked without and with adapters in the weights: what the model
  still knows;
- 8 paragraphs of plain prose, on which perplexity is measured: how well it still writes;
- 12 passages about invented people, places and works with their augmentations, which the control
  `format-only` encodes: adapters that teach the form of an answer and no fact of a corpus.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from prag.datasets import Question
from prag.records import Augmentation, Passage, PragError, QAPair

FORMAT_ORIGIN = "packaged:format"
"""The origin of the augmentations of the invented passages."""


def general_questions() -> tuple[Question, ...]:
    """Questions that need no passage, each with its answer and the usual ways to write it.

    Raises:
        PragError: the file is missing from the installed package.
    """
    return tuple(
        Question(
            id=record["id"],
            text=record["question"],
            golds=tuple(record["golden_answers"]),
            kind="general",
            gold_passages=(),
        )
        for record in _records("general.jsonl")
    )


def held_paragraphs() -> tuple[str, ...]:
    """Paragraphs of prose of several kinds, about 85 words each, one line each.

    Raises:
        PragError: the file is missing from the installed package.
    """
    return tuple(p.strip() for p in _read("held.txt").split("\n\n") if p.strip())


def format_passages() -> tuple[tuple[Passage, Augmentation], ...]:
    """Invented passages, each with one rewrite and five question-answer pairs.

    Raises:
        PragError: the file is missing from the installed package.
    """
    made = []
    for record in _records("format.jsonl"):
        passage = Passage(record["title"], record["text"])
        pairs = tuple(
            QAPair(pair["question"], pair["answer"], pair["full_answer"]) for pair in record["qa"]
        )
        made.append((passage, Augmentation(passage.id, (record["rewrite"],), pairs, FORMAT_ORIGIN)))
    return tuple(made)


def _records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _read(name).split("\n") if line.strip()]


def _read(name: str) -> str:
    try:
        return (files("prag.evaluate") / "data" / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PragError(
            f"the file evaluate/data/{name} is missing from the installed package: install prag "
            "again"
        ) from error

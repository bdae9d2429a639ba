"""PopQA (Mallen et al. 2023): one-hop questions about rare and well-known people and things.

A TSV file with a header; `possible_answers` is a JSON list, in the file's order the answer and
its aliases, or several answers with theirs. The type is the relation asked for, `prop`.
"""

from __future__ import annotations

import json
from pathlib import Path

from prag.datasets.questions import Gathering, QuestionSet
from prag.datasets.rows import Row, read_tsv_rows


def read_popqa(path: Path, limit: int | None) -> QuestionSet:
    """The questions of PopQA; the set has no corpus.

    Raises:
        PragError: the file is not TSV, or a row is malformed.
    """
    gathering = Gathering("popqa", limit)
    gathering.note("PopQA brings no passages: a knowledge base has to have them")
    for row in read_tsv_rows(path):
        id_ = gathering.once(row, row.text("id"))
        gathering.question(row, id_, _answers(row), row.text("prop"))
    return gathering.finish()


def _answers(row: Row) -> list[str]:
    text = row.text("possible_answers")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise row.error(f"'possible_answers' is not a JSON list of texts: {error}") from error
    return row.as_texts(value, "'possible_answers'")

"""ComplexWebQuestions (Talmor and Berant 2018): compositional questions over the web.

A question may have several answers; every one of them and all of their aliases count as right.
Some answers of the official file are null, and are left out; a question of which no answer and
no alias is left cannot be scored, and is left out too.
"""

from __future__ import annotations

from pathlib import Path

from prag.datasets.questions import Gathering, QuestionSet
from prag.datasets.rows import Row, read_json_rows


def read_complexwebquestions(path: Path, limit: int | None) -> QuestionSet:
    """The questions of ComplexWebQuestions; the set has no corpus.

    A type is composition, conjunction, comparative or superlative.

    Raises:
        PragError: a row is malformed.
    """
    gathering = Gathering("complexwebquestions", limit)
    gathering.note("ComplexWebQuestions brings no passages: a knowledge base has to have them")
    for row in read_json_rows(path):
        id_ = gathering.once(row, row.text("ID"))
        kind = row.text("compositionality_type")
        row.text("question")  # is checked even if the question is left out
        golds = _golds(row)
        if any(gold.strip() for gold in golds):
            gathering.question(row, id_, golds, kind)
        else:
            gathering.count("questions without an answer, left out")
    return gathering.finish()


def _golds(row: Row) -> list[str]:
    golds: list[str] = []
    for at, item in enumerate(row.as_list(row.get("answers"), "'answers'")):
        answer = row.as_object(item, f"'answers'[{at}]")
        value = answer.get("answer")
        if type(value) in (int, float):
            value = str(value)
        if value is not None:
            golds.append(answer.as_text(value, "'answer'"))
        if answer.data.get("aliases") is not None:
            golds += answer.texts("aliases")
    return golds

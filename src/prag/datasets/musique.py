"""MuSiQue (Trivedi et al. 2022): questions of two to four hops, built to resist shortcuts.

JSON lines; the type is the number of hops, which the id begins with: `3hop1__...` is 3hop.
Questions that are marked as not answerable are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from prag.datasets.questions import Gathering, QuestionSet
from prag.datasets.rows import Row, read_json_rows

_HOPS = re.compile(r"([234]hop)\d*_")


def read_musique(path: Path, limit: int | None) -> QuestionSet:
    """The questions of a MuSiQue file that can be answered.

    Raises:
        PragError: a row is malformed.
    """
    gathering = Gathering("musique", limit)
    for row in read_json_rows(path):
        id_ = gathering.once(row, row.text("id"))
        hops = _HOPS.match(id_)
        if hops is None:
            raise row.error("the id does not begin with 2hop, 3hop or 4hop and '_'")
        gold = _paragraphs(row, gathering)
        row.text("question")  # this and the answer must be there even if it is left out
        row.get("answer")
        aliases = row.texts("answer_aliases")
        if row.flag("answerable"):
            gathering.question(row, id_, [row.text("answer"), *aliases], hops[1], gold)
        else:
            gathering.count("questions that are not answerable, left out")
    return gathering.finish()


def _paragraphs(row: Row, gathering: Gathering) -> list[str]:
    """Keep the paragraphs; the ids of those that support the answer."""
    gold: list[str] = []
    for at, item in enumerate(row.as_list(row.get("paragraphs"), "'paragraphs'")):
        paragraph = row.as_object(item, f"'paragraphs'[{at}]")
        title = paragraph.as_text(paragraph.get("title"), "'title'")
        text = paragraph.as_text(paragraph.get("paragraph_text"), "'paragraph_text'")
        supporting = paragraph.flag("is_supporting")
        passage = gathering.passage(title, text)
        if supporting and passage is not None:
            gold.append(passage)
    return gold

"""A set in the library's own format: questions.jsonl, with corpus.jsonl beside it or without.

A question is `id`, `question`, `golden_answers` (the answer first, then its aliases), and
may have `type` and `gold_passages`. A passage of the corpus is `id`, `title`, `text`. A gold
passage is named by the id it has in corpus.jsonl, or by the first 12 or all 16 hex digits of
the hash of title and text, which is its id here.
"""

from __future__ import annotations

from pathlib import Path

from prag.datasets.questions import Gathering, QuestionSet
from prag.datasets.rows import Row, read_json_rows

_CORPUS = "corpus.jsonl"
_SHORT = 12  # hex digits that may stand for an id


def read_folder(path: Path, limit: int | None) -> QuestionSet:
    """The questions of a file in the own format; the set has the name of the file's folder.

    Args:
        path: the file of questions; the corpus is looked for beside it.
        limit: how many questions to keep.

    Raises:
        PragError: a row is malformed, or names a gold passage that the corpus does not hold.
    """
    rows = read_json_rows(path)
    gathering = Gathering(path.resolve().parent.name, limit)
    corpus = path.parent / _CORPUS
    known = _corpus(corpus, gathering) if corpus.is_file() else None
    if known is None:
        gathering.note(f"no {_CORPUS} beside {path.name}: the set brings no passages")
    for row in rows:
        id_ = gathering.once(row, row.text("id"))
        golds = row.texts("golden_answers")
        kind = _optional(row, "type")
        named = row.texts("gold_passages") if row.data.get("gold_passages") is not None else []
        if not kind:
            gathering.count("questions without a type")
        if not named:
            gathering.count("questions that name no gold passage")
        elif known is None:
            gathering.count(f"questions whose gold passages are unknown without {_CORPUS}")
        passages = [] if known is None else [_resolve(row, name, known, corpus) for name in named]
        gathering.question(row, id_, golds, kind, passages)
    return gathering.finish()


def _corpus(path: Path, gathering: Gathering) -> dict[str, str]:
    """Keep the passages; for every name that a gold passage may have, the passage's id."""
    known: dict[str, str] = {}
    given: dict[str, Row] = {}
    for row in read_json_rows(path):
        title = _optional(row, "title")
        id_ = gathering.passage(title, row.text("text"))
        assert id_ is not None  # a blank text has been refused
        known.setdefault(id_[:_SHORT], id_)
        known.setdefault(id_, id_)
        if row.data.get("id") is not None:
            name = row.text("id")
            if name in given and known[name] != id_:
                raise row.error(
                    f"another passage of this id is {given[name].place}; give one another id"
                )
            # The id that the corpus gives goes before the hash: a text may have been mended.
            given[name], known[name] = row, id_
    return known


def _resolve(row: Row, name: str, known: dict[str, str], corpus: Path) -> str:
    if name not in known:
        raise row.error(
            f"the gold passage {name!r} is not in {corpus}; add it there, or take it out here"
        )
    return known[name]


def _optional(row: Row, key: str) -> str:
    value = row.data.get(key)
    return "" if value is None else row.as_text(value, repr(key)).strip()

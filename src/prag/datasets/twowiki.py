"""2WikiMultihopQA (Ho et al. 2020): rows as in HotpotQA, aliases of answers in another file.

`id_aliases.json`, beside the questions, has a line for each entity: its `Q_id` and its
`aliases`. The `answer_id` of a question says which entity its answer is; answers such as yes
or a date have none. The demonyms that the file has too are not golden answers here, as they
are not in Parametric RAG.
"""

from __future__ import annotations

from pathlib import Path

from prag.datasets.hotpotqa import gather
from prag.datasets.questions import Gathering, QuestionSet
from prag.datasets.rows import Row, read_json_rows

_ALIASES = "id_aliases.json"


def read_2wikimultihopqa(path: Path, limit: int | None) -> QuestionSet:
    """The questions of a 2WikiMultihopQA file, with the aliases if they are beside it.

    A type is compositional, comparison, inference or bridge_comparison.

    Raises:
        PragError: a row of either file is malformed.
    """
    rows = read_json_rows(path)
    gathering = Gathering("2wikimultihopqa", limit)
    known = _read_aliases(path.parent / _ALIASES)
    if known is None:
        gathering.note(f"no {_ALIASES} beside {path.name}: no answer has its aliases")
    elif not any(row.data.get("answer_id") for row in rows):
        gathering.note("no question has an answer_id: no answer has its aliases")

    def aliases(row: Row) -> list[str]:
        answer_id = row.data.get("answer_id")
        if answer_id is None or row.as_text(answer_id, "'answer_id'") == "":
            return []
        if known is not None and answer_id not in known:
            gathering.count(f"questions whose answer_id is not in {_ALIASES}")
        return (known or {}).get(answer_id, [])

    gather(rows, gathering, aliases)
    return gathering.finish()


def _read_aliases(path: Path) -> dict[str, list[str]] | None:
    """The aliases of each entity, or None if the file is not there."""
    if not path.is_file():
        return None
    known: dict[str, list[str]] = {}
    for row in read_json_rows(path):
        known.setdefault(row.text("Q_id"), []).extend(row.texts("aliases"))
    return known

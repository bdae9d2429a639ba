"""The rows of all runs as one small JSON text that the page's script reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prag.report.labels import ordered
from prag.report.load import Run

IN_PROMPT, ADAPTER, GOLD = 1, 2, 4
"""What is said of a passage, as bits."""


def rows_json(runs: Sequence[Run], names: Sequence[str]) -> tuple[str, int]:
    """What can be browsed, and how many rows that is.

    Questions and passages stand once and rows point at them, which makes the page several times
    smaller. Rows of perplexity answer nothing and are not taken. The text may stand within a
    script element: it holds no "<", ">" or "&".

        {"runs": [name], "methods": [label], "types": [type], "passages": [[id, title]],
         "questions": [[run, id, type, text, [gold]]],
         "rows": [[question, method, raw, answer, {measure: value}, error, [[passage, bits]],
                   seconds, prompt tokens, [gold] if other than the question's, [remark]]]}
    """
    taken = [(i, row) for i, run in enumerate(runs) for row in run.rows if _browsable(row)]
    methods = ordered(row["method"] for _, row in taken)
    method_at = {label: i for i, label in enumerate(methods)}
    questions: dict[tuple[int, str], list[Any]] = {}
    question_at: dict[tuple[int, str], int] = {}
    passages: dict[tuple[str, str], int] = {}
    rows = []
    for run, row in taken:
        key = (run, str(row["id"]))
        golds = [str(gold) for gold in _list(row.get("golds"))]
        if key not in questions:
            question_at[key] = len(questions)
            questions[key] = [*key, _text(row.get("type")), _text(row.get("question")), golds]
        hits = []
        for hit in (hit for hit in _list(row.get("hits")) if isinstance(hit, dict)):
            passage = (_text(hit.get("id")), _text(hit.get("title")))
            bits = IN_PROMPT * bool(hit.get("in_prompt")) + ADAPTER * bool(hit.get("adapter"))
            bits += GOLD * bool(hit.get("gold"))
            hits.append([passages.setdefault(passage, len(passages)), bits])
        rows.append(
            [
                question_at[key],
                method_at[row["method"]],
                _text(row.get("raw")),
                _text(row.get("answer")),
                _measures(row.get("measures")),
                _text(row.get("error")),
                hits,
                row.get("seconds"),
                row.get("prompt_tokens"),
                None if golds == questions[key][4] else golds,
                _remarks(row),
            ]
        )
    data = {
        "runs": list(names),
        "methods": methods,
        "types": sorted({question[2] for question in questions.values() if question[2]}),
        "passages": [list(passage) for passage in passages],
        "questions": list(questions.values()),
        "rows": rows,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text, len(rows)


def _browsable(row: dict[str, Any]) -> bool:
    return bool(row["method"] != "perplexity")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _measures(value: Any) -> dict[str, float]:
    held = value if isinstance(value, dict) else {}
    return {
        name: round(float(held[name]), 3)
        for name in ("presence", "em", "f1", "follows")
        if isinstance(held.get(name), (int, float))
    }


def _remarks(row: dict[str, Any]) -> list[str]:
    """What the reader of one row should know: how it was made other than usual, and its notes."""
    control = row.get("control")
    made = [f"{k}: {v}" for k, v in control.items()] if isinstance(control, dict) else []
    return made + [str(note) for note in _list(row.get("notes"))]

"""Contrasts over the questions of several runs together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prag.report.load import Contrast, Run, contrast_of

_ALIKE = (
    "model",
    "base",
    "recipe",
    "merge",
    "beside_text",
    "offered",
    "combine",
    "codec",
    "gold",
    "top_k",
    "metrics",
    "seed",
)
"""What runs must share to be pooled: they may differ in their set alone."""


def any_question(row: Mapping[str, Any]) -> bool:
    """Every row."""
    return True


def adapted_question(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a question that no recipe leaves to the base model (`offered`)."""
    from prag.methods.offered import offers_answers  # its room brings torch along

    return not offers_answers(str(row.get("question", "")))


def pooled(
    runs: Sequence[Run], keep: Callable[[Mapping[str, Any]], bool] = any_question
) -> tuple[Contrast, ...]:
    """The paired contrasts over all questions of runs on different sets; each question counts once.

    Args:
        keep: which rows count.

    Returns:
        Nothing, unless there are two runs or more, each of another set, finished, with rows, and
        alike in all else. The methods are those that every run has.
    """
    sets = {run.set for run in runs}
    alike = {tuple(str(run.about.get(key)) for key in _ALIKE) for run in runs}
    whole = all(run.complete and run.rows for run in runs)
    if len(runs) < 2 or len(sets) < len(runs) or len(alike) > 1 or not whole:
        return ()
    from prag.evaluate.summary import contrasts  # its room brings torch along

    by_label: dict[str, dict[str, Any]] = defaultdict(dict)
    for number, run in enumerate(runs):
        for row in filter(keep, run.rows):
            by_label[row["method"]][f"{number}:{row['id']}"] = row
    everywhere = set.intersection(*(set(run.methods) for run in runs))
    labels = {label: own for label, own in by_label.items() if label in everywhere}
    made = contrasts(labels, int(runs[0].about["seed"]))
    return tuple(contrast_of(key, entry, labels) for key, entry in made.items())

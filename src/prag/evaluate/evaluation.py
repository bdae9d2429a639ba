"""`evaluate`: a run from its beginning to its summary, and the grid of runs of a paper."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from prag import __version__
from prag.datasets import QuestionSet
from prag.disk import explain, one_writer, replace_text
from prag.evaluate import choosing, prepare, summary
from prag.evaluate.run import Run
from prag.evaluate.settings import DEPTHS, EvalSettings
from prag.knowledge_base import KnowledgeBase
from prag.knowledge_base.build import dtype_of_training
from prag.methods.offered import offers_answers
from prag.progress import Tell, silent
from prag.records import PragError


def evaluate(
    kb: KnowledgeBase,
    data: QuestionSet,
    settings: EvalSettings,
    out: Path,
    tell: Tell | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Answer a question set under every condition, and write the rows and their summary.

    A `kb` without passages is given those of the set; those whose adapters are needed are
    augmented and encoded. A run that was stopped goes on; so does one that is given
    further conditions.

    Args:
        out: the run's folder: rows.jsonl, summary.json, run.json.
        tell: called with a stage, how much is done, of how much.
        command: as the user typed it; it goes into the summary.

    Returns:
        The summary (docs/evaluation.md).

    Raises:
        PragError: the folder holds a run of other settings, another process writes to it, or
            something is missing; rows that are done stay.
    """
    data = prepare.add_corpus(kb, data)
    with one_writer(out):
        run = Run(kb, data, settings, out)
        try:
            run.go(tell or silent)
        except BaseException:
            # Whatever stops a run, what it has done can be looked at.
            if run.file.rows:
                write_summary(out, summarised(run, False, command))
            raise
        if not run.file.rows:
            raise PragError(f"no question was left to answer: {'; '.join(run.notes)}")
        found = summarised(run, True, command)
        write_summary(out, found)
    return found


def write_summary(out: Path, found: dict[str, Any]) -> None:
    """Put a summary into the run's folder.

    Raises:
        PragError: the disk is full or cannot be written; the summary before it stays.
    """
    try:
        text = json.dumps(found, indent=1, ensure_ascii=False)
        replace_text(out / "summary.json", f"{text}\n")
    except OSError as error:
        raise PragError(explain(error, out, "writing the summary")) from error


def summarised(run: Run, complete: bool, command: str) -> dict[str, Any]:
    """The summary of a run's rows: what was run, and what came of it."""
    kb, data, settings = run.kb, run.data, run.settings
    rows = run.file.rows
    commits = Counter(str(row["commit"]) for row in rows)
    notes = list(run.notes)
    if len(commits) > 1:
        notes.append(
            "rows of several commits: " + ", ".join(f"{n} of {c}" for c, n in commits.items())
        )
    if kb.settings.recipe.offered == "base":
        left = sum(offers_answers(question.text) for question in data.questions)
        notes.append(
            f"{left} of {len(data.questions)} questions offer their answers (yes or no, or one of "
            "two): the recipe leaves adapters out there, those of controls too"
        )
    head = {
        "set": data.name,
        "n": len(data.questions),
        "complete": complete,
        "gold": settings.gold,
        "top_k": settings.top_k,
        "seed": settings.seed,
        "metrics": settings.rule,
        "model": kb.settings.model,
        "base": kb.settings.base,
        "recipe": kb.settings.recipe.name,
        "merge": kb.settings.recipe.merge,
        "beside_text": kb.settings.recipe.beside_text,
        "offered": kb.settings.recipe.offered,
        "combine": kb.settings.recipe.combine,
        "codec": kb.settings.codec,
        "encoded_in": dtype_of_training(kb.base, kb.settings.recipe),
        "origins": origins(run),
        "passages": len(kb.passages()),
        "commit": run.commit,
        "modified": run.modified or any(row["modified"] for row in rows),
        "version": __version__,
        "command": command,
        "rows_a_batch": settings.generate.rows,
        "max_new_tokens": settings.generate.max_new_tokens,
        "reasoning_tokens": settings.generate.reasoning_tokens,
        "notes": notes,
    }
    search = kb.library().search
    deep = choosing.retrieved(search, data.questions, max(DEPTHS))
    return {
        **head,
        **summary.summarise(rows, settings.seed),
        "retrieval": summary.retrieval(
            {i: [(hit.passage_id, hit.score) for hit in hits] for i, hits in deep.items()},
            {q.id: q.gold_passages for q in data.questions},
            settings.seed,
        ),
    }


def origins(run: Run) -> dict[str, int]:
    """Who wrote what the adapters of the rows were trained on: passages by origin."""
    library = run.kb.library()
    used = {
        hit["id"]
        for row in run.file.rows
        for hit in row.get("hits", ())
        if hit["adapter"] is not None
    }
    found = (library.augmentation(passage_id) for passage_id in used)
    return dict(Counter(a.origin for a in found if a is not None))

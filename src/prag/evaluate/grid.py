"""A job is one run with everything it needs; a grid is a file of jobs, as a paper's table asks.

    [grid]
    out = "runs/paper"
    models = ["meta-llama/Llama-3.2-1B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"]
    methods = "in-context,da-rag,parametric,combined"
    limit = 300

    [sets.popqa]
    data = "data/popQA.tsv"
    kb = "wikipedia-{model}"
    recipe = "paper-popqa.toml"

Every field of a `Job` may stand under [grid], for all, or under a set, for it alone.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from prag.config import GenerateConfig, load_recipe
from prag.datasets import load_set
from prag.evaluate.conditions import parse_conditions
from prag.evaluate.evaluation import evaluate
from prag.evaluate.measures import Rule
from prag.evaluate.prepare import add_corpus
from prag.evaluate.settings import EvalSettings
from prag.knowledge_base import KnowledgeBase
from prag.knowledge_base.settings import FILE
from prag.progress import Tell
from prag.records import PragError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Job:
    """One run of `prag eval`: its options, by the names they have there."""

    data: Path
    out: Path
    methods: str = "closed-book,in-context,parametric,combined,shuffled,format-only"
    kb: Path | None = None
    model: str = "smollm2"
    recipe: str | None = None
    augmentations: Path | None = None
    limit: int | None = None
    gold: bool = False
    top_k: int = 3
    seed: int = 0
    metrics: str = "squad"
    rows: int = 16
    max_new_tokens: int = 20
    reasoning_tokens: int = 128
    device: str = "cpu"

    @property
    def command(self) -> str:
        """The command that makes this run."""
        words = ["prag eval"]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("data", "out") or value != f.default:
                words.append(
                    f"--{f.name.replace('_', '-')}" + ("" if value is True else f" {value}")
                )
        return " ".join(words)


def run_job(job: Job, tell: Tell) -> dict[str, Any]:
    """Everything from the question set to the summary.

    Raises:
        PragError: something is wrong with the options, the set or the folder; nothing is lost.
    """
    if job.metrics not in ("squad", "published"):
        raise PragError(f"no metrics {job.metrics!r}: use squad or published")
    if job.limit is not None and job.limit < 1:
        raise PragError("--limit is at least 1")
    settings = EvalSettings(
        conditions=parse_conditions(job.methods),
        top_k=job.top_k,
        gold=job.gold,
        seed=job.seed,
        rule=cast(Rule, job.metrics),
        generate=GenerateConfig(
            max_new_tokens=job.max_new_tokens,
            reasoning_tokens=job.reasoning_tokens,
            rows=job.rows,
        ),
    )
    data = load_set(job.data, job.limit)
    kb = _knowledge_base(job)
    if job.augmentations is not None:
        add_corpus(kb, data)  # augmentations are of passages that are there
        kb.augment_from(job.augmentations)
    return evaluate(kb, data, settings, job.out, tell, job.command)


def jobs(path: Path, out: Path | None = None) -> list[Job]:
    """The jobs of a grid file, model by model, set by set. Paths in it are relative to it.

    Args:
        out: in place of the file's own.

    Raises:
        PragError: the file cannot be read, has an unknown field, or lacks models or sets.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PragError(f"{path}: cannot be read as TOML: {error}") from error
    grid, sets = dict(table.pop("grid", {})), table.pop("sets", {})
    if table or not isinstance(sets, dict) or not sets:
        raise PragError(f"{path}: a grid has a table [grid] and a table [sets.NAME] for each set")
    models = grid.pop("models", None)
    if not isinstance(models, list) or not models:
        raise PragError(f'{path}: [grid] models = ["..."] names the models')
    folder = out or path.parent / str(grid.pop("out", "runs"))
    grid.pop("out", None)
    found = []
    for model in models:
        for name, own in sets.items():
            found.append(_job(path, {**grid, **own}, str(model), name, folder))
    return found


def _job(path: Path, options: dict[str, Any], model: str, name: str, folder: Path) -> Job:
    known = {f.name: f for f in fields(Job)}
    short = re.sub(r"[^\w.-]+", "-", model.split("/")[-1])
    values: dict[str, Any] = {"model": model, "out": folder / f"{short}-{name}"}
    for key, value in options.items():
        if key not in known or key in ("model", "out"):
            raise PragError(
                f"{path}: [sets.{name}] has no field {key!r}; it has {', '.join(known)}"
            )
        if key in ("data", "kb", "augmentations"):
            value = path.parent / str(value).format(model=short)
        elif key == "recipe" and str(value).endswith(".toml"):
            value = str(path.parent / str(value))
        elif type(value) is not type(known[key].default) and known[key].default is not None:
            raise PragError(f"{path}: [sets.{name}] {key} = {value!r} is not of the right kind")
        values[key] = value
    if "data" not in values:
        raise PragError(f"{path}: [sets.{name}] lacks data, the question set")
    values.setdefault("kb", folder / f"kb-{short}-{name}")
    return Job(**values)


def _knowledge_base(job: Job) -> KnowledgeBase:
    folder = job.kb or job.out / "kb"
    recipe = load_recipe(job.recipe) if job.recipe else None
    if not (folder / FILE).exists():
        return KnowledgeBase.create(folder, job.model, recipe, device=job.device)
    kb = KnowledgeBase.open(folder, device=job.device)
    if recipe is not None:
        kb.use_recipe(recipe)
    return kb

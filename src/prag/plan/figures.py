"""A machine's figures from what `prag bench encode --json` and `answer --json` printed."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prag.batches import TOKENS_A_STEP, group_lessons
from prag.bench.answering import CONTEXTS, TOKENS, K
from prag.bench.encoding import packaged_lessons
from prag.config import PAPER, Recipe, default_recipe
from prag.evaluate.texts import format_passages
from prag.model import PACKAGED, BaseModel
from prag.plan.costs import pass_bytes, weights
from prag.plan.hardware import Figure, Hardware, assumed
from prag.plan.operations import finishing, reading, training_steps
from prag.plan.shape import adapted_of, shape_of, skeleton
from prag.plan.workload import shared, workload
from prag.records import PragError


@dataclass(frozen=True)
class Bench:
    """What a file holds: of which model, by which command on which processor, and the figures."""

    path: Path
    model: str
    made: str
    found: Mapping[str, Any]


def read_figures(path: Path) -> Bench:
    """The last line of a file of `prag bench`.

    Raises:
        PragError: it cannot be read, or is of no bench that says anything of this.
    """
    try:
        found = json.loads(path.read_text("utf-8").strip().splitlines()[-1])
        by = found["made_by"]
        words = shlex.split(by["command"])
        made = f"{by['command']} at {str(by['commit'])[:7]}, {by['processor']}"
    except (OSError, UnicodeDecodeError) as error:
        raise PragError(f"the figures {path} cannot be read: {error}") from error
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise PragError(
            f"{path} does not end with a line of `prag bench`: keep it by "
            "`prag bench encode --json > encode.json`"
        ) from error
    if not {"passages_per_s", "ways"} & found.keys():
        raise PragError(f"{path} is of another bench: figures are those of `encode` and `answer`")
    joined = [w.removeprefix("--model=") for w in words if w.startswith("--model=")]
    after = [b for a, b in itertools.pairwise(words) if a == "--model"]
    return Bench(path, (joined or after or [PACKAGED])[0], made, found)


def hardware_of(files: Sequence[Path], recipe: Recipe, rows: int) -> Hardware:
    """A machine by the figures of an `encode` and an `answer` file.

    Args:
        recipe: which of the two recipes of `encode` counts; another one was not measured.
        rows: questions answered together: the bench asks one after the other.

    Raises:
        PragError: a file is missing, damaged, or of another recipe.
    """
    benches = [read_figures(path) for path in files]
    encode = next((b for b in benches if "passages_per_s" in b.found), None)
    answer = next((b for b in benches if "ways" in b.found), None)
    if encode is None or answer is None:
        lacks = "encode" if encode is None else "answer"
        raise PragError(
            f"--figures needs the output of `prag bench {lacks} --json` too, beside "
            f"{', '.join(map(str, files))}"
        )
    if rows != 1:
        raise PragError(
            "the figures of `prag bench answer` are of one question after the other: use --rows 1, "
            "or leave --figures out, and this machine is timed with so many"
        )
    try:
        return _hardware(encode, answer, recipe)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise PragError(
            f"{encode.path} or {answer.path} is not whole, or of another version of `prag bench`: "
            f"{error!r}; run it again"
        ) from error


def _hardware(encode: Bench, answer: Bench, recipe: Recipe) -> Hardware:
    train = _training(encode, recipe)
    base = skeleton(answer.model)
    shape = shape_of(base)
    asked = default_recipe(base.parameters)  # whose wording and adapters `bench answer` has
    adapted = adapted_of(base, asked)
    # What `bench answer` asks of the packaged passages.
    asks = [f"What is {p.title} known for?" for p, _ in format_passages()]
    work = workload(base, asked, 1, questions=asks)
    ways = answer.found["ways"]
    note = f"{answer.path}: {answer.made}"

    def first(k: int) -> float:
        return reading(shape, work.prompt + k * work.passage_tokens, work.begins).total

    few, many = CONTEXTS[0], CONTEXTS[-1]
    grown = ways[f"in-context-{many}"]["first_token_s"] - ways[f"in-context-{few}"]["first_token_s"]
    prefill = (first(many) - first(few)) / grown
    a_token = 1 / ways["closed-book"]["tokens_per_s"]
    width = 4.0
    moved = pass_bytes(shape, width, 1, work.begins + work.prompt + TOKENS / 2) / a_token
    read = max(first(0) / prefill, weights(shape) * width / moved)
    return Hardware(
        name=f"measured: {answer.made}",
        train_flop_per_s=train,
        prefill_flop_per_s=Figure(prefill, "measured", f"{few} to {many} passages in {note}"),
        memory_bytes_per_s=Figure(moved, "measured", note),
        bytes_per_number=Figure(width, "measured", "the bench loads models in float32"),
        question_s=Figure(
            max(0.0, ways["closed-book"]["first_token_s"] - read),
            "measured",
            f"closed-book to the first token, less its reading, in {note}",
        ),
        adapted=Figure(
            max(1.0, ways["closed-book"]["tokens_per_s"] / ways["parametric"]["tokens_per_s"]),
            "measured",
            note,
        ),
        load_numbers_per_s=Figure(
            K * adapted.numbers / (answer.found["update_ms"] / 1000), "measured", note
        ),
        step_s=assumed(0.0, "`prag bench encode` times whole groups: it is part of the rate"),
    )


def _training(encode: Bench, recipe: Recipe) -> Figure:
    base = skeleton(encode.model)
    prefix = _prefix(encode, base, recipe)
    shape, adapted = shape_of(base), adapted_of(base, recipe)
    begins = shared(base, recipe)
    made = packaged_lessons(base, recipe)
    lessons = [made[n % len(made)] for n in range(int(encode.found["passages"]))]
    total = 0.0
    for group in group_lessons(lessons, TOKENS_A_STEP, begins):
        steps = training_steps(shape, adapted, group, begins, recipe.train.epochs)
        total += sum(s.total for s in steps) + finishing(adapted, len(group)).total
    seconds = encode.found["runs"][f"{prefix}ours"]["median_s"]
    return Figure(total / seconds, "measured", f"{encode.path}: {encode.made}")


def _prefix(encode: Bench, base: BaseModel, recipe: Recipe) -> str:
    """Which of the file's two recipes this is, as it trains."""
    ours = default_recipe(base.parameters)
    for prefix, known in (("", ours), ("paper_", PAPER)):
        if recipe.train == known.train:
            return prefix
    raise PragError(
        f"{encode.path} has figures of the recipes {ours.name} and {PAPER.name}, and none of "
        f"{recipe.name}: leave --figures out, and this machine is timed with it"
    )

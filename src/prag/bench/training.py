"""One process that trains one group: `python -m prag.bench.training MODEL RECIPE TOKENS [DEVICE]`.

A process of its own: what it needs at its peak is that of the model and of this training alone.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from prag.batches import group_lessons
from prag.bench.encoding import packaged_lessons
from prag.bench.processes import memory_mb
from prag.config import load_recipe
from prag.encode import encode_group
from prag.model import load_model
from prag.precision import learner
from prag.quiet import quiet_of
from prag.replay import sites_of


def measure(
    model: str, recipe_name: str, tokens_a_step: int, device: str = "cpu"
) -> dict[str, Any]:
    """Train one full group of that many padded tokens a step.

    Returns:
        `passages` of the group, `step_tokens` of its longest step, and in MB, None where the system
        does not say, what is in memory before and what more it takes at the peak: of the process,
        or, on a GPU, of what torch holds there.
    """
    base = load_model(model, device=device)
    recipe = load_recipe(recipe_name)
    lessons = packaged_lessons(base, recipe)
    trained = learner(base, recipe.train.precision)
    quiet = quiet_of(base, sites_of(base, recipe.train), recipe).to(trained.dtype)
    many = lessons * (1 + tokens_a_step // min(le.tokens for le in lessons))
    groups = group_lessons(many, tokens_a_step, quiet.read, recipe.train.step)
    group = max(groups, key=len)
    longest = max(len(e.ids) for le in group for e in le.examples) - quiet.read
    on_gpu = base.device.type == "cuda"
    before = torch.cuda.memory_allocated(base.device) / 1e6 if on_gpu else memory_mb()
    _forget_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(base.device)
    encode_group(trained, recipe.train, group, quiet)
    peak = torch.cuda.max_memory_allocated(base.device) / 1e6 if on_gpu else memory_mb(peak=True)
    return {
        "passages": len(group),
        "step_tokens": len(group) * longest,
        "before_mb": before,
        "step_mb": None if before is None or peak is None else peak - before,
    }


def _forget_peak() -> None:
    """Let Linux count the peak of this process anew."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])))  # noqa: T201

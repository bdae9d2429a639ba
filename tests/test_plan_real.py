"""A plan with SmolLM2's own shape and tokenizer, from committed figures and packaged passages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prag.config import SMALL
from prag.evaluate.texts import format_passages
from prag.plan import Use, adapted_of, costs_of, shape_of, sizes_of, skeleton, workload
from prag.plan.figures import hardware_of
from prag.plan.operations import finishing, training_steps

pytestmark = pytest.mark.real

RESULTS = Path(__file__).parent.parent / "results" / "bench"


def test_the_bench_is_given_back():
    """What `prag bench answer` timed is what is planned for the prompts that it asked."""
    base = skeleton("smollm2")
    shape, adapted = shape_of(base), adapted_of(base, SMALL)
    packaged = format_passages()
    asks = [f"What is {p.title} known for?" for p, _ in packaged]
    work = workload(base, SMALL, 12, [p for p, _ in packaged], questions=asks)
    found = hardware_of([RESULTS / "encode.json", RESULTS / "answer.json"], SMALL, 1)
    sizes = sizes_of(work, adapted, SMALL.codec)
    ways = costs_of(shape, adapted, work, sizes, found, Use(contexts=(3, 5, 10))).ways
    timed = json.loads((RESULTS / "answer.json").read_text())["ways"]
    for name in ("closed-book", "parametric", "in-context-3", "in-context-5", "in-context-10"):
        assert ways[name].seconds == pytest.approx(timed[name]["seconds"], rel=0.15), name
    assert sizes.adapter == 92_400  # docs/store-format.md


def test_operations_are_near_those_of_the_bench():
    """`prag bench encode` counts the same passages but for what is added in place, or fused."""
    base = skeleton("smollm2")
    shape, adapted = shape_of(base), adapted_of(base, SMALL)
    packaged = format_passages()
    made = {p.id: a for p, a in packaged}
    work = workload(base, SMALL, 12, [p for p, _ in packaged], made)
    steps = training_steps(shape, adapted, work.lessons[:2], work.begins, SMALL.train.epochs)
    total = (sum(steps, finishing(adapted, 2))).total / 2
    counted = json.loads((RESULTS / "encode.json").read_text())["flop_per_passage"]
    assert 1 < total / counted < 1.01

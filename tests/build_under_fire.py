"""Builds a knowledge base again and again, and kills each build with SIGKILL at a random instant.

Run by test_build_kill.py in a process of its own, since it forks. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from conftest import tiny_model
from kb_helpers import WrittenAugmenter, adapters_of, write_corpus
from prag import KnowledgeBase
from prag.config import PAPER
from prag.knowledge_base import augmentations, knowledge_base
from prag.store import AdapterStore

RECIPE = replace(PAPER, name="quick", augment=replace(PAPER.augment, pairs=2))


def build(folder: Path, base, log: Path) -> None:
    """A build that writes down which adapters it has reported done."""

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "encode":
            with KnowledgeBase.open(folder, base)._store(readonly=True) as store:
                keys = [str(key) for key in store.keys()]  # noqa: SIM118
            with log.open("w") as file:
                json.dump(keys, file)
                file.flush()
                os.fsync(file.fileno())

    kb = KnowledgeBase.open(folder, base)
    if sum(kb.status().augmented.values()) < 10:
        kb.augment(augmenter=WrittenAugmenter())
    kb.build(tell)


def forked(folder: Path, base, log: Path, after: float | None) -> tuple[float, bool]:
    """A build in a child; killed `after` seconds if given. Its seconds, and whether it was."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            build(folder, base, log)
            status = 0
        finally:
            os._exit(status)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0, "the build failed by itself"
    return time.perf_counter() - began, killed


def main(folder: Path, rounds: int, seed: int) -> None:
    """The undisturbed build, then the killed ones, each checked and resumed."""
    torch.set_num_threads(1)
    knowledge_base.TOKENS_A_STEP = 700  # groups of two or three, so that there are many commits
    augmentations.SLICE = 4  # so that the corpus is three slices
    base = tiny_model("llama", dtype=torch.float32)
    fresh, log = folder / "fresh", folder / "log"
    KnowledgeBase.create(fresh, base, RECIPE).add(write_corpus(folder / "towers.jsonl", 10))
    calm = folder / "calm"
    shutil.copytree(fresh, calm)
    whole, _ = forked(calm, base, log, None)
    expected = adapters_of(KnowledgeBase.open(calm, base))
    assert len(expected) == 10

    chance = random.Random(seed)
    killed, seen = 0, []
    for number in range(rounds):
        kb_folder = folder / f"kb{number}"
        shutil.copytree(fresh, kb_folder)
        log.unlink(missing_ok=True)
        # From the middle outwards, so that few of the twenty hit before or after the build.
        _, hit = forked(kb_folder, base, log, whole * chance.uniform(0.03, 0.97))
        killed += hit
        reported = json.loads(log.read_text()) if log.exists() and log.read_text() else []
        kb = KnowledgeBase.open(kb_folder, base)
        report = kb.verify()
        assert report.problems == (), (number, report.problems)
        there = (
            {str(key) for key in adapters_of(kb)}
            if AdapterStore.exists(kb_folder / "adapters")
            else set()
        )
        assert set(reported) <= there, (number, "an adapter that was reported done is gone")
        seen.append(len(there))
        forked(kb_folder, base, log, None)
        kb = KnowledgeBase.open(kb_folder, base)
        assert kb.verify().problems == ()
        assert kb.status().up_to_date
        made = adapters_of(kb)
        assert made.keys() == expected.keys()
        for key, adapter in expected.items():
            for name, (A, B) in adapter.factors.items():
                assert torch.equal(made[key].factors[name][0], A), (number, key, name)
                assert torch.equal(made[key].factors[name][1], B), (number, key, name)
        shutil.rmtree(kb_folder)
    print(json.dumps({"killed": killed, "adapters_at_the_kill": seen, "seconds": whole}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""Encoding and augmenting by many processes: a real Ray cluster on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kb_helpers import WrittenAugmenter, adapters_of, write_corpus
from prag import KnowledgeBase
from prag.batches import group_lessons
from prag.config import PAPER
from prag.crew import Crew, Worker, Workers
from prag.model import load_model
from prag.prompts import Example, Lesson
from prag.records import PragError
from prag.store import AdapterStore

pytestmark = pytest.mark.fast
ray = pytest.importorskip("ray", reason="Ray is not installed")

CORES = torch.get_num_threads()
"""Of a worker: how a product is split among threads decides how it is rounded."""

STEP = 600
"""Tokens a step: with one token a byte a group has a passage or two."""


def same_bits(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(x.view(torch.int32), y.view(torch.int32))
        for key in one
        for name in one[key].factors
        for x, y in zip(one[key].factors[name], other[key].factors[name], strict=True)
    )


def parent(process: int) -> int:
    """Of a process. A worker's is the raylet, whose own is the driver."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


def busy_workers() -> list[int]:
    """The ids of the processes of this cluster's workers that encode."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            busy = path.read_bytes().startswith(b"ray::Worker.encode")
            if busy and parent(parent(int(path.parent.name))) == os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def cluster():
    """One cluster for the tests that do not start their own; its workers are new in each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init("local", num_cpus=4 * CORES, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def towers(model_folder, tmp_path):
    """A knowledge base of 14 passages, half of them augmented, by recipe `paper`."""

    def make(name: str, adapters: str | None = None) -> KnowledgeBase:
        kb = KnowledgeBase.create(tmp_path / name, str(model_folder), PAPER, adapters=adapters)
        kb.add(write_corpus(tmp_path / f"{name}.jsonl", 14))
        kb.augment(augmenter=WrittenAugmenter())
        return kb

    return make


def test_no_cluster_at_the_address(prag, built_kb) -> None:
    """Before another test has started a cluster, to which this process belongs from then on."""
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"):
        code, said = prag("build", built_kb, "--on", address)
        assert code == 1
        assert f"no Ray cluster at {address}" in said


def test_two_workers_and_one_of_them_killed(cluster, towers) -> None:
    alone, crew = towers("alone"), towers("crew")
    alone.build(tokens_a_step=STEP)
    killed: list[int] = []
    told: list[tuple[str, int, int]] = []

    def kill_one(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage == "encode" and 0 < done < total and not killed:
            for worker in busy_workers()[:1]:
                killed.append(worker)
                os.kill(worker, signal.SIGKILL)

    report = crew.build(kill_one, tokens_a_step=STEP, workers=Workers(cpu=2, cores=CORES))
    assert killed
    assert report.workers_lost == 1
    assert report.encoded == 14
    assert same_bits(adapters_of(alone), adapters_of(crew))
    encoded = [(done, total) for stage, done, total in told if stage == "encode"]
    assert encoded == sorted(encoded)
    assert encoded[-1][0] == encoded[-1][1]
    assert len(encoded) > 5, "progress comes as batches are done"
    assert crew.verify().problems == ()
    assert crew.ask("How tall is Brixo1?").text == alone.ask("How tall is Brixo1?").text


def test_four_workers_augment_and_encode_to_an_address(
    cluster, s3, address, model_folder, tmp_path, prag
) -> None:
    """By the command, with what the base model itself asks; the store lets requests fail."""
    for name, more in {
        "alone": (),
        "crew": ("--adapters", address),
    }.items():
        assert prag("init", tmp_path / name, "--model", model_folder, *more)[0] == 0
        corpus = write_corpus(tmp_path / f"{name}.jsonl", 40)
        assert prag("add", tmp_path / name, corpus)[0] == 0
    assert prag("build", tmp_path / "alone", "--step-tokens", STEP)[0] == 0
    faults = iter(["503", None, "lost", None, "torn", None, "500", None] * 3)
    s3.fault = lambda method, path: next(faults, None)
    code, said = prag(
        "build", tmp_path / "crew", "--step-tokens", STEP, "--workers", 4, "--worker-cores", CORES
    )
    assert code == 0, said
    assert "requests to the adapter store were made again" in said
    one, other = (KnowledgeBase.open(tmp_path / name) for name in ("alone", "crew"))
    assert one.status().encoded == 40
    assert same_bits(adapters_of(one), adapters_of(other))


def test_the_driver_killed_and_begun_again(towers, tmp_path) -> None:
    """Its cluster goes with it, and another one does what is left, with the same bits."""
    alone, crew = towers("alone"), towers("crew")
    alone.build(tokens_a_step=STEP)
    command = (
        sys.executable,
        *("-W", "ignore", "-m", "prag.cli", "build", str(crew.folder)),
        *("--workers", "2", "--worker-cores", str(CORES), "--step-tokens", str(STEP)),
    )
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 120
    while not (AdapterStore.exists(crew.folder / "adapters") and adapters_of(crew)):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    before = len(adapters_of(crew))
    assert 0 < before < 14
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{14 - before} encoded, {before} kept" in done.stdout
    assert same_bits(adapters_of(alone), adapters_of(KnowledgeBase.open(crew.folder)))


def test_a_batch_that_fails_with_everyone_is_given_up(cluster, model_folder) -> None:
    loaded = load_model(str(model_folder))
    with Crew(loaded, PAPER, Workers(cpu=1)) as crew:
        drawn = []
        batches = (drawn.append(batch) or batch for batch in ([], 5, []))
        made = crew.augment(batches)
        assert next(made) == ([], [])
        assert len(drawn) == 1, "a batch is drawn when a worker is there for it"
        assert list(made) == [([], [])]
        assert drawn == [[], 5, []]
        assert [failure.index for failure in crew.failures] == [1]
        assert crew.deaths == 0
        with pytest.raises(PragError, match=r"1 batches were given up.*run it again"):
            crew.check()


def test_workers_that_cannot_begin_are_one_message(cluster, model_folder) -> None:
    loaded = replace(load_model(str(model_folder)), name=str(model_folder / "gone"))
    with (
        Crew(loaded, PAPER, Workers(cpu=1)) as crew,
        pytest.raises(PragError, match=r"could not begin: .*gone"),
    ):
        list(crew.augment([[]]))


def test_a_worker_with_another_model_refuses(model_folder) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(PragError, match="is another one on this worker"):
        Worker(str(model_folder), "0" * 16, PAPER, "cpu", threads)


def test_numbers_of_workers(prag, built_kb) -> None:
    code, said = prag("build", built_kb, "--workers", 0)
    assert (code, "at least 1 worker" in said) == (1, True)
    code, said = prag("build", built_kb, "--workers", 1, "--worker-cores", 0)
    assert (code, "at least 1 core" in said) == (1, True)


def lessons() -> st.SearchStrategy[list[Lesson]]:
    sizes = st.lists(st.integers(1, 12), min_size=1, max_size=3)
    return st.lists(sizes, min_size=1, max_size=25).map(
        lambda each: [
            Lesson(f"{i:016x}", tuple(Example((0,) * size, 0) for size in sizes))
            for i, sizes in enumerate(each)
        ]
    )


@given(lessons=lessons(), budget=st.integers(1, 40), data=st.data())
def test_what_is_left_falls_into_the_same_groups(lessons, budget, data) -> None:
    """Whichever groups were done before a kill, in whatever order: so the bits are the same."""
    groups = group_lessons(lessons, budget)
    left = data.draw(st.lists(st.sampled_from(groups), unique_by=id)) if groups else []
    left = [group for group in groups if any(group is other for other in left)]
    again = group_lessons([le for group in left for le in group], budget)
    assert again == left

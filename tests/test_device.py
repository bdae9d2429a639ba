"""Where the model is: by name, in plain words where it is not there, the same on a GPU."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny_model
from kb_helpers import write_corpus
from prag import KnowledgeBase
from prag.config import PAPER, SMALL, GenerateConfig, TrainConfig, Wording
from prag.continuous import Row, Rows
from prag.encode import encode_group
from prag.evaluate.grid import Job, run_job
from prag.generate import TransformersEngine
from prag.model import device_named, wrap
from prag.quiet import quiet_of
from prag.records import PragError
from prag.replay import sites_of
from prag.serve import builder
from prag.serve.builder import Builder
from prag.serve.jobs import INBOX, Inbox
from pretended_device import There, pretended, there
from test_continuous import drawn_requests
from test_encode_identity import made_lessons, relative

fast = pytest.mark.fast
gpu = pytest.mark.gpu
SET = Path(__file__).parent.parent / "examples" / "popqa"
NO_GPU = "torch sees no GPU on this machine"
RECIPES = {
    "paper": PAPER,
    "small": replace(
        SMALL,
        train=replace(SMALL.train, epochs=2, precision="float32"),
        wording=Wording(instruction="Q.", passage="{title}: {text}"),
    ),
}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@fast
def test_without_a_gpu_auto_is_the_processor(no_gpu):
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")


@fast
def test_with_gpus_auto_is_the_first(two_gpus):
    assert device_named("auto") == device_named("cuda") == torch.device("cuda:0")
    assert device_named("cuda:1") == torch.device("cuda:1")
    assert device_named("cpu") == torch.device("cpu")


@fast
@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "meta", "mps", "CPU"])
def test_what_is_no_device_is_refused(name, two_gpus):
    with pytest.raises(PragError, match="use cpu, cuda, cuda:1"):
        device_named(name)


@fast
def test_a_gpu_that_is_not_there_is_refused(two_gpus):
    with pytest.raises(PragError, match="sees cuda:0 to cuda:1"):
        device_named("cuda:2")


@fast
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_without_a_gpu_one_is_refused_before_anything_is_done(name, no_gpu, tmp_path, model_folder):
    with pytest.raises(PragError, match=r"sees no GPU.*Use cpu or auto"):
        KnowledgeBase.create(tmp_path / "kb", str(model_folder), device=name)
    assert not (tmp_path / "kb").exists()
    KnowledgeBase.create(tmp_path / "kb", str(model_folder))
    with pytest.raises(PragError, match="sees no GPU"):
        KnowledgeBase.open(tmp_path / "kb", device=name)
    for folder in ("kb", "none yet"):
        job = Job(SET, tmp_path / "run", kb=tmp_path / folder, device=name)
        with pytest.raises(PragError, match="sees no GPU"):
            run_job(job, print)


@fast
@pytest.mark.parametrize(
    "words",
    [
        ["augment"],
        ["build"],
        ["ask", "Who?"],
        ["serve", "--port", "0"],
    ],
    ids=lambda words: words[0],
)
def test_the_commands_of_a_knowledge_base_take_a_device(prag, built_kb, no_gpu, words):
    code, said = prag(words[0], built_kb, *words[1:], "--device", "cuda:3")
    assert code == 1
    assert "sees no GPU" in said


@fast
@pytest.mark.parametrize("what", ["encode", "answer"])
def test_benches_take_a_device(prag, no_gpu, model_folder, what):
    code, said = prag("bench", what, "--quick", "--model", model_folder, "--device", "cuda")
    assert code == 1
    assert "sees no GPU" in said


@fast
def test_a_run_of_eval_takes_a_device(prag, no_gpu, tmp_path):
    out = tmp_path / "run"
    code, said = prag("eval", "--data", SET, "--out", out, "--device", "cuda")
    assert code == 1
    assert "sees no GPU" in said


@fast
def test_the_model_is_where_it_was_asked_for(built_kb, no_gpu):
    kb = KnowledgeBase.open(built_kb, device="auto")
    assert kb.device == "cpu"
    assert kb.base.device == torch.device("cpu")
    assert KnowledgeBase.open(built_kb, kb.base).device == "cpu"


@fast
def test_the_process_that_builds_has_its_model_on_the_same_device(tmp_path, monkeypatch):
    commands = []

    def started(command, **_):
        commands.append(command)
        raise OSError("enough")

    monkeypatch.setattr(builder.subprocess, "Popen", started)
    watching = Builder(tmp_path, Inbox(tmp_path / INBOX), lambda: None, "cuda:1")
    with pytest.raises(OSError, match="enough"):
        watching._started()
    watching.close()
    assert commands[0][-3:] == ["prag.serve.builder", str(tmp_path), "cuda:1"]


@fast
def test_the_process_that_builds_opens_with_its_device(built_kb):
    """Outside, since it lowers its own priority and ends with its standard input."""
    command = [sys.executable, "-m", "prag.serve.builder", str(built_kb), "cuda:99"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as process:
        said = process.stderr.read()
    assert process.returncode == 1
    assert "the device 'cuda:99' is not there" in said


# -- nothing is made elsewhere ---------------------------------------------------------------------


@fast
@pytest.mark.parametrize("name", ["paper", "small"])
@pytest.mark.usefixtures("few_everyday")
def test_training_and_answering_make_their_tensors_where_the_model_is(name, monkeypatch, tmp_path):
    recipe = RECIPES[name]
    base = tiny_model("llama", hidden=64)
    results = []
    for far in (False, True):
        monkeypatch.setenv("PRAG_CACHE", str(tmp_path / str(far)))
        with pretended() if far else nullcontext():
            used = wrap("far", there(base.model), base.tokenizer) if far else base
            assert used.fingerprint == base.fingerprint
            quiet = quiet_of(used, sites_of(used, recipe.train), recipe)
            adapters = encode_group(used, recipe.train, made_lessons(used, recipe, (1, 2)), quiet)
            assert all(
                isinstance(factor, There) == far
                for adapter in adapters
                for pair in adapter.factors.values()
                for factor in pair
            )
            made = TransformersEngine(used).generate(
                drawn_requests(used, 6), GenerateConfig(max_new_tokens=6)
            )
            factors = [[f.cpu() for p in a.factors.values() for f in p] for a in adapters]
            results.append((factors, [(g.ids, g.trace) for g in made]))
    here, elsewhere = results
    for ours, theirs in zip(here[0], elsewhere[0], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert here[1] == elsewhere[1]


# -- the same on a GPU ----------------------------------------------------------------------------


@pytest.fixture
def both(request):
    """A tiny model in float32 with room for a quiet recipe, and the same on the GPU."""
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    base = tiny_model("llama", dtype=torch.float32, hidden=64)
    return base, wrap(base.name, copy.deepcopy(base.model).to("cuda"), base.tokenizer)


@gpu
def test_a_model_on_the_gpu_is_the_same_model(both):
    here, there = both
    assert there.device.type == "cuda"
    assert there.fingerprint == here.fingerprint


@gpu
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("few_everyday")
def test_adapters_trained_on_the_gpu_are_those_of_the_processor(both, name, monkeypatch, tmp_path):
    recipe = RECIPES[name]
    made = []
    for number, base in enumerate(both):
        monkeypatch.setenv("PRAG_CACHE", str(tmp_path / str(number)))  # filters of its own
        quiet = quiet_of(base, sites_of(base, recipe.train), recipe)
        made.append(encode_group(base, recipe.train, made_lessons(base, recipe), quiet))
    for ours, theirs in zip(*made, strict=True):
        for site, (A, B) in ours.factors.items():
            A2, B2 = (factor.cpu() for factor in theirs.factors[site])
            assert relative(B2 @ A2, B @ A) < 1e-3


@gpu
@pytest.mark.parametrize("continuous", [False, True], ids=["batches", "continuous"])
def test_the_gpu_says_the_same(both, continuous):
    config = GenerateConfig(max_new_tokens=12)
    said = []
    for base in both:
        requests = drawn_requests(base, 12)
        if continuous:
            rows = [Row(r, config) for r in requests]
            under_way, waiting = Rows(base, 1 << 20), list(rows)
            while waiting or under_way.rows:
                if waiting:
                    under_way.enter([waiting.pop(0)])
                if under_way.rows:
                    under_way.step()
            said.append([row.made.result().ids for row in rows])
        else:
            said.append([g.ids for g in TransformersEngine(base).generate(requests, config)])
    assert said[0] == said[1]


@gpu
def test_a_knowledge_base_is_built_and_asked_on_the_gpu(model_folder, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    train = TrainConfig(sequences="closed-book", precision="mixed")
    kb = KnowledgeBase.create(
        tmp_path / "kb", str(model_folder), replace(SMALL, train=train), device="cuda"
    )
    kb.add(write_corpus(tmp_path / "towers.jsonl", 3))
    assert kb.build().encoded == 3
    again = KnowledgeBase.open(tmp_path / "kb", device="auto")
    assert again.base.device.type == "cuda"
    for method in ("parametric", "combined", "dragin"):
        assert again.ask("Who built Calver2?", method).error is None

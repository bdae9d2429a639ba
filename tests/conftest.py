"""Tiny random models with a byte tokenizer, for tests that take milliseconds."""

from __future__ import annotations

import os
import sys
import uuid

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from faulty_s3 import BUCKET, s3_server
from kb_helpers import WrittenAugmenter, write_corpus
from prag import KnowledgeBase, cli, quiet
from prag.model import BaseModel, wrap
from prag.store import objects

settings.register_profile("shared machine", deadline=None)  # no test fails by the clock
settings.load_profile("shared machine")

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and two special tokens: what is tokenised is known by heart."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template=TEMPLATE,
    )


def tiny_model(
    family: str, seed: int = 0, dtype: torch.dtype = torch.float64, hidden: int = 32
) -> BaseModel:
    """A random model of a family: 3 layers, feed-forward 1.5 times as wide, 258 tokens."""
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=258,
        hidden_size=hidden,
        intermediate_size=hidden * 3 // 2,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).to(dtype)
        # The default initialisation is too small for generation to depend on the input.
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return wrap(f"tiny-{family}", model, byte_tokenizer())


@pytest.fixture(scope="session")
def tiny() -> BaseModel:
    """The tiny Llama in float64; nobody may change it."""
    return tiny_model("llama")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny model on disk, as a user's own would be."""
    folder = tmp_path_factory.mktemp("model")
    base = tiny_model("llama", dtype=torch.float32)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(request, monkeypatch, tmp_path_factory):
    """Tests leave the user's cache alone; those with a real model find it there."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setenv("PRAG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def s3_between():
    """An S3 API on loopback whose faults can be set."""
    with s3_server() as between:
        yield between


@pytest.fixture
def s3(s3_between, monkeypatch):
    """That server, named by the environment; without faults, and with short waits after those."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_between.url,
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(objects, "LONGEST_WAIT", 0.01)
    s3_between.fault = lambda method, path: None
    s3_between.seen.clear()
    yield s3_between
    s3_between.fault = lambda method, path: None


@pytest.fixture
def address() -> str:
    """Where nothing is stored yet."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def few_everyday(monkeypatch):
    """A few of the packaged texts: with one token a byte all of them take seconds."""
    pairs, prose = quiet.everyday_pairs()[::16], quiet.everyday_prose()[::8]
    monkeypatch.setattr(quiet, "everyday_pairs", lambda: pairs)
    monkeypatch.setattr(quiet, "everyday_prose", lambda: prose)


@pytest.fixture
def prag(monkeypatch, capsys):
    """Runs the command; gives exit status and what was printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["prag", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, " ".join((printed.out + printed.err).split())

    return run


@pytest.fixture
def built_kb(prag, model_folder, tmp_path):
    """A built knowledge base of three passages."""
    folder = tmp_path / "kb"
    assert prag("init", folder, "--model", model_folder)[0] == 0
    assert prag("add", folder, write_corpus(tmp_path / "towers.jsonl", 3))[0] == 0
    KnowledgeBase.open(folder).augment(augmenter=WrittenAugmenter())
    assert prag("build", folder)[0] == 0
    return folder

"""Mixed precision: nearly the adapters of float32, kept in float32, of a base left as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import tiny_model
from kb_helpers import write_corpus
from prag import KnowledgeBase, precision
from prag.config import SMALL
from prag.encode import encode_group
from prag.lora import flatten
from prag.quiet import NOTHING, quiet_of
from prag.replay import sites_of
from test_encode_identity import CLOSED, made_lessons

pytestmark = pytest.mark.fast

CPU = torch.device("cpu")


@pytest.fixture
def single():
    return tiny_model("llama", dtype=torch.float32)


@pytest.fixture
def native(monkeypatch):
    """As on a processor that multiplies bfloat16; what is computed is the same on any."""
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: True)


def vectors(base, adapters):
    return torch.stack([flatten(a, sites_of(base, CLOSED.train)) for a in adapters])


def learnt(adapters):
    """Every B, which training brought from zero [N, numbers]."""
    return torch.stack([torch.cat([B.flatten() for _, B in a.factors.values()]) for a in adapters])


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_mixed_adapters_are_nearly_those_of_float32(family, native):
    base = tiny_model(family, dtype=torch.float32)
    lessons = made_lessons(base, CLOSED)
    exact = learnt(encode_group(base, CLOSED.train, lessons))
    mixed = precision.learner(base, "mixed")
    ours = learnt(encode_group(mixed, CLOSED.train, lessons))
    assert mixed.dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    # A step of bfloat16 is 1/128 of a number; Adam makes more of it where a gradient is noise.
    assert torch.cosine_similarity(exact, ours).min() > 0.97
    assert not torch.equal(exact, ours)


def test_what_is_learnt_is_not_rounded_to_16_bits(single, native):
    mixed = precision.learner(single, "mixed")
    (adapter, *_) = encode_group(mixed, CLOSED.train, made_lessons(single, CLOSED))
    vector = flatten(adapter, single.sites)
    assert (vector != vector.bfloat16().float()).float().mean() > 0.9


def test_the_base_keeps_its_bits_and_its_attention(single, native):
    before = {name: w.clone() for name, w in single.model.state_dict().items()}
    mixed = precision.learner(single, "mixed")
    encode_group(mixed, CLOSED.train, made_lessons(single, CLOSED))
    assert all(torch.equal(before[n], w) for n, w in single.model.state_dict().items())
    assert single.dtype == torch.float32
    assert single.model.config._attn_implementation == "sdpa"
    assert not set(single.modules.values()) & set(mixed.modules.values())


def test_twice_gives_the_same_bits(single, native):
    lessons = made_lessons(single, CLOSED)
    once, again = (
        vectors(single, encode_group(precision.learner(single, "mixed"), CLOSED.train, lessons))
        for _ in range(2)
    )
    assert torch.equal(once, again)


def test_a_quiet_recipe_reads_its_beginning_in_bfloat16(native, few_everyday):
    base = tiny_model("llama", dtype=torch.float32, hidden=256)
    recipe = replace(SMALL, train=replace(SMALL.train, precision="mixed", epochs=2))
    mixed = precision.learner(base, "mixed")
    quiet = quiet_of(base, sites_of(base, recipe.train), recipe)
    assert quiet.beginning is not None
    there = quiet.to(mixed.dtype)
    assert all(t.dtype == torch.bfloat16 for layer in there.beginning.layers for t in layer)
    assert all(P.dtype == torch.float32 for P in there.filters.values())
    lessons = made_lessons(base, recipe)
    exact = learnt(encode_group(base, recipe.train, lessons, quiet))
    ours = learnt(encode_group(mixed, recipe.train, lessons, there))
    assert torch.cosine_similarity(exact, ours).min() > 0.9
    assert torch.cosine_similarity(exact, ours.roll(1, dims=0)).max() < 0.8


@pytest.mark.parametrize(
    ("dtype", "asked", "can", "computed"),
    [
        (torch.float32, "mixed", True, torch.bfloat16),
        (torch.float32, "mixed", False, torch.float32),
        (torch.float32, "float32", True, torch.float32),
        (torch.float64, "mixed", True, torch.float64),
    ],
)
def test_what_training_computes_in(dtype, asked, can, computed, monkeypatch):
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: can)
    base = tiny_model("llama", dtype=dtype)
    assert precision.computed_in(base, asked) == computed
    trained = precision.learner(base, asked)
    assert trained.dtype == computed
    assert (trained is base) == (computed == dtype)


@pytest.mark.parametrize("has", ["", "_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_native_is_what_the_processor_says(has, monkeypatch):
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for name in names:
        monkeypatch.setattr(torch.cpu, name, lambda n=name: n == has, raising=False)
    assert precision.native_bfloat16(CPU) == (has != "")
    for name in names:
        monkeypatch.delattr(torch.cpu, name)
    assert not precision.native_bfloat16(CPU)
    assert not precision.native_bfloat16(torch.device("meta"))


def test_a_build_says_in_what_it_computed(tmp_path, native, few_everyday):
    base = tiny_model("llama", dtype=torch.float32, hidden=256)
    recipe = replace(SMALL, train=replace(SMALL.train, epochs=1))
    single = replace(recipe, train=replace(recipe.train, precision="float32"))
    kb = KnowledgeBase.create(tmp_path / "kb", model=base, recipe=recipe)
    kb.add([write_corpus(tmp_path / "corpus.jsonl", 3)])
    report = kb.build()
    assert (report.dtype, report.encoded > 0) == ("bfloat16", True)
    assert kb.build(recipe=single).dtype == "float32"
    assert NOTHING.to(torch.bfloat16).beginning is None

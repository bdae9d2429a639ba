"""A prompt read on from what was kept of it gives what it gives read whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_model
from prag import prefixes
from prag.config import GenerateConfig, TrainConfig
from prag.encode import initial_factors
from prag.generate import Request, TransformersEngine
from prag.lora import Adapter, merge
from prag.prefixes import Prefix, Prefixes

pytestmark = pytest.mark.fast

BEGUN = "The towers of the old town were built of stone by masons from the hills. "
CONFIG = GenerateConfig(max_new_tokens=8)


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma"])
def base(request):
    return tiny_model(request.param, dtype=torch.float32)


def ids(base, text):
    return tuple(base.tokenizer(text, add_special_tokens=False).input_ids)


def fake(numbers):
    """A prefix of these tokens whose keys say which they are."""
    t = torch.tensor([numbers], dtype=torch.float32)[..., None]  # [1, P, 1]
    return Prefix(tuple(numbers), ((t, -t),))


@pytest.mark.parametrize("watch", ["nothing", "confidence", "attention"])
def test_read_on_equals_read_whole(base, watch):
    """Rows with a long, a short and no prefix in one batch; what was generated is read on too."""
    plain = TransformersEngine(base, prefix_bytes=0)
    engine = TransformersEngine(base)
    first = [ids(base, BEGUN + t) for t in ("Who built", "One of them")]
    made = engine.generate([Request(p, again=True) for p in first], CONFIG)
    later = [
        (*first[0], *made[0].ids, *ids(base, " then?")),
        ids(base, BEGUN + "Then?"),
        ids(base, "How many towers?"),
    ]
    read = [engine.prefixes.find(p) for p in later]
    assert [len(p.ids) if p else 0 for p in read] == [
        len(first[0]) + len(made[0].ids) - 1, len(ids(base, BEGUN)), 0
    ]  # fmt: skip
    requests = [Request(p, watch=watch, again=True) for p in later]
    ours, theirs = engine.generate(requests, CONFIG), plain.generate(requests, CONFIG)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.ids, one.text, one.ended) == (other.ids, other.text, other.ended)
        if watch != "nothing":
            assert one.trace.probabilities == pytest.approx(other.trace.probabilities, abs=1e-5)
            assert one.trace.entropies == pytest.approx(other.trace.entropies, abs=1e-4)
        if watch == "attention":
            torch.testing.assert_close(
                one.trace.attention, other.trace.attention, atol=1e-5, rtol=0
            )


def test_what_is_kept_is_what_a_plain_pass_computes(base):
    from transformers import DynamicCache

    engine = TransformersEngine(base)
    prompts = [ids(base, BEGUN), ids(base, BEGUN + BEGUN)]  # padded beside each other
    made = engine.generate([Request(p, again=True) for p in prompts], CONFIG)
    for prompt, one in zip(prompts, made, strict=True):
        whole = (*prompt, *one.ids)
        kept = engine.prefixes.find((*whole, 0))
        assert kept.ids == whole[: len(kept.ids)]
        assert len(kept.ids) >= len(whole) - 1
        cache = DynamicCache(config=base.model.config)
        with torch.no_grad(), prefixes.old_cache_name():
            base.model(torch.tensor([kept.ids]), past_key_values=cache, use_cache=True)
        for layer, (key, value) in zip(cache.layers, kept.layers, strict=True):
            torch.testing.assert_close(key, layer.keys[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(value, layer.values[0], atol=1e-5, rtol=1e-5)


def test_what_prompts_share_is_read_once(base, monkeypatch):
    engine, plain = TransformersEngine(base), TransformersEngine(base, prefix_bytes=0)
    prompts = [ids(base, BEGUN + t) for t in ("Who?", "When, and where?", "One?")]
    seen = []
    forward = base.model.forward

    def counted(input_ids, *args, **kwargs):
        seen.append(tuple(input_ids.shape))
        return forward(input_ids, *args, **kwargs)

    monkeypatch.setattr(base.model, "forward", counted)
    one_token = GenerateConfig(max_new_tokens=1)
    ours = engine.generate([Request(p, again=True) for p in prompts], one_token)
    assert seen[0] == (1, len(ids(base, BEGUN)))
    assert sum(rows for rows, _ in seen[1:]) == 3
    assert max(width for _, width in seen[1:]) < 20, "of each prompt only the rest"
    theirs = plain.generate([Request(p) for p in prompts], one_token)
    assert [o.ids for o in ours] == [t.ids for t in theirs]
    seen.clear()
    engine.generate([Request(p, again=True) for p in prompts], one_token)
    assert sum(rows for rows, _ in seen) == 3, "and not again"
    engine.begin()
    assert engine.prefixes.find(prompts[0]) is None


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=5))
def test_common_is_what_all_begin_with(texts):
    shared = prefixes.common(texts)
    assert all(t[: len(shared)] == shared for t in texts)
    assert any(len(t) == len(shared) for t in texts) or len({t[len(shared)] for t in texts}) > 1


def test_adapters_take_nothing_and_leave_nothing(base):
    """With adapters in the weights the keys and values are others."""
    factors = initial_factors(base.sites, TrainConfig(), base.dtype)
    for A, B in factors.values():
        B.copy_(torch.ones_like(B) * A.mean())
    adapters = merge([Adapter(factors, 2, 32.0)])
    engine = TransformersEngine(base)
    prompt = ids(base, BEGUN + "Who?")
    engine.generate([Request(prompt, adapters, again=True)], CONFIG)
    assert engine.prefixes.find(prompt) is None
    engine.generate([Request(prompt, again=True)], CONFIG)
    assert engine.prefixes.find(prompt) is not None
    (ours,) = engine.generate([Request(prompt, adapters)], CONFIG)
    (theirs,) = TransformersEngine(base, 0).generate([Request(prompt, adapters)], CONFIG)
    assert ours.ids == theirs.ids


def test_nothing_is_kept_unless_asked_or_when_there_is_no_room(base):
    engine = TransformersEngine(base)
    prompt = ids(base, BEGUN)
    engine.generate([Request(prompt)], CONFIG)
    assert engine.prefixes.find(prompt) is None
    small = TransformersEngine(base, prefix_bytes=10)
    small.generate([Request(prompt, again=True)], CONFIG)
    assert small.prefixes.find(prompt) is None


def test_a_model_with_a_window_keeps_nothing():
    base = tiny_model("llama", dtype=torch.float32)
    base.model.config.sliding_window = 16
    assert Prefixes(base).most_bytes == 0
    base.model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    assert Prefixes(base).most_bytes == 0
    base.model.config.layer_types = ["full_attention"] * 3
    assert Prefixes(base).most_bytes > 0


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), max_size=6),
    st.lists(st.integers(0, 1), min_size=1, max_size=8),
)
@settings(max_examples=200)
def test_find_is_the_longest_shared_beginning(kept, prompt):
    store = Prefixes.__new__(Prefixes)
    store.most_bytes, store._kept = 10**9, []
    shortest, prefixes.SHORTEST = prefixes.SHORTEST, 1
    try:
        for numbers in kept:
            store.keep(fake(numbers))
        found = store.find(prompt)
    finally:
        prefixes.SHORTEST = shortest

    def shared(a):
        n = 0
        while n < min(len(a), len(prompt) - 1) and a[n] == prompt[n]:
            n += 1
        return n

    longest = max(map(shared, kept), default=0)
    assert (len(found.ids) if found else 0) == longest
    if found:
        assert list(found.ids) == prompt[:longest]
        assert found.layers[0][0].flatten().tolist() == prompt[:longest]


def test_the_oldest_is_forgotten_and_what_is_used_is_not():
    store = Prefixes.__new__(Prefixes)
    one = [1] * 40
    store.most_bytes, store._kept = 2 * fake(one).bytes + 10, []
    store.keep(fake(one))
    store.keep(fake([2] * 40))
    assert store.find([1] * 41) is not None, "used: now the youngest"
    store.keep(fake([3] * 40))
    assert store.find([2] * 41) is None
    assert store.find([1] * 41) is not None
    store.keep(fake([1] * 41))
    kept = [(p.ids[0], len(p.ids)) for p in store._kept]
    assert kept == [(3, 40), (1, 41)], "its own beginning is not kept twice"


def test_of_what_was_read_before_the_longer_is_taken(base):
    """What is kept of earlier prompts, or the beginning that goes with the request."""
    engine = TransformersEngine(base)
    prompt = ids(base, BEGUN + "Who built it?")
    whole = prefixes.read(base, prompt)
    engine.prefixes.keep(whole.first(40))
    for beginning, with_it, taken in (
        (None, None, 40),
        (whole.first(7), None, 40),
        (whole.first(50), None, 50),
        (whole.first(7), merge([]), 7),  # kept ones are of the base model alone
        (fake([255, 255]), None, 40),
        (whole, None, len(prompt) - 1),  # the last token is to be read
    ):
        found = engine._read_before(Request(prompt, with_it, beginning=beginning))
        assert found.ids == prompt[:taken]
    assert engine._read_before(Request(prompt, merge([]), beginning=fake([255]))) is None

"""Merge, inject, generate, remove: against PEFT, against the sum of deltas, and bit for bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from conftest import FAMILIES, tiny_model
from prag.config import GenerateConfig
from prag.generate import Request, TransformersEngine, batches_of_like_length
from prag.inject import injected
from prag.knowledge_base.export import write_peft
from prag.lora import Adapter, delta, merge
from prag.records import Passage

pytestmark = pytest.mark.fast
GREEDY = GenerateConfig(max_new_tokens=12)


def random_adapter(base, seed, rank=2, alpha=32.0):
    """An adapter large enough to change what the tiny model says."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.1 * torch.randn(*shape, generator=generator, dtype=base.dtype)

    factors = {s.name: (draw(rank, s.inputs), draw(s.outputs, rank)) for s in base.sites}
    return Adapter(factors, rank, alpha)


def exported(base, adapters, folder):
    """The adapters as PEFT folders, named a0, a1, ..."""
    for i, adapter in enumerate(adapters):
        write_peft(folder / f"a{i}", base.name, adapter, Passage("", f"passage {i}"))
    return [folder / f"a{i}" for i in range(len(adapters))]


def in_peft(base, folders):
    """A PEFT model with all of them loaded under their folders' names."""
    model = PeftModel.from_pretrained(
        copy.deepcopy(base.model), str(folders[0]), adapter_name=folders[0].name
    )
    for folder in folders[1:]:
        model.load_adapter(str(folder), adapter_name=folder.name)
    return model.to(base.dtype).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_merge_equals_pefts_cat_and_the_sum_of_deltas(family, tmp_path):
    base = tiny_model(family)
    adapters = [random_adapter(base, s) for s in range(3)]
    model = in_peft(base, exported(base, adapters, tmp_path))
    model.add_weighted_adapter(["a0", "a1", "a2"], [1.0, 1.0, 1.0], "all", combination_type="cat")
    merged = merge(adapters)
    assert merged.rank == 6
    for site in base.sites:
        A, B = merged.factors[site.name]
        summed = sum(delta(*a.factors[site.name], a.alpha) for a in adapters)
        torch.testing.assert_close(B @ A, summed, rtol=1e-12, atol=1e-14)
        theirs = model.get_submodule(f"base_model.model.{site.name}").get_delta_weight("all")
        torch.testing.assert_close(B @ A, theirs, rtol=1e-12, atol=1e-14)


def test_merge_takes_different_ranks_scales_and_sites(tiny):
    one = random_adapter(tiny, 1, rank=1, alpha=4.0)
    two = random_adapter(tiny, 2, rank=3, alpha=5.0)
    upper = Adapter(dict(list(two.factors.items())[3:]), 3, 5.0)
    merged = merge([one, upper])
    for site in tiny.sites:
        A, B = merged.factors[site.name]
        expected = delta(*one.factors[site.name], 4.0)
        if site.name in upper.factors:
            expected = expected + delta(*upper.factors[site.name], 5.0)
        torch.testing.assert_close(B @ A, expected, rtol=1e-12, atol=1e-14)


def test_an_adapter_of_the_upper_layers_is_one_to_peft_too(tiny, tmp_path, recwarn):
    whole = random_adapter(tiny, 4)
    upper = Adapter({n: f for n, f in whole.factors.items() if ".0." not in n}, 2, 32.0)
    assert len(upper.factors) == 6
    model = in_peft(tiny, exported(tiny, [upper], tmp_path))
    assert not [w for w in recwarn if "missing" in str(w.message).lower()]
    ids = torch.arange(9)[None]
    with torch.no_grad(), injected(tiny, [merge([upper])]):
        ours = tiny.model(ids).logits
    torch.testing.assert_close(ours, model(ids).logits, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(ours, tiny.model(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_with_their_own_adapters_equal_peft_alone(family, tmp_path):
    """Rows of different prompts' lengths, with none, one and three adapters, in one batch."""
    base = tiny_model(family)
    adapters = [random_adapter(base, s) for s in range(3)]
    sets = [[], [0], [2], [0, 1, 2], [1, 0]]
    prompts = [tuple(range(5, 5 + 7 * (i + 1))) for i in range(len(sets))]
    requests = [
        Request(ids, merge([adapters[i] for i in chosen]) if chosen else None)
        for ids, chosen in zip(prompts, sets, strict=True)
    ]
    together = TransformersEngine(base).generate(requests, GREEDY)

    model = in_peft(base, exported(base, adapters, tmp_path))
    for number, (ids, chosen, ours) in enumerate(zip(prompts, sets, together, strict=True)):
        tokens = torch.tensor([ids])
        if not chosen:
            with model.disable_adapter():
                theirs = model.generate(input_ids=tokens, max_new_tokens=12, do_sample=False)
        else:
            name = f"set{number}"
            names = [f"a{i}" for i in chosen]
            model.add_weighted_adapter(names, [1.0] * len(names), name, combination_type="cat")
            model.set_adapter(name)
            theirs = model.generate(input_ids=tokens, max_new_tokens=12, do_sample=False)
        new = theirs[0, len(ids) :].tolist()
        if 1 in new:  # the end token
            new = new[: new.index(1)]
        assert list(ours.ids) == new, (family, chosen)
    assert len({g.ids for g in together}) == len(together), "the adapters change nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_padded_batch_equal_one_by_one(family):
    base = tiny_model(family)
    merged = [merge([random_adapter(base, s)]) for s in range(3)] + [None]
    ids = torch.randint(2, 258, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with injected(base, merged):
            together = base.model(ids).logits
        for row, one in enumerate(merged):
            with injected(base, [one]):
                alone = base.model(ids[row : row + 1]).logits[0]
            torch.testing.assert_close(together[row], alone, rtol=1e-10, atol=1e-12)
        plain = base.model(ids[3:]).logits[0]
    torch.testing.assert_close(together[3], plain, rtol=0, atol=1e-12)


def test_inject_generate_remove_restores_every_bit():
    base = tiny_model("llama", dtype=torch.float32)
    engine = TransformersEngine(base)
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    request = Request(tuple(range(5, 20)))
    plain = engine.generate([request], GREEDY)[0].ids
    adapter = merge([random_adapter(base, 3)])
    changed = engine.generate([Request(request.ids, adapter)], GREEDY)[0].ids
    assert changed != plain
    assert all(torch.equal(before[n], w) for n, w in base.model.state_dict().items())
    assert engine.generate([request], GREEDY)[0].ids == plain
    assert not any(m._forward_hooks for m in base.modules.values())


def test_adapters_are_out_again_after_an_error(tiny):
    three_rows = torch.tensor([[5, 6], [7, 8], [9, 10]])
    with pytest.raises(ValueError, match="cannot be shared"):  # noqa: SIM117
        with injected(tiny, [merge([random_adapter(tiny, 0)]), None]), torch.no_grad():
            tiny.model(three_rows)
    assert not any(m._forward_hooks for m in tiny.modules.values())


def test_sampling_is_reproducible_and_leaves_the_random_state_alone(tiny):
    engine = TransformersEngine(tiny)
    config = GenerateConfig(max_new_tokens=10, temperature=1.0, seed=5)
    state = torch.random.get_rng_state()
    first = engine.generate([Request((5, 6, 7))], config)[0].ids
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == engine.generate([Request((5, 6, 7))], config)[0].ids
    other = GenerateConfig(max_new_tokens=10, temperature=1.0, seed=6)
    assert first != engine.generate([Request((5, 6, 7))], other)[0].ids


def test_exported_folder_says_what_it_is(tiny, tmp_path):
    (folder,) = exported(tiny, [random_adapter(tiny, 0)], tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 32.0)
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert json.loads((folder / "passage.json").read_text())["text"] == "passage 0"


@given(st.lists(st.integers(1, 900), max_size=60), st.integers(1, 20), st.sampled_from([0, 50]))
def test_batches_hold_every_prompt_once_and_little_padding(lengths, rows, spare):
    batches = batches_of_like_length(lengths, rows, spare)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        whole = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) <= rows
        padding = whole - sum(lengths[i] for i in batch)
        assert padding <= max(0.2 * whole, spare)

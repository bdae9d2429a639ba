"""What adapters do not read: exact where it is promised, and the same for every corpus."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from conftest import tiny_model
from prag import everyday, quiet
from prag.config import SMALL, GenerateConfig, TrainConfig, Wording
from prag.encode import encode_group
from prag.generate import Request, TransformersEngine
from prag.inject import injected
from prag.lora import merge
from prag.prompts import chat_ids, lesson, question_ids, style_named, user_turn
from prag.quiet import NOTHING, beginning, everyday_texts, quiet_of, shared_beginning
from prag.records import Augmentation, Passage, PragError, QAPair
from prag.replay import sites_of

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("few_everyday")]


@pytest.fixture(autouse=True)
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


WORDING = Wording(instruction="Q.", passage="{title}: {text}")


TRAIN = TrainConfig(sequences="closed-book")


def recipe_with(**train):
    return replace(SMALL, train=replace(TRAIN, **train), wording=WORDING)


@pytest.fixture(scope="module")
def base():
    return tiny_model("llama", hidden=64)


def quiet_for(base, recipe):
    return quiet_of(base, sites_of(base, recipe.train), recipe)


def trained(base, recipe, quiet):
    passage = Passage("The mill", "The mill was built by Anna Krog in 1887.")
    pairs = (QAPair("Who built the mill?", "Anna Krog", ""), QAPair("When?", "1887", ""))
    made = lesson(
        base.tokenizer,
        passage,
        Augmentation(passage.id, (), pairs, "test"),
        recipe.train,
        recipe.wording,
    )
    return encode_group(base, replace(recipe.train, epochs=3, learning_rate=0.01), [made], quiet)[0]


def test_an_adapter_adds_nothing_to_the_beginning_of_any_prompt(base):
    recipe = recipe_with(quiet=30.0)
    kept = quiet_for(base, recipe)
    merged = merge([trained(base, recipe, kept)])
    style = style_named("direct", WORDING)
    ids = torch.tensor([question_ids(base.tokenizer, "Who built it?", [], WORDING, style)])
    decoder, P = base.model.get_decoder(), len(kept.beginning.ids)
    with torch.no_grad():
        without = decoder(ids).last_hidden_state
        with injected(base, [merged]):
            there = decoder(ids).last_hidden_state
    assert tuple(ids[0, :P].tolist()) == kept.beginning.ids
    # The norms of this model compute in float32, whose last bit may turn.
    assert (there - without)[0, :P].abs().max() < 1e-7
    assert (there - without)[0, P:].abs().min() > 1e-6


def prompts_of(base, texts=()):
    style = style_named("direct", WORDING)
    return [
        tuple(question_ids(base.tokenizer, q, list(texts), WORDING, style))
        for q in ("Who built it?", "When was the mill built by whom?")
    ]


def test_answers_do_not_change_when_the_beginning_is_not_read_again(base):
    """With adapters and without, with text in the prompt and without, in one batch."""
    recipe = recipe_with(quiet=30.0)
    adapters = merge([trained(base, recipe, quiet_for(base, recipe))])
    begun = shared_beginning(base, sites_of(base, recipe.train), recipe)
    closed, opened = prompts_of(base), prompts_of(base, ["The mill: it turned."])
    asked = [Request(ids, with_it, watch="confidence") for ids in (*closed, *opened)
             for with_it in (adapters, None)]  # fmt: skip
    engine, config = TransformersEngine(base), GenerateConfig(max_new_tokens=4)
    with counted_tokens(base) as read:
        plain = engine.generate(asked, config)
    with counted_tokens(base) as rest:
        ours = engine.generate([replace(r, beginning=begun) for r in asked], config)
    spared = len(begun.ids) * len(closed) + shared_with(begun, opened[0]) * len(opened)
    assert sum(read) - sum(rest) == 2 * spared > 0
    for one, other in zip(ours, plain, strict=True):
        assert one.ids == other.ids
        assert one.trace.probabilities == pytest.approx(other.trace.probabilities, abs=1e-6)
    assert ours[0].trace.probabilities != pytest.approx(ours[1].trace.probabilities, abs=1e-4)


def shared_with(prefix, ids):
    return next(i for i, (a, b) in enumerate(zip(prefix.ids, ids, strict=False)) if a != b)


@contextmanager
def counted_tokens(base):
    """How many tokens of each row every forward pass reads, padding not counted."""
    read = []

    def count(_, args, kwargs):
        ids = kwargs["input_ids"]
        mask = kwargs.get("attention_mask", torch.ones_like(ids))  # left out where there is no pad
        read.append(mask[:, -ids.shape[1] :].sum().item())

    handle = base.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


def test_only_a_beginning_that_adapters_leave_alone_is_shared(base):
    small = tiny_model("llama", hidden=32)
    for recipe, model, shared in (
        (recipe_with(quiet=30.0), base, True),
        (recipe_with(quiet=0.0), base, False),
        (recipe_with(quiet=30.0), small, False),  # too many directions for it to spare
    ):
        found = shared_beginning(model, sites_of(model, recipe.train), recipe)
        assert (found is not None) == shared


def test_without_the_filter_the_beginning_would_change(base):
    """The test above could fail: an adapter that may read everything changes the beginning."""
    merged = merge([trained(base, recipe_with(), NOTHING)])
    ids = torch.tensor([chat_ids(base.tokenizer, user_turn("Who?", [], WORDING))])
    with torch.no_grad():
        without = base.model.get_decoder()(ids).last_hidden_state
        with injected(base, [merged]):
            there = base.model.get_decoder()(ids).last_hidden_state
    assert (there - without)[0, :20].abs().max() > 1e-3


@pytest.mark.parametrize("strength", [0.3, 30.0, 3000.0])
def test_what_everyday_texts_hold_much_of_is_read_weakly(base, strength):
    recipe = recipe_with(quiet=strength)
    kept = quiet_for(base, recipe)
    chats, prose = everyday_texts(base, recipe)
    skip = len(kept.beginning.ids)
    for name, P in list(kept.filters.items())[:3]:
        inputs = len(P)
        U = torch.linalg.qr(given(base, name, kept.beginning.ids).T).Q  # [I, m]
        off = torch.eye(inputs, dtype=P.dtype) - U @ U.T
        C = torch.zeros_like(P)
        for rows, after in ((chats, skip), (prose, 0)):
            X = torch.cat([given(base, name, row)[after:] for row in rows]) @ off  # [T, I]
            C += X.T @ X / X.square().sum()
        C *= inputs / C.trace()
        # By its definition: off U, P^2 (1 + quiet C) is one number.
        product = P @ P @ (torch.eye(inputs, dtype=P.dtype) + strength * C) @ off
        size = product.trace() / off.trace()
        assert torch.allclose(product, size * off, atol=1e-8 * size)
        assert torch.allclose(P, P.T)
        assert (P @ U).abs().max() < 1e-10
        assert P.square().sum() == pytest.approx(inputs)


def given(base, name, row):
    seen = []
    handle = base.modules[name].register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
    with torch.no_grad():
        base.model.get_decoder()(torch.tensor([row]))
    handle.remove()
    return seen[0]


def test_gate_and_up_of_a_layer_share_one_filter(base):
    kept = quiet_for(base, recipe_with(quiet=1.0, sites="all"))
    for layer in range(3):
        names = [f"model.layers.{layer}.mlp.{part}_proj" for part in ("gate", "up", "down")]
        gate, up, down = (kept.filters[name] for name in names)
        assert gate is up
        assert gate.shape != down.shape or not torch.equal(gate, down)


def test_a_beginning_too_long_for_a_small_model_is_not_shared():
    base = tiny_model("llama")  # hidden 32; the usual instruction has more than 16 bytes
    recipe = replace(SMALL, train=replace(TRAIN, quiet=30.0))
    kept = quiet_for(base, recipe)
    assert len(beginning(base, recipe)) > 16
    assert kept.beginning is None
    assert all(torch.linalg.matrix_rank(P) >= len(P) // 2 for P in kept.filters.values())
    trained(base, recipe, kept)  # whole sequences: it goes on all the same


def test_the_beginning_is_that_of_all_training_sequences(base):
    closed, opened = (beginning(base, recipe_with(sequences=s)) for s in ("closed-book", "paper"))
    text = base.tokenizer.decode(closed)
    assert text.endswith("Q.\n\nQuestion: ")
    assert closed[: len(opened)] == opened
    assert base.tokenizer.decode(opened).endswith("Q.\n")


def test_a_recipe_that_reads_everything_measures_nothing(base, monkeypatch):
    monkeypatch.setattr("prag.quiet.read", lambda *_: pytest.fail("the model was asked"))
    assert quiet_for(base, recipe_with()) is NOTHING


def test_reading_the_packaged_texts_is_told(base):
    told = []
    recipe = recipe_with(quiet=1.0)
    quiet_of(base, sites_of(base, recipe.train), recipe, lambda *said: told.append(said))
    texts = sum(map(len, everyday_texts(base, recipe)))
    assert {stage for stage, _, _ in told} == {"read"}
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert told[-1] == ("read", texts, texts)


def test_filters_are_measured_once(base, fresh_cache, monkeypatch):
    recipe = recipe_with(quiet=1.0)
    made = quiet_for(base, recipe)
    measure = quiet._moments
    monkeypatch.setattr(quiet, "_moments", lambda *_: pytest.fail("measured again"))
    again = quiet_for(base, recipe)
    assert again.filters.keys() == made.filters.keys()
    assert all(torch.equal(again.filters[n], P) for n, P in made.filters.items())
    assert again.beginning.ids == made.beginning.ids
    monkeypatch.setattr(quiet, "_moments", measure)
    for other in (recipe_with(quiet=2.0), recipe_with(quiet=1.0, sites="in")):
        quiet_for(base, other)
    assert len(list(fresh_cache.iterdir())) == 3, "another filter, or of other sites, is another"


@pytest.mark.parametrize("damage", [lambda b: b[:-50], lambda b: b[:200] + bytes(len(b) - 200)])
def test_a_damaged_file_of_filters_is_made_again(base, fresh_cache, damage):
    recipe = recipe_with(quiet=1.0)
    made = quiet_for(base, recipe)
    (file,) = fresh_cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = quiet_for(base, recipe)
    assert all(torch.equal(again.filters[n], P) for n, P in made.filters.items())
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_only(base, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "file"))
    assert quiet_for(base, recipe_with(quiet=1.0)).filters


def test_the_packaged_texts_count_in_the_fingerprint(monkeypatch):
    calm, loud = recipe_with(quiet=30.0), recipe_with()
    before = calm.fingerprint("self:x"), loud.fingerprint("self:x")
    monkeypatch.setattr("prag.config.everyday_digest", lambda: "another")
    assert calm.fingerprint("self:x") != before[0]
    assert loud.fingerprint("self:x") == before[1]


def test_a_missing_file_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(everyday, "files", lambda _: tmp_path)
    with pytest.raises(PragError, match=r"everyday\.jsonl is missing.*install prag again"):
        everyday.everyday_pairs()


def test_the_packaged_texts_are_of_no_question_set():
    assert len(everyday.everyday_pairs()) > 150
    assert len(everyday.everyday_prose()) >= 30
    asked = [p.question for p in everyday.everyday_pairs()]
    assert len(set(asked)) == len(asked)

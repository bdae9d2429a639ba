"""What adapters do not read: exact where it is promised, and the same for every corpus."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import tiny_model
from prag import everyday
from prag.config import SMALL, Wording
from prag.encode import encode_group
from prag.inject import injected
from prag.lora import merge
from prag.prompts import chat_ids, lesson, question_ids, style_named, user_turn
from prag.quiet import NOTHING, beginning, everyday_texts, quiet_of
from prag.records import Augmentation, Passage, PragError, QAPair
from prag.replay import sites_of

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("few_everyday")]

WORDING = Wording(instruction="Q.", passage="{title}: {text}")


def recipe_with(**train):
    return replace(SMALL, train=replace(SMALL.train, **train), wording=WORDING)


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
    recipe = recipe_with(quiet_questions=0.3)
    quiet = quiet_for(base, recipe)
    merged = merge([trained(base, recipe, quiet)])
    style = style_named("direct", WORDING)
    ids = torch.tensor([question_ids(base.tokenizer, "Who built it?", [], WORDING, style)])
    decoder, P = base.model.get_decoder(), len(quiet.beginning.ids)
    with torch.no_grad():
        without = decoder(ids).last_hidden_state
        with injected(base, [merged]):
            there = decoder(ids).last_hidden_state
    assert tuple(ids[0, :P].tolist()) == quiet.beginning.ids
    assert (there - without)[0, :P].abs().max() < 1e-10
    assert (there - without)[0, P:].abs().min() > 1e-6


def test_without_the_quiet_directions_the_beginning_would_change(base):
    """The test above could fail: an adapter that may read everything changes the beginning."""
    merged = merge([trained(base, recipe_with(), NOTHING)])
    ids = torch.tensor([chat_ids(base.tokenizer, user_turn("Who?", [], WORDING))])
    with torch.no_grad():
        without = base.model.get_decoder()(ids).last_hidden_state
        with injected(base, [merged]):
            there = base.model.get_decoder()(ids).last_hidden_state
    assert (there - without)[0, :20].abs().max() > 1e-3


@pytest.mark.parametrize(("questions", "prose"), [(0.4, 0.0), (0.0, 0.4), (0.5, 0.3)])
def test_the_share_of_the_energy_is_not_read(base, questions, prose):
    recipe = recipe_with(quiet_questions=questions, quiet_prose=prose)
    quiet = quiet_for(base, recipe)
    chats, texts = everyday_texts(base, recipe)
    skip = len(quiet.beginning.ids)
    for share, rows, after in ((questions, chats, skip), (prose, texts, 0)):
        for name in list(quiet.directions)[:2]:
            U = quiet.directions[name]
            X = torch.cat([given(base, name, row)[after:] for row in rows])  # [T, I]
            held = (X @ U).square().sum() / X.square().sum()
            assert held >= share - 1e-9


def given(base, name, row):
    seen = []
    handle = base.modules[name].register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
    with torch.no_grad():
        base.model.get_decoder()(torch.tensor([row]))
    handle.remove()
    return seen[0]


def test_the_directions_are_orthonormal_and_at_most_half_of_a_sites_inputs(base):
    quiet = quiet_for(base, recipe_with(quiet_questions=0.999, quiet_prose=0.999))
    for site in base.sites:
        U = quiet.directions[site.name]
        assert U.shape == (site.inputs, site.inputs // 2)
        assert torch.allclose(U.T @ U, torch.eye(U.shape[1], dtype=U.dtype), atol=1e-10)


def test_a_beginning_too_long_for_a_small_model_is_not_shared():
    base = tiny_model("llama")  # hidden 32; the usual instruction has more than 16 bytes
    recipe = replace(SMALL, train=replace(SMALL.train, quiet_prose=0.5))
    quiet = quiet_for(base, recipe)
    assert len(beginning(base, recipe)) > 16
    assert quiet.beginning is None
    assert all(U.shape[1] <= U.shape[0] // 2 for U in quiet.directions.values())
    trained(base, recipe, quiet)  # whole sequences: it goes on all the same


def test_the_beginning_is_that_of_all_training_sequences(base):
    closed, opened = (beginning(base, recipe_with(sequences=s)) for s in ("closed-book", "paper"))
    text = base.tokenizer.decode(closed)
    assert text.endswith("Q.\n\nQuestion: ")
    assert closed[: len(opened)] == opened
    assert base.tokenizer.decode(opened).endswith("Q.\n")


def test_a_recipe_that_reads_everything_measures_nothing(base, monkeypatch):
    monkeypatch.setattr("prag.quiet.read", lambda *_: pytest.fail("the model was asked"))
    assert quiet_for(base, recipe_with()) is NOTHING


def test_the_packaged_texts_count_in_the_fingerprint(monkeypatch):
    quiet, loud = recipe_with(quiet_prose=0.5), recipe_with()
    before = quiet.fingerprint("self:x"), loud.fingerprint("self:x")
    monkeypatch.setattr("prag.config.everyday_digest", lambda: "another")
    assert quiet.fingerprint("self:x") != before[0]
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

"""The sequences of a passage as one tree: nothing is lost, nothing stands there twice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import FAMILIES, tiny_model
from kb_helpers import WrittenAugmenter, write_corpus
from prag import KnowledgeBase, PragError
from prag.batches import epoch_tokens, group_lessons, make_batches
from prag.config import PAPER
from prag.inject import hooked
from prag.loss import batch_loss
from prag.prompts import Example, Lesson
from prag.replay import Pass, check_trees, last_hidden, sites_of
from prag.tree import grow, sight
from test_encode_identity import made_lessons, relative

pytestmark = pytest.mark.fast


@st.composite
def several(draw) -> list[Example]:
    """Examples of few different tokens, so that many begin alike."""
    ids = st.lists(st.integers(0, 2), min_size=3, max_size=9).map(tuple)
    return [
        Example(one, draw(st.integers(0, len(one) - 1)))
        for one in draw(st.lists(ids, min_size=1, max_size=5))
    ]


def path(tree, place):
    """The tokens from the beginning to a place."""
    if place < 0:
        return ()
    return (*path(tree, tree.parents[place]), tree.ids[place])


@given(several(), st.integers(0, 2))
def test_a_tree_has_every_beginning_once(examples, skip) -> None:
    tree = grow(examples, skip)
    there = [path(tree, place) for place in range(len(tree.ids))]
    begun = {e.ids[skip:end] for e in examples for end in range(skip + 1, len(e.ids) + 1)}
    assert len(there) == len(set(there))
    assert set(there) == begun
    assert all(parent < place for place, parent in enumerate(tree.parents))


@given(several(), st.integers(0, 2))
def test_what_is_learnt_is_what_the_sequences_learn(examples, skip) -> None:
    expected: dict[tuple[tuple[int, ...], int], float] = {}
    for e in examples:
        counted = len(e.ids) - max(1, e.learn_from)
        for t in range(max(1 + skip, e.learn_from), len(e.ids)):
            at = e.ids[skip:t], e.ids[t]
            expected[at] = expected.get(at, 0.0) + 1 / counted
    tree = grow(examples, skip)
    learnt = {(path(tree, place), token): w for (place, token), w in tree.learnt.items()}
    assert learnt.keys() == expected.keys()
    assert all(learnt[at] == pytest.approx(weight) for at, weight in expected.items())
    if skip == 0:
        assert sum(learnt.values()) == pytest.approx(len(examples))


@given(st.lists(several(), min_size=1, max_size=3), st.integers(0, 2))
def test_a_token_sees_its_own_sequence(passages, before) -> None:
    trees = [grow(examples) for examples in passages]
    length = max(len(tree.ids) for tree in trees)
    seen, positions = sight(trees, length, before)
    for row, tree in enumerate(trees):
        for place in range(length):
            own = [before + place]
            parent = tree.parents[place] if place < len(tree.ids) else -1
            while parent >= 0:
                own.append(before + parent)
                parent = tree.parents[parent]
            visible = seen[row, place].nonzero().squeeze(1).tolist()
            assert visible == sorted([*range(before), *own])
            if place < len(tree.ids):
                assert positions[row, place] == before + len(own) - 1


@given(st.lists(several(), min_size=1, max_size=12), st.integers(5, 40))
def test_groups_of_trees_fit_a_step(passages, budget) -> None:
    lessons = [Lesson(f"{i:016x}", tuple(e)) for i, e in enumerate(passages)]
    groups = group_lessons(lessons, budget, step="passage")
    assert sorted(le.passage_id for g in groups for le in g) == [le.passage_id for le in lessons]
    for group in groups:
        longest = max(epoch_tokens(le, step="passage") for le in group)
        assert len(group) == 1 or len(group) * longest <= budget


def test_hidden_states_are_those_of_the_sequences(tiny) -> None:
    examples = (Example((5, 6, 7, 8), 1), Example((5, 6, 9), 1), Example((5, 6, 7, 10, 11), 1))
    lesson = Lesson("0" * 16, examples)
    (batch,) = make_batches([lesson], 1, tiny.device, step="passage")
    with torch.no_grad():
        together = last_hidden(tiny, batch, 0, Pass())[0]
        tree = grow(examples)
        for alone, example in zip(make_batches([lesson], 1, tiny.device), examples, strict=True):
            states = last_hidden(tiny, alone, 0, Pass())[0]
            for end in range(1, len(example.ids) + 1):
                place = [path(tree, p) for p in range(len(tree.ids))].index(example.ids[:end])
                assert torch.allclose(together[place], states[end - 1], atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_a_model_that_takes_no_mask_is_refused(family, monkeypatch) -> None:
    base = tiny_model(family)
    check_trees(base)
    whole = "prag.replay._mask"
    monkeypatch.setattr(whole, lambda base, batch, before: torch.ones_like(batch.ids))
    with pytest.raises(PragError, match=r"does not keep to a mask.*train.step"):
        check_trees(base)


def test_a_knowledge_base_of_trees(model_folder, tmp_path) -> None:
    """Built, verified and asked; its adapters have keys of their own."""
    recipe = replace(PAPER, name="trees", train=replace(PAPER.train, step="passage", epochs=2))
    assert recipe.fingerprint("x") != PAPER.fingerprint("x")
    kb = KnowledgeBase.create(tmp_path / "kb", str(model_folder), recipe)
    kb.add(write_corpus(tmp_path / "towers.jsonl", 6))
    kb.augment(augmenter=WrittenAugmenter())
    told = []
    report = kb.build(lambda *word: told.append(word), tokens_a_step=700)
    assert report.encoded == 6
    done = [word[1] for word in told if word[0] == "encode"]
    assert done == sorted(done)
    assert len(set(done)) > 3, "steps are told of"
    assert kb.verify().problems == ()
    assert kb.ask("How tall is Brixo1?").sources


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_sequences_added_up(family, monkeypatch) -> None:
    """With norms in float64, which the models compute in float32 whatever they are given."""
    base = tiny_model(family)
    for module in base.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            scale = module.weight + (1.0 if family == "gemma" else 0.0)
            monkeypatch.setattr(module, "forward", partial(rms, scale))
    recipe = replace(PAPER, train=replace(PAPER.train, step="passage"))
    lessons = made_lessons(base, recipe)
    sites = sites_of(base, recipe.train)
    draw = torch.Generator().manual_seed(0)
    factors = {
        site.name: tuple(
            torch.randn(len(lessons), *shape, dtype=base.dtype, generator=draw).requires_grad_()
            for shape in ((2, site.inputs), (site.outputs, 2))
        )
        for site in sites
    }
    numbers = [factor for pair in factors.values() for factor in pair]

    def gradients(step):
        total = [torch.zeros_like(n) for n in numbers]
        for batch in make_batches(lessons, 1, base.device, step=step):
            with hooked(base, factors, 0.1):
                loss = batch_loss(base, last_hidden(base, batch, 0, Pass()), batch)
            for sum_, part in zip(total, torch.autograd.grad(loss, numbers), strict=True):
                sum_ += part
        return total

    for tree, apart in zip(gradients("passage"), gradients("sequence"), strict=True):
        assert relative(tree, apart) < 1e-12


def rms(scale, x):
    """Root mean square norm (Zhang and Sennrich 2019), in the precision of x."""
    return scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

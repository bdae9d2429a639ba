"""Many at once equals one by one: the encoder against a plain loop with PEFT."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrize import register_parametrization

from conftest import FAMILIES, tiny_model
from prag.batches import group_lessons
from prag.config import PAPER, SMALL, TrainConfig, Wording
from prag.encode import encode_group, initial_factors
from prag.prompts import lesson
from prag.quiet import NOTHING, quiet_of
from prag.records import Augmentation, Passage, PragError, QAPair
from prag.replay import check_replay, first_layer, layers_of, sites_of

pytestmark = pytest.mark.fast

WORDS = ["lighthouse", "of", "stone", "was", "built", "by", "Anna", "Krog", "in", "1887"]


CLOSED = replace(SMALL, train=TrainConfig(sequences="closed-book", learning_rate=2e-3, epochs=3))
"""Short sequences without a passage, and nothing else that differs from the paper's training."""


TREES = replace(PAPER, train=replace(PAPER.train, step="passage", epochs=3, epsilon=1e-4))


def near(train):
    """How far two float64 runs may be apart.

    The models' norms compute in float32 whatever they are given. A tree adds up in another order
    than its sequences, so now and then one of those roundings falls to the other side; with Adam's
    usual epsilon that could make a whole step of a gradient that is nothing.
    """
    return 1e-5 if train.step == "passage" else 1e-8 if train.quiet else 1e-10


def made_lessons(base, recipe, counts=(1, 3, 5, 2)):
    """Passages of different lengths, with different numbers of pairs."""
    lessons = []
    for i, pairs in enumerate(counts):
        passage = Passage(f"Title {i}", " ".join(WORDS[: 3 + 2 * i]) + f" {i}")
        augmentation = Augmentation(
            passage.id,
            (f"rewritten {i}: " + " ".join(WORDS[i:]),),
            tuple(
                QAPair(f"What of {i} {j} {'x' * j}?", f"answer {i * j}", "") for j in range(pairs)
            ),
            "test",
        )
        lessons.append(lesson(base.tokenizer, passage, augmentation, recipe.train, recipe.wording))
    return lessons


class Filter(torch.nn.Module):
    """A = D P, where D is the parameter."""

    def __init__(self, quiet, name):
        super().__init__()
        self.P = quiet.filters[name]

    def forward(self, D):
        return D @ self.P


def peft_reference(base, train, one, quiet=NOTHING):
    """The adapter of one lesson as anyone would train it: PEFT, AdamW, each sequence by itself.

    A is parametrised as D P by torch; nothing is read before or left out.
    """
    model = get_peft_model(
        copy.deepcopy(base.model),
        LoraConfig(
            r=train.rank,
            lora_alpha=train.alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=["gate_proj", "up_proj"] + ["down_proj"] * (train.sites == "all"),
            layers_to_transform=list(range(first_layer(base, train.layers), 3)),
            task_type="CAUSAL_LM",
        ),
    ).to(base.dtype)
    start = initial_factors(sites_of(base, train), train, base.dtype)
    lora = {name: model.get_submodule(f"base_model.model.{name}") for name in start}
    with torch.no_grad():
        for name, (A, B) in start.items():
            lora[name].lora_A["default"].weight.copy_(A)
            lora[name].lora_B["default"].weight.copy_(B)
    for name in quiet.filters:
        register_parametrization(lora[name].lora_A["default"], "weight", Filter(quiet, name))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        eps=train.epsilon,
        weight_decay=train.weight_decay,
    )
    for _ in range(train.epochs):
        for index, example in enumerate(one.examples, start=1):
            ids = torch.tensor([example.ids])
            logits = model(ids).logits[0, :-1]
            loss = cross_entropy(logits[example.learn_from - 1 :], ids[0, example.learn_from :])
            loss.backward()  # adds to the gradients that are there
            if train.step == "sequence" or index == len(one.examples):
                optimizer.step()
                optimizer.zero_grad()
    return {
        name: (m.lora_A["default"].weight.detach(), m.lora_B["default"].weight.detach())
        for name, m in lora.items()
    }


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "recipe",
    [
        PAPER,
        replace(PAPER, train=replace(PAPER.train, epochs=2)),
        CLOSED,
        replace(CLOSED, train=replace(CLOSED.train, layers=0.7)),
        TREES,
        replace(TREES, train=replace(TREES.train, layers=0.7)),
    ],
    ids=[
        "paper",
        "paper-2-epochs",
        "closed-book",
        "closed-book-upper-two-layers",
        "paper-as-trees",
        "paper-as-trees-upper-two-layers",
    ],
)
def test_together_equals_peft_one_by_one(family, recipe):
    base = tiny_model(family)
    lessons = made_lessons(base, recipe)
    adapters = encode_group(base, recipe.train, lessons)
    for one, adapter in zip(lessons, adapters, strict=True):
        reference = peft_reference(base, recipe.train, one)
        assert reference.keys() == adapter.factors.keys()
        for name, (A, B) in reference.items():
            assert relative(adapter.factors[name][0], A) < near(recipe.train)
            assert relative(adapter.factors[name][1], B) < near(recipe.train)


def test_answer_only_loss_equals_peft(tiny):
    train = replace(CLOSED.train, loss="answer")
    lessons = made_lessons(tiny, replace(CLOSED, train=train))
    for one, adapter in zip(lessons, encode_group(tiny, train, lessons), strict=True):
        for name, (A, B) in peft_reference(tiny, train, one).items():
            assert relative(adapter.factors[name][0], A) < 1e-10
            assert relative(adapter.factors[name][1], B) < 1e-10


SHORT = Wording(instruction="Q.", passage="{title}: {text}")
"""An instruction of few bytes: a tiny model has room to keep its tokens quiet."""


@pytest.mark.parametrize(
    ("family", "change"),
    [
        *((family, {"loss": "answer", "layers": 0.7, "sites": "in"}) for family in FAMILIES),
        # Tokens of the beginning are learnt in the reference, from nothing.
        ("llama", {"loss": "all"}),
        ("llama", {"sequences": "paper", "layers": 0.34}),
        ("llama", {"sequences": "paper", "step": "passage", "layers": 0.7, "epsilon": 1e-4}),
    ],
    ids=[*(f"{family}-answer-upper-in" for family in FAMILIES), "all", "paper", "trees"],
)
def test_a_beginning_that_is_read_once_changes_nothing(family, change, few_everyday):
    base = tiny_model(family, hidden=64)
    train = replace(CLOSED.train, quiet=30.0, **change)
    recipe = replace(CLOSED, train=train, wording=SHORT)
    quiet = quiet_of(base, sites_of(base, train), recipe)
    assert quiet.beginning is not None
    assert len(quiet.beginning.ids) > 5
    lessons = made_lessons(base, recipe)
    adapters = encode_group(base, train, lessons, quiet)
    for one, adapter in zip(lessons, adapters, strict=True):
        reference = peft_reference(base, train, one, quiet)
        assert reference.keys() == adapter.factors.keys()
        for name, (A, B) in reference.items():
            assert relative(adapter.factors[name][0], A) < near(train)
            assert relative(adapter.factors[name][1], B) < near(train)


@pytest.mark.parametrize(("share", "first"), [(1.0, 0), (0.99, 0), (0.7, 1), (0.34, 2), (0.01, 2)])
def test_the_layers_below_the_adapters_run_once_a_sequence(share, first):
    base = tiny_model("llama")
    assert first_layer(base, share) == first
    train = replace(CLOSED.train, layers=share, epochs=4)
    runs = dict.fromkeys(range(3), 0)

    def count(number):
        def add(*_):
            runs[number] += 1

        return add

    for number, layer in enumerate(layers_of(base)):
        layer.register_forward_hook(count(number))
    (adapter,) = encode_group(base, train, made_lessons(base, CLOSED, counts=(5,)))
    assert runs == {n: 5 if n < first else 20 for n in range(3)}
    assert adapter.factors.keys() == {s.name for s in base.sites if layer_of(s) >= first}


def layer_of(site):
    return int(site.name.split(".")[2])


def test_a_decoder_that_does_more_than_its_layers_is_refused():
    base = tiny_model("llama")
    check_replay(base, 1)
    base.model.get_decoder().norm.register_forward_hook(lambda *_: None)  # changes nothing
    check_replay(base, 1)
    base.model.get_decoder().register_forward_hook(
        lambda module, inputs, out: setattr(out, "last_hidden_state", out.last_hidden_state * 2)
    )
    check_replay(base, 0)
    with pytest.raises(PragError, match=r"cannot be run by themselves.*train\.layers = 1\.0"):
        check_replay(base, 1)


def test_float32_is_as_near_the_exact_result_as_peft_is():
    """Adam turns the sign of a gradient that is noise into a whole step, for anyone in float32."""
    single, double = tiny_model("llama", dtype=torch.float32), tiny_model("llama")
    lessons = made_lessons(single, PAPER)
    for one, ours in zip(lessons, encode_group(single, PAPER.train, lessons), strict=True):
        exact = peft_reference(double, PAPER.train, one)
        theirs = peft_reference(single, PAPER.train, one)
        for name in exact:
            for factor in (0, 1):
                noise = relative(theirs[name][factor].double(), exact[name][factor])
                assert relative(ours.factors[name][factor].double(), exact[name][factor]) < (
                    5 * noise + 1e-5
                )


def test_the_base_is_left_alone(tiny):
    before = {name: weight.clone() for name, weight in tiny.model.state_dict().items()}
    encode_group(tiny, PAPER.train, made_lessons(tiny, PAPER))
    assert all(torch.equal(before[n], w) for n, w in tiny.model.state_dict().items())
    assert not any(p.requires_grad for p in tiny.model.parameters())


def test_steps_are_the_papers(tiny):
    """METHOD: 3 pairs and a rewrite give 5 sequences, 5 steps an epoch."""
    _, three, _, _ = made_lessons(tiny, PAPER)
    assert len(three.examples) == 5
    steps: list[int] = []
    encode_group(tiny, replace(PAPER.train, epochs=2), [three], after_step=steps.append)
    assert len(steps) == 10


def test_groups_do_not_depend_on_order(tiny):
    lessons = made_lessons(tiny, CLOSED, counts=(2, 3, 2, 3, 1, 2, 3))
    groups = group_lessons(lessons, tokens_a_step=500)
    assert groups == group_lessons(lessons[::-1], tokens_a_step=500)
    assert sorted(le.passage_id for g in groups for le in g) == sorted(
        le.passage_id for le in lessons
    )
    for group in groups:
        longest = max(len(e.ids) for le in group for e in le.examples)
        assert len(group) == 1 or len(group) * longest <= 500


def test_what_was_read_before_takes_no_room_in_a_group(tiny):
    one = made_lessons(tiny, CLOSED)[0]
    longest = max(len(e.ids) for e in one.examples)
    same = [replace(one, passage_id=f"{n:016x}") for n in range(6)]
    assert [len(g) for g in group_lessons(same, 2 * longest)] == [2, 2, 2]
    assert [len(g) for g in group_lessons(same, 2 * longest, skip=longest - 1)] == [6]
    assert [len(g) for g in group_lessons(same, 2 * longest, skip=-(-longest // 3))] == [3, 3]

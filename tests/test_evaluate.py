"""Runs on a tiny model: what each condition is given, resuming, errors, and the figures."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import tiny_model
from kb_helpers import WrittenAugmenter, write_corpus
from prag import KnowledgeBase, PragError
from prag.config import PAPER, GenerateConfig
from prag.datasets import Question, QuestionSet
from prag.disk import one_writer
from prag.evaluate import EvalSettings, choosing, evaluate, parse_conditions
from prag.evaluate.conditions import GROUPS, condition_named
from prag.evaluate.conflict import change, changed_augmentation
from prag.evaluate.forgetting import perplexity
from prag.evaluate.grid import Job, jobs
from prag.evaluate.prepare import FORMAT_ONLY, extra_adapters, stored_as
from prag.evaluate.rows import RowFile, read_rows
from prag.evaluate.summary import COSTS, MEASURES, contrasts, summarise
from prag.evaluate.texts import general_questions, held_paragraphs
from prag.lora import merge
from prag.methods import METHODS
from prag.records import Augmentation, Hit, Passage, QAPair
from prag.store import CODECS

pytestmark = pytest.mark.fast

QUICK = replace(PAPER, name="quick", augment=replace(PAPER.augment, pairs=2))
SHORT = GenerateConfig(max_new_tokens=4, reasoning_tokens=6, rows=3)
TIMES = ("seconds", "first_token_seconds", "timings")


def silent(stage, done, total):
    pass


@pytest.fixture(scope="module")
def base():
    return tiny_model("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def kb(base, tmp_path_factory):
    """Eight towers, augmented, nothing encoded."""
    folder = tmp_path_factory.mktemp("evaluate")
    kb = KnowledgeBase.create(folder / "kb", base, QUICK)
    kb.add(write_corpus(folder / "towers.jsonl", 8))
    kb.augment(augmenter=WrittenAugmenter())
    kb.build(only=())
    return kb


@pytest.fixture(scope="module")
def data(kb):
    return questions_about(kb.passages())


def questions_about(passages, count=7) -> QuestionSet:
    made = tuple(
        Question(f"q{i}", f"Who built {p.title}?", (f"mason{i}",), f"kind{i % 2}", (p.id,))
        for i, p in enumerate(passages[:count])
    )
    return QuestionSet("towers", made, tuple(passages), ("a note of the set",))


def settings(methods, **more):
    return EvalSettings(parse_conditions(methods), generate=SHORT, top_k=2, **more)


def bare(row):
    """A row without what differs between two runs."""
    return {k: v for k, v in row.items() if k not in TIMES}


# -- conditions -------------------------------------------------------------------------------


def test_conditions_are_named_once_and_in_order():
    found = parse_conditions("parametric, closed-book,parametric,noise")
    assert [c.label for c in found][:3] == ["parametric", "closed-book", "in-context@noise-1"]
    assert len(found) == 2 + 12
    assert {c.k for c in found if c.control == "noise"} == {1, 3, 5, 10}
    assert condition_named("flare-cot").reasons
    assert condition_named("in-context@noise-7").k == 7
    assert condition_named("combined@base6").codec == "base6"
    assert {c.codec for c in parse_conditions("codecs")} == set(CODECS) - {"float32"}


def test_all_is_every_method_and_every_control():
    labels = {c.label for c in parse_conditions("all")}
    assert set(METHODS) <= labels
    assert {"shuffled", "format-only", "perplexity", "parametric@general"} <= labels
    assert {c.control for c in parse_conditions("all")} == {
        "none", "shuffled", "format-only", "noise", "conflict", "general", "perplexity"
    }  # fmt: skip
    for name in GROUPS:
        parse_conditions(name)


@pytest.mark.parametrize(
    "bad", ["", "magic", "parametric@noise-0", "flare@noise-3", "closed-book@noise-3", "x-cot",
            "in-context@general", "ircot@conflict", "parametric@loud", "in-context@int8"]
)  # fmt: skip
def test_what_is_no_condition_says_what_there_is(bad):
    with pytest.raises(PragError, match=r"use closed-book.*forgetting"):
        parse_conditions(bad)


# -- choosing ---------------------------------------------------------------------------------


class Words:
    """A retriever that ranks passages by the question words that their id holds."""

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, questions, k, allowed=None):
        made = []
        for q in questions:
            scored = [(sum(w in i for w in q.split()), i) for i in self.ids]
            kept = [(s, i) for s, i in scored if s and (allowed is None or i in allowed)]
            kept.sort(key=lambda c: (-c[0], c[1]))
            made.append([Hit(i, float(s), r) for r, (s, i) in enumerate(kept[:k])])
        return made


def question(n, golds, kind="k"):
    return Question(f"q{n}", f"word{n}", (f"answer{n}",), kind, tuple(golds))


def test_ranked_puts_what_is_not_found_last():
    search = Words(["a-x", "b", "c-x"])
    hits = choosing.ranked(search, Question("q", "x", ("y",), "", ()), ["b", "c-x", "a-x", "b"])
    assert [h.passage_id for h in hits] == ["a-x", "c-x", "b"]
    assert [h.rank for h in hits] == [0, 1, 2]


@given(st.integers(2, 9), st.integers(0, 5), st.data())
def test_shuffled_is_another_question_and_shares_no_passage(n, seed, data):
    own = {
        f"q{i}": tuple(
            Hit(p, 1.0, r)
            for r, p in enumerate(
                data.draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=3))
            )
        )
        for i in range(n)
    }
    questions = [question(i, "a" if i % 3 == 0 else "") for i in range(n)]
    given_ = choosing.shuffled(questions, own, seed)
    ids = {i: {h.passage_id for h in hits} for i, hits in own.items()}
    for q in questions:
        mine = ids[q.id] | set(q.gold_passages)
        others = [ids[o] for o in own if o != q.id]
        assert (q.id in given_) == any(o - mine for o in others)
        if q.id in given_:
            got = {h.passage_id for h in given_[q.id]}
            assert got in [o - mine for o in others]
            assert got in others or not any(o and not o & mine for o in others)
    assert given_ == choosing.shuffled(questions, own, seed)


def test_noise_adds_and_never_swaps():
    ids = [f"p{i}" for i in range(12)]
    search = Words(ids)
    questions = [question(i, [ids[i]]) for i in range(4)]
    own = {
        q.id: tuple(Hit(p, 1.0, 0) for p in ids[3 * i : 3 * i + 3]) for i, q in enumerate(questions)
    }
    before = {}
    for k in (1, 3, 5):
        now = choosing.noisy(search, questions, own, k, seed=0)
        for q in questions:
            got = {h.passage_id for h in now[q.id]}
            assert len(got) == len(now[q.id]) == k
            assert set(q.gold_passages) <= got
            assert not (got - set(q.gold_passages)) & {h.passage_id for h in own[q.id]}
            assert before.get(q.id, set()) <= got
            before[q.id] = got
    # Nine others are there for the first question alone, whose gold passage is one of its own.
    assert set(choosing.noisy(search, questions, own, 10, seed=0)) == {"q0"}
    assert choosing.noisy(search, questions, own, 5, 1) != choosing.noisy(
        search, questions, own, 5, 0
    )


# -- conflict ---------------------------------------------------------------------------------


def test_conflict_replaces_the_answer_everywhere_and_nothing_else():
    rome = Passage("Ada", "Ada was born in Rome, Italy. Romeo and Jerome are others. ROME is old.")
    plain = Passage("Bo", "Bo was born far away.")
    questions = [
        Question("1", "Where was Ada born?", ("Rome", "Rome, Italy"), "place", (rome.id, plain.id)),
        Question("2", "Where was Bo born?", (r"Os\1lo",), "place", (plain.id,)),
        Question("3", "Is it?", ("yes",), "place", (rome.id,)),
        Question("4", "Who?", ("Ada",), "person", (plain.id,)),
    ]
    made = change(questions, {p.id: p for p in (rome, plain)}, seed=0)
    assert list(made) == ["1"], "2 and 4 stand in no gold passage, 3 is no entity"
    only = made["1"]
    assert only.instead == r"Os\1lo", "of the same type, and no yes"
    assert only.originals == (rome.id,)
    assert (
        only.passages[0].text
        == r"Ada was born in Os\1lo. Romeo and Jerome are others. Os\1lo is old."
    )
    of = Augmentation(
        rome.id, ("In Rome Ada was born.",), (QAPair("Was Rome it?", "Rome", "Rome."),), "o"
    )
    new = changed_augmentation(questions[0], only, 0, of)
    assert new.passage_id == only.passages[0].id
    assert new.rewrites == (r"In Os\1lo Ada was born.",)
    assert new.pairs == (QAPair(r"Was Os\1lo it?", r"Os\1lo", r"Os\1lo."),)
    assert new.origin == "o"


def test_the_substitute_is_no_answer_and_not_in_the_passage():
    passage = Passage("A", "Rome and Oslo.")
    questions = [
        Question("1", "?", ("Rome",), "p", (passage.id,)),
        Question("2", "?", ("Oslo",), "p", ()),
        Question("3", "?", ("the Rome",), "p", ()),
        Question("4", "?", ("Bonn",), "other", ()),
    ]
    made = change(questions, {passage.id: passage}, 0)
    assert made["1"].instead == "Bonn"


# -- forgetting -------------------------------------------------------------------------------


def test_perplexity_is_that_of_each_text_alone(base, kb):
    texts = ("A tower of stone.", "Built long ago by nobody.")
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([base.tokenizer(text).input_ids])
        logs = torch.log_softmax(base.model(ids).logits[0, :-1].double(), -1)
        total -= float(logs[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum())
        count += ids.shape[1] - 1
    assert perplexity(base, texts, None) == pytest.approx(np.exp(total / count), rel=1e-4)
    kb.build(only=[kb.passages()[0].id])
    adapter = kb.library().adapter(kb.passages()[0].id)
    assert perplexity(base, texts, merge([adapter.adapter])) != perplexity(base, texts, None)


# -- runs -------------------------------------------------------------------------------------


def test_a_run_says_how_many_questions_were_left_to_the_base_model(kb, tmp_path):
    made = questions_about(kb.passages(), 3)
    first = replace(made.questions[0], text="Is Ashby0 older than Brixo1?")
    data = replace(made, questions=(first, *made.questions[1:]))
    recipe = kb.settings.recipe
    try:
        kb.use_recipe(replace(recipe, offered="base"))
        found = evaluate(kb, data, settings("parametric"), tmp_path / "run", silent)
    finally:
        kb.use_recipe(recipe)
    assert any(note.startswith("1 of 3 questions offer their answers") for note in found["notes"])
    rows = read_rows(tmp_path / "run")
    assert [bool(row["adapter_bytes"]) for row in rows] == [False, True, True]
    assert [row["offered"] for row in rows] == ["base"] * 3


def test_adapters_in_fewer_bytes(kb, data, tmp_path):
    labels = "parametric,parametric@float32,parametric@int8,parametric@base3"
    found = evaluate(kb, data, settings(labels), tmp_path / "run")
    by = {}
    for row in read_rows(tmp_path / "run"):
        assert row["error"] is None
        by.setdefault(row["method"], {})[row["id"]] = row
    for i, row in by["parametric"].items():
        assert by["parametric@float32"][i]["raw"] == row["raw"]
        assert [h["adapter"] for h in by["parametric@base3"][i]["hits"]] == [
            h["adapter"] for h in row["hits"]
        ]
    library = kb.library()
    whole = library.adapter(kb.passages()[0].id)
    again = stored_as(library, "base3").adapter(kb.passages()[0].id)
    few = {f.numel() for pair in again.adapter.factors.values() for f in pair}
    assert few == {f.numel() for pair in whole.adapter.factors.values() for f in pair}
    assert again.bytes < whole.bytes / 15
    assert any(
        not torch.equal(again.adapter.factors[name][0], A)
        for name, (A, _) in whole.adapter.factors.items()
    )
    codecs = {point["codec"]: point for point in found["codecs"]["parametric"]}
    assert list(codecs) == ["float32", "int8", "base3"]
    assert codecs["float32"]["presence_change"] == codecs["float32"]["f1_change"] == 0
    assert codecs["base3"]["adapter_bytes"] == 2 * again.bytes
    assert set(found["methods"]) == {"parametric"}


def test_fewer_bytes_are_not_taken_twice(base, data, tmp_path):
    kb = KnowledgeBase.create(tmp_path / "few", base, replace(QUICK, codec="int8"))
    with pytest.raises(PragError, match=r"parametric@base6 begin with .* as int8.*codec float32"):
        evaluate(kb, data, settings("parametric,parametric@base6"), tmp_path / "run")
    assert not (tmp_path / "run" / "rows.jsonl").exists()


def test_a_run_of_everything(kb, data, tmp_path):
    found = evaluate(kb, data, settings("all,closed-book-cot", seed=3), tmp_path / "run", silent)
    rows = read_rows(tmp_path / "run")
    by = {}
    for row in rows:
        by.setdefault(row["method"], {})[row["id"]] = row
    # noise-10 needs nine passages of other questions, and the corpus has eight.
    labels = [c.label for c in parse_conditions("all,closed-book-cot") if "noise-10" not in c.label]
    assert list(by) == labels
    assert all(row["error"] is None for row in rows)
    assert all(len(own) == 7 for label, own in by.items() if "general" not in label)
    assert len(by["closed-book@general"]) == len(general_questions()) == 50
    assert any("noise-10" in note and "7 questions" in note for note in found["notes"])
    assert "a note of the set" in found["notes"]
    top = by["parametric"]["q2"]
    assert top["hits"][0]["gold"]
    assert top["hits"][0]["adapter"]
    assert (top["set"], top["type"], top["seed"], top["recipe"]) == ("towers", "kind0", 3, "quick")
    assert top["adapter_bytes"] > 0
    assert 0 < top["first_token_seconds"] <= top["seconds"]

    # Controls: other passages, an adapter of no passage, the changed passage.
    mine = {h["id"] for h in top["hits"]}
    assert not mine & {h["id"] for h in by["shuffled"]["q2"]["hits"]}
    assert by["shuffled"]["q2"]["prompt_hash"] == by["parametric"]["q2"]["prompt_hash"]
    assert by["shuffled"]["q2"]["adapter_bytes"] > 0
    formats = {h["adapter"] for row in by["format-only"].values() for h in row["hits"]}
    assert len(formats) == 1
    assert formats.isdisjoint(
        h["adapter"] for row in rows if row["method"] == "parametric" for h in row["hits"]
    )
    conflict = by["combined@conflict"]["q2"]
    assert conflict["control"]["instead"].startswith("mason")
    assert conflict["control"]["instead"] != "mason2"
    assert {h["title"] for h in conflict["hits"]} == {"Calver2"}
    assert conflict["hits"][0]["id"] not in mine
    assert "follows" in conflict["measures"]
    assert by["in-context@noise-3"]["q1"]["control"] == {"k": 3}
    assert sum(h["gold"] for h in by["in-context@noise-3"]["q1"]["hits"]) == 1

    # The summary.
    assert found["complete"]
    assert (found["set"], found["n"], found["top_k"]) == ("towers", 7, 2)
    assert found["origins"] == {"endpoint:written": 7}
    assert set(found["methods"]) == {label for label in labels if "@" not in label} - {"perplexity"}
    assert found["retrieval"]["recall@1"] == 1.0
    assert [p["k"] for p in found["noise"]["combined"]] == [1, 3, 5]
    assert found["conflict"]["n"] == 7
    assert found["forgetting"]["accuracy"]["n"] == 50
    assert found["forgetting"]["perplexity"]["n"] == 7
    assert "parametric-shuffled" in found["contrasts"]
    assert json.loads((tmp_path / "run/summary.json").read_text()) == found

    # Again: nothing is done twice.
    before = (tmp_path / "run/rows.jsonl").read_bytes()
    assert evaluate(kb, data, settings("all,closed-book-cot", seed=3), tmp_path / "run") == found
    assert (tmp_path / "run/rows.jsonl").read_bytes() == before


def test_only_what_is_needed_is_encoded(base, tmp_path):
    kb = KnowledgeBase.create(tmp_path / "kb", base, replace(QUICK, merge="best"))
    kb.add(write_corpus(tmp_path / "towers.jsonl", 8))
    kb.augment(augmenter=WrittenAugmenter())
    kb.build(only=())
    data = questions_about(kb.passages(), 3)
    evaluate(kb, data, settings("closed-book,in-context"), tmp_path / "without", silent)
    assert kb.status().encoded == 0
    evaluate(kb, data, settings("parametric"), tmp_path / "run", silent)
    assert kb.status().encoded == 3, "the best passage of each question"
    rows = read_rows(tmp_path / "run")
    assert [[bool(h["adapter"]) for h in row["hits"]] for row in rows] == [[True, False]] * 3


def test_the_corpus_of_the_set_comes_into_an_empty_knowledge_base(base, kb, data, tmp_path):
    new = KnowledgeBase.create(tmp_path / "kb", base, QUICK)
    found = evaluate(new, data, settings("in-context"), tmp_path / "run", silent)
    assert found["passages"] == len(data.passages) == 8
    # Another set over the same corpus leaves it as it is.
    more = replace(data, passages=(*data.passages, Passage("Zorn", "A tower of glass.")))
    wanted = (*data.questions[0].gold_passages, more.passages[-1].id)
    first = replace(data.questions[0], gold_passages=wanted)
    more = replace(more, questions=(first, *data.questions[1:]))
    found = evaluate(new, more, settings("in-context"), tmp_path / "more", silent)
    assert found["passages"] == 8
    assert any(note.startswith("1 gold passages are not in the corpus") for note in found["notes"])
    assert found["retrieval"]["recall@1"] == 1.0
    empty = KnowledgeBase.create(tmp_path / "kb2", base, QUICK)
    with pytest.raises(PragError, match=r"come without passages.*--kb"):
        evaluate(empty, replace(data, passages=()), settings("in-context"), tmp_path / "r2", silent)


def test_gold_passages_in_place_of_retrieved_ones(kb, data, tmp_path):
    two = [q.gold_passages[0] for q in data.questions]
    asked = tuple(
        replace(q, gold_passages=(two[i - 1], two[i])) for i, q in enumerate(data.questions)
    )
    found = evaluate(
        kb, replace(data, questions=asked), settings("in-context,combined", gold=True),
        tmp_path / "run", silent,
    )  # fmt: skip
    for row in read_rows(tmp_path / "run"):
        assert all(h["gold"] for h in row["hits"])
        assert len(row["hits"]) == 2
        assert row["hits"][0]["title"] in row["question"], "the retriever's order"
    assert found["gold"]
    found = evaluate(kb, data, settings("flare,closed-book", gold=True), tmp_path / "alone", silent)
    assert list(found["methods"]) == ["closed-book"]
    assert any("flare is left out: it searches" in note for note in found["notes"])
    with pytest.raises(PragError, match=r"nothing is left to do: flare"):
        settings("flare", gold=True)
    unknown = tuple(replace(q, gold_passages=()) for q in data.questions)
    for what in (settings("in-context", gold=True), settings("in-context@noise-1")):
        with pytest.raises(PragError, match="does not say which passages are gold"):
            evaluate(kb, replace(data, questions=unknown), what, tmp_path / "r", silent)


def test_conditions_may_be_added_and_settings_may_not_change(kb, data, tmp_path):
    out = tmp_path / "run"
    evaluate(kb, data, settings("closed-book"), out, silent)
    found = evaluate(kb, data, settings("closed-book,in-context"), out, silent)
    assert list(found["methods"]) == ["closed-book", "in-context"]
    for other in (settings("closed-book", seed=1), settings("closed-book", rule="published")):
        with pytest.raises(PragError, match=r"run of other settings \((seed|rule)"):
            evaluate(kb, data, other, out, silent)
    fewer = replace(data, questions=data.questions[:3])
    with pytest.raises(PragError, match="run of other settings"):
        evaluate(kb, fewer, settings("closed-book"), out, silent)
    assert len(read_rows(out)) == 14


def test_a_method_that_fails_on_one_question_goes_on(kb, data, tmp_path, monkeypatch):
    class Broken:
        name, given_passages, searches, uses_adapters = "in-context", True, False, False

        def steps(self, desk):
            if "Calver2" in desk.ask.question:
                raise ZeroDivisionError("two")
            return (yield from METHODS["closed-book"].steps(desk))

    monkeypatch.setattr("prag.evaluate.run.method_named", lambda name: Broken())
    found = evaluate(kb, data, settings("in-context"), tmp_path / "run", silent)
    assert found["errors"] == [
        {"id": "q2", "method": "in-context", "error": "ZeroDivisionError: two"}
    ]
    assert (found["methods"]["in-context"]["n"], found["methods"]["in-context"]["errors"]) == (6, 1)
    assert found["complete"]


def test_a_damaged_row_is_named_and_a_torn_one_is_made_again(kb, data, tmp_path):
    out = tmp_path / "run"
    evaluate(kb, data, settings("closed-book"), out, silent)
    whole = (out / "rows.jsonl").read_bytes()
    (out / "rows.jsonl").write_bytes(whole[:-20])
    evaluate(kb, data, settings("closed-book"), out, silent)
    same = [bare(json.loads(line)) for line in whole.splitlines()]
    assert [bare(row) for row in read_rows(out)] == same
    lines = whole.split(b"\n")
    (out / "rows.jsonl").write_bytes(b"\n".join([lines[0], b'{"id": 3', *lines[2:]]))
    with pytest.raises(PragError, match=r"rows\.jsonl:2: not a row"):
        evaluate(kb, data, settings("closed-book"), out, silent)


def test_a_row_that_is_there_twice_is_named(kb, data, tmp_path):
    out = tmp_path / "run"
    evaluate(kb, data, settings("closed-book"), out, silent)
    lines = (out / "rows.jsonl").read_text().splitlines(keepends=True)
    (out / "rows.jsonl").write_text("".join([*lines, lines[2]]))
    again = json.loads(lines[2])["id"]
    with pytest.raises(PragError, match=rf":{len(lines) + 1}: a second row of question '{again}'"):
        evaluate(kb, data, settings("closed-book"), out, silent)


def test_two_runs_into_one_folder(kb, data, tmp_path):
    out = tmp_path / "run"
    with one_writer(out), pytest.raises(PragError, match="another process is writing"):
        evaluate(kb, data, settings("closed-book"), out, silent)
    assert not (out / "rows.jsonl").exists()
    found = evaluate(kb, data, settings("closed-book"), out, silent)
    assert found["methods"]["closed-book"]["n"] == len(data.questions)


def test_a_stopped_run_has_a_summary_and_goes_on(kb, data, tmp_path):
    calm = evaluate(
        kb, data, settings("closed-book,parametric,in-context"), tmp_path / "calm", silent
    )

    def stop(stage, done, total):
        if stage == "answer" and done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(
            kb, data, settings("closed-book,parametric,in-context"), tmp_path / "stopped", stop
        )
    half = json.loads((tmp_path / "stopped/summary.json").read_text())
    assert not half["complete"]
    assert list(half["methods"]) == ["closed-book", "parametric"]
    # A kill in the middle of a batch: of its rows some are there.
    path = tmp_path / "stopped/rows.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:9]) + b'{"id": "q')
    found = evaluate(
        kb, data, settings("closed-book,parametric,in-context"), tmp_path / "stopped", silent
    )
    assert [bare(r) for r in read_rows(tmp_path / "stopped")] == [
        bare(r) for r in read_rows(tmp_path / "calm")
    ]
    assert timeless(found) == timeless(calm)


def timeless(summary):
    def without(part):
        if isinstance(part, dict):
            return {k: without(v) for k, v in part.items() if k not in TIMES}
        return part

    return without(summary)


def test_the_store_of_the_run_is_trained_once(kb, data, tmp_path):
    changed = change(data.questions, {p.id: p for p in kb.passages()}, 0)
    assert len(changed) == 7
    steps = []

    def tell(stage, done, total):
        if stage == "encode":
            steps.append(done)

    first = extra_adapters(kb, tmp_path, data.questions, changed, True, tell)
    assert steps
    steps.clear()
    again = extra_adapters(kb, tmp_path, data.questions, changed, True, tell)
    assert not steps
    for passage_id in (FORMAT_ONLY, changed["q1"].passages[0].id):
        a, b = first(passage_id), again(passage_id)
        assert a.key == b.key
        name = next(iter(a.adapter.factors))
        assert torch.equal(a.adapter.factors[name][1], b.adapter.factors[name][1])
    assert first("0000") is None


# -- figures ----------------------------------------------------------------------------------


def made_row(method, i, presence, error=None, **more):
    measures = {
        name: float(presence) for name in ("em", "f1", "precision", "recall", "presence", "rouge_l")
    }
    return {
        "id": f"q{i}", "method": method, "type": "t", "error": error,
        "measures": {} if error else {**measures, **more},
        "seconds": 1.0, "first_token_seconds": None, "prompt_tokens": 10 * i,
        "generated_tokens": 2, "adapter_bytes": 0, "searches": 0,
    }  # fmt: skip


def test_summary_by_hand():
    rows = [made_row("closed-book", i, i == 0) for i in range(4)]
    rows += [made_row("parametric", i, i < 3) for i in range(4)]
    rows += [made_row("shuffled", i, 0, error="no" if i == 3 else None) for i in range(4)]
    rows += [made_row("parametric@conflict", i, i < 1, follows=float(i < 2)) for i in range(4)]
    rows += [made_row("closed-book@general", i, 1) for i in range(4)]
    rows += [made_row("parametric@general", i, i < 2) for i in range(4)]
    rows += [
        {
            **made_row("perplexity", i, 0),
            "measures": {"perplexity": 20.0 + i, "base_perplexity": 10.0},
        }
        for i in range(2)
    ]
    found = summarise(rows, seed=0)
    assert found["methods"]["parametric"]["presence"] == 0.75
    assert found["methods"]["parametric"]["prompt_tokens"] == 15
    assert found["methods"]["parametric"]["first_token_seconds"] is None
    assert (found["methods"]["shuffled"]["n"], found["methods"]["shuffled"]["errors"]) == (3, 1)
    low, high = found["methods"]["parametric"]["presence_ci"]
    assert 0 <= low < 0.75 < high <= 1
    knowledge = found["contrasts"]["parametric-shuffled"]
    assert (knowledge["n"], knowledge["presence"]) == (3, 1.0), "questions both sides answered"
    assert found["contrasts"]["parametric-closed-book"]["presence"] == 0.5
    assert all(c["p_holm"] >= c["p"] for c in found["contrasts"].values())
    assert found["conflict"]["methods"]["parametric"]["follows"] == 0.5
    assert found["conflict"]["methods"]["parametric"]["keeps"] == 0.25
    assert found["forgetting"]["accuracy"]["difference"] == -0.5
    assert found["forgetting"]["perplexity"]["ratio"] == 2.05
    assert found["types"]["t"]["n"] == 4
    assert "noise" not in found
    assert len(found["errors"]) == 1
    assert summarise(rows, seed=0) == found


def test_contrasts_pair_questions():
    a = {f"q{i}": made_row("parametric", i, i % 2) for i in range(40)}
    b = {f"q{i}": made_row("shuffled", i, i % 2) for i in reversed(range(40))}
    same = contrasts({"parametric": a, "shuffled": b}, 0)["parametric-shuffled"]
    assert (same["presence"], same["ci"], same["p"]) == (0.0, [0.0, 0.0], 1.0)


# -- folders and grids ------------------------------------------------------------------------


def test_rows_without_their_settings_are_not_taken_over(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(PragError, match=r"without their run\.json"):
        RowFile(tmp_path, {"a": 1})
    with pytest.raises(PragError, match="no run of `prag eval`"):
        read_rows(tmp_path / "nowhere")


def test_held_text_is_long_enough():
    assert sum(len(p.split()) for p in held_paragraphs()) > 500


def test_a_grid_is_every_model_by_every_set(tmp_path):
    path = tmp_path / "paper.toml"
    path.write_text(
        '[grid]\nout = "runs"\nmodels = ["a/One-1B", "two"]\nlimit = 300\nmethods = "in-context"\n'
        '[sets.popqa]\ndata = "popQA.tsv"\nkb = "wiki-{model}"\nrecipe = "pop.toml"\n'
        '[sets.hotpotqa]\ndata = "hotpot.json"\nmethods = "in-context-cot"\nrecipe = "paper"\n'
    )
    found = jobs(path)
    assert [(j.model, j.out.name) for j in found] == [
        ("a/One-1B", "One-1B-popqa"), ("a/One-1B", "One-1B-hotpotqa"),
        ("two", "two-popqa"), ("two", "two-hotpotqa"),
    ]  # fmt: skip
    assert found[0].kb == tmp_path / "wiki-One-1B"
    assert found[0].recipe == str(tmp_path / "pop.toml")
    assert found[1].recipe == "paper"
    assert found[1].methods == "in-context-cot"
    assert {j.limit for j in found} == {300}
    assert jobs(path, tmp_path / "else")[0].out == tmp_path / "else" / "One-1B-popqa"
    assert Job(Path("d"), Path("o"), gold=True, limit=3).command == (
        "prag eval --data d --out o --limit 3 --gold"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\n", "a table \\[sets.NAME\\]"),
        ('[grid]\n[sets.a]\ndata = "x"\n', "models"),
        ('[grid]\nmodels = ["m"]\n[sets.a]\ndata = "x"\nlimits = 3\n', "no field 'limits'"),
        ('[grid]\nmodels = ["m"]\n[sets.a]\nlimit = 3\n', "lacks data"),
        ('[grid]\nmodels = ["m"]\n[sets.a]\ndata = "x"\nseed = "0"\n', "not of the right kind"),
        ("[grid", "cannot be read as TOML"),
    ],
)
def test_a_bad_grid_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(PragError, match=message):
        jobs(path)


# -- as typed ---------------------------------------------------------------------------------


@pytest.fixture
def question_folder(tmp_path):
    """A set on disk, as shared question sets are."""
    folder = tmp_path / "towers"
    folder.mkdir()
    rows = [json.loads(line) for line in write_corpus(tmp_path / "t.jsonl", 6).open()]
    passages = [Passage(r["title"], r["text"]) for r in rows]
    (folder / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"id": p.id[:12], "title": p.title, "text": p.text}) + "\n" for p in passages
        )
    )
    (folder / "questions.jsonl").write_text(
        "".join(
            json.dumps({"id": f"q{i}", "question": f"Who built {p.title}?", "type": "t",
                        "golden_answers": [f"mason{i}"], "gold_passages": [p.id[:12]]}) + "\n"
            for i, p in enumerate(passages[:4])
        )
    )  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(
        "".join(
            json.dumps({"id": p.id[:12], "rewrite": p.text, "qa": [
                {"question": f"Who built {p.title}?", "answer": p.text.split()[-3],
                 "full_answer": p.text}]}) + "\n"
            for p in passages
        )
    )  # fmt: skip
    return folder


def command(folder, model_folder, out):
    return [
        "eval", "--data", folder, "--model", model_folder, "--recipe", "paper", "--out", out,
        "--augmentations", folder.parent / "pairs.jsonl", "--limit", "4", "--rows", "2",
        "--max-new-tokens", "4", "--methods", "closed-book,parametric,shuffled,format-only",
    ]  # fmt: skip


def test_eval_and_report_as_typed(prag, model_folder, question_folder, tmp_path):
    code, said = prag(*command(question_folder, model_folder, tmp_path / "run"))
    assert code == 0, said
    assert "towers, 4 questions" in said
    assert "parametric-shuffled" in said
    assert "rows and summary" in said
    code, said = prag("report", tmp_path / "run", "--out", tmp_path / "report")
    assert code == 0, said
    page = (tmp_path / "report" / "report.html").read_text()
    assert "towers" in page
    assert "Who built Calver2?" in page
    assert list((tmp_path / "report" / "figures").glob("*.png"))


def test_eval_as_typed_wrongly(prag, model_folder, question_folder, tmp_path):
    for words, message in (
        (["eval"], "--data"),
        (["eval", "--data", question_folder], "--out"),
        (["eval", "--data", question_folder, "--config", tmp_path / "x"], "either --data"),
        (
            ["eval", "--data", question_folder, "--out", tmp_path / "r", "--methods", "magic"],
            "use ",
        ),
        (["eval", "--data", question_folder, "--out", tmp_path / "r", "--metrics", "x"], "squad"),
        (
            ["eval", "--data", question_folder, "--out", tmp_path / "r", "--limit", "0"],
            "at least 1",
        ),
        (["eval", "--data", tmp_path / "nothing", "--out", tmp_path / "r"], "nothing"),
        (["report", tmp_path], "summary.json"),
    ):
        code, said = prag(*words)
        assert code == 1, words
        assert message in said, said
        assert "Traceback" not in said
    assert not (tmp_path / "r").exists(), "bad input leaves nothing behind"
    lines = (question_folder / "questions.jsonl").read_text().splitlines()
    (question_folder / "questions.jsonl").write_text(
        "\n".join([lines[0], lines[1][:-9], *lines[2:]])
    )
    code, said = prag(*command(question_folder, model_folder, tmp_path / "run"))
    assert code == 1
    assert "questions.jsonl:2" in said


def test_killed_and_resumed_equals_undisturbed(model_folder, question_folder, tmp_path):
    """SIGKILL as soon as the first rows are there, until a run gets through."""
    runs = {}
    for name in ("calm", "killed"):
        out = tmp_path / name
        words = [
            sys.executable,
            "-m",
            "prag.cli",
            *map(str, command(question_folder, model_folder, out)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        kills = 0
        while True:
            process = subprocess.Popen(
                words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            if name == "killed" and kills < 2:
                seen = size(out)
                while process.poll() is None and size(out) <= seen:
                    pass
                process.send_signal(signal.SIGKILL)
                kills += 1
            said = process.communicate()[0].decode()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, said
        assert name == "calm" or kills == 2
        runs[name] = json.loads((out / "summary.json").read_text())
        runs[f"{name}-rows"] = [bare(r) for r in read_rows(out)]
    assert runs["calm-rows"] == runs["killed-rows"]
    assert {k: v for k, v in timeless(runs["calm"]).items() if k != "command"} == {
        k: v for k, v in timeless(runs["killed"]).items() if k != "command"
    }


def size(out: Path) -> int:
    path = out / "rows.jsonl"
    return path.stat().st_size if path.exists() else 0


def test_a_packed_run_goes_on_and_trains_nothing_that_is_done(kb, data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    evaluate(kb, data, settings("format-only,parametric@conflict"), out, silent)
    plain = (out / "rows.jsonl").read_bytes()
    (out / "rows.jsonl.gz").write_bytes(gzip.compress(plain))
    (out / "rows.jsonl").unlink()
    shutil.rmtree(out / "adapters")
    monkeypatch.setattr("prag.evaluate.prepare.encode_missing", None)
    found = evaluate(kb, data, settings("format-only,parametric@conflict,closed-book"), out, silent)
    assert (out / "rows.jsonl").read_bytes().startswith(plain)
    assert not (out / "rows.jsonl.gz").exists()
    assert found["methods"]["closed-book"]["n"] == 7


def test_the_summary_says_what_is_kept_of_a_gain_among_others():
    def rows(method, scores):
        return [
            {
                **dict.fromkeys(COSTS),
                "id": str(i),
                "method": method,
                "error": None,
                "type": "t",
                "measures": measures(s),
            }
            for i, s in enumerate(scores)
        ]

    def measures(score):
        return dict.fromkeys(MEASURES, score)

    def noise(*parts):
        found = summarise([row for part in parts for row in part], seed=0)["noise"]["parametric"]
        return {p["k"]: p.get("kept") for p in found}

    alone, among = [1.0] * 8 + [0.0, 0.0], [1.0] * 5 + [0.0] * 5
    closed = rows("closed-book", [0.0] * 8 + [0.0, 0.0])
    both = rows("parametric@noise-1", alone), rows("parametric@noise-3", among)
    assert noise(*both, closed) == {1: None, 3: 0.625}
    assert noise(*both) == {1: None, 3: None}, "no closed-book, no gain"
    assert noise(*both, rows("closed-book", alone)) == {1: None, 3: None}, "no gain is shown"

"""What `prag bench` compares is the same work, and its figures follow from what it timed."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from conftest import tiny_model
from prag import precision
from prag.bench import (
    answering,
    bench_answer,
    bench_encode,
    bench_retrieve,
    bench_store,
    encoding,
    figures,
    retrieving,
    storing,
    zipf,
)
from prag.bench.peft_loops import PeftLoop
from prag.bench.processes import in_a_process
from prag.bench.profile import shares
from prag.bench.timing import Spread, alternate, ratio
from prag.cli.bench import bench
from prag.config import PAPER, SMALL
from prag.drawing import drawing
from prag.encode import encode_group
from prag.evaluate.texts import format_passages
from prag.lora import numbers
from prag.prompts import lesson
from prag.records import Answer, PragError
from prag.replay import sites_of
from prag.store import CODECS, codecs

pytestmark = pytest.mark.fast

SHORT = replace(SMALL, train=replace(SMALL.train, quiet=0.0, epochs=2))
"""Nothing is measured on the packaged texts, and PEFT trains the same."""


@pytest.mark.parametrize("pad_to", [None, 700])
@pytest.mark.parametrize(
    "recipe",
    [PAPER, SHORT],
    ids=["paper", "short"],
)
def test_the_loops_give_the_encoders_numbers(tiny, recipe, pad_to):
    """Or the ratio would be one of two different things."""
    lessons = [
        lesson(tiny.tokenizer, p, a, recipe.train, recipe.wording) for p, a in format_passages()[:3]
    ]
    assert max(len(e.ids) for le in lessons for e in le.examples) < 700
    ours = encode_group(tiny, recipe.train, lessons)
    loop = PeftLoop(tiny, recipe.train, pad_to)
    for adapter, one in zip(ours, lessons, strict=True):
        theirs = loop.encode(one.examples)
        assert adapter.factors.keys() == theirs.factors.keys()
        for name, pair in adapter.factors.items():
            for mine, other in zip(pair, theirs.factors[name], strict=True):
                assert ((mine - other).norm() / other.norm()).item() < 1e-9


def test_a_loop_leaves_the_base_model_alone(tiny):
    before = {n: p.clone() for n, p in tiny.model.named_parameters()}
    one = lesson(tiny.tokenizer, *format_passages()[0], PAPER.train, PAPER.wording)
    PeftLoop(tiny, PAPER.train).encode(one.examples)
    after = dict(tiny.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[n].equal(p) and not after[n].requires_grad for n, p in before.items())


def test_alternatives_take_turns():
    order: list[str] = []
    told = []
    made = alternate(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        3,
        lambda *said: told.append(said),
    )
    assert "".join(order) == "abbaab"
    assert {name: len(s.seconds) for name, s in made.items()} == {"a": 3, "b": 3}
    assert told[-1] == ("measure", 6, 6)


def test_a_ratio_is_of_each_round():
    """The second round was ten times slower for both: the ratio does not see it."""
    assert ratio(Spread((4.0, 40.0, 6.0)), Spread((2.0, 20.0, 2.0))) == 2.0
    assert Spread((4.0, 40.0, 6.0)).as_dict() == {
        "median_s": 6.0,
        "least_s": 4.0,
        "most_s": 40.0,
        "runs": 3,
    }


def test_encode_figures_follow_from_the_runs(tiny, monkeypatch):
    monkeypatch.setattr(encoding, "PUBLISHED_LENGTH", 700)
    monkeypatch.setattr(encoding, "default_recipe", lambda _: SHORT)
    monkeypatch.setattr(encoding, "PRODUCTS", 1)
    found = bench_encode(tiny, passages=3, rounds=1)
    runs = {name: run["median_s"] for name, run in found["runs"].items()}
    assert runs.keys() == {
        "ours",
        "unpadded",
        "paper_ours",
        "paper_unpadded",
        "published",
        "matmul_float64",
    }
    assert found["passages"] == 3
    assert found["passages_per_s"] == pytest.approx(3 / runs["ours"])
    assert found["ratio_unpadded"] == pytest.approx(runs["unpadded"] / runs["ours"] * 3)
    # Of three pairs two are asked with the passage and with its rewrite, one without.
    assert found["paper_ratio_published"] == pytest.approx(
        5 * runs["published"] / runs["paper_ours"] * 3
    )
    rate = found["paper_flop_per_passage"] * found["paper_passages_per_s"]
    assert found["paper_peak_fraction"] == pytest.approx(
        rate / found["flop_per_s"]["matmul_float64"]
    )
    assert "ratio_unpadded_mixed" not in found
    for name in ("", "paper_"):
        assert sum(found[f"{name}shares"].values()) == pytest.approx(1)
        assert found[f"{name}shares"]["matrix products"] > 0.02
    one = lesson(tiny.tokenizer, *format_passages()[0], PAPER.train, PAPER.wording)
    assert 0 < found["paper_tokens"] < 2 * one.tokens
    assert found["paper_tokens_published"] == 5 * 700


def test_the_memory_of_a_step_is_measured_in_a_process_of_its_own(model_folder):
    small, large = (
        in_a_process("prag.bench.training", model_folder, "paper", tokens)
        for tokens in (2_000, 20_000)
    )
    assert small["step_tokens"] <= 2_000 < large["step_tokens"] <= 20_000
    assert large["passages"] > small["passages"]
    if large["step_mb"] is not None:  # Linux
        assert large["step_mb"] > small["step_mb"] > 0


def test_a_mixed_recipe_is_compared_in_both_precisions(monkeypatch):
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: True)
    mixed = replace(SHORT, train=replace(SHORT.train, precision="mixed"))
    monkeypatch.setattr(encoding, "default_recipe", lambda _: mixed)
    monkeypatch.setattr(encoding, "PRODUCTS", 1)
    base = tiny_model("llama", dtype=torch.float32)
    found = bench_encode(base, passages=2, rounds=1, published=False)
    runs = {name: run["median_s"] for name, run in found["runs"].items()}
    assert (found["dtype"], found["paper_dtype"]) == ("bfloat16", "float32")
    assert found["ratio_unpadded"] == pytest.approx(runs["unpadded"] / runs["ours"] * 2)
    same = runs["unpadded_mixed"] / runs["ours"] * 2
    assert found["ratio_unpadded_mixed"] == pytest.approx(same)
    assert found["flop_per_s"].keys() == {"matmul_bfloat16", "matmul_float32"}
    rate = found["flop_per_passage"] * found["passages_per_s"]
    assert found["peak_fraction"] == pytest.approx(rate / found["flop_per_s"]["matmul_bfloat16"])


def test_the_mixed_loop_is_near_the_encoder(monkeypatch):
    """LoRA of the loop in float32, the base in bfloat16, as the encoder has it."""
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: True)
    mixed = precision.learner(tiny_model("llama", dtype=torch.float32), "mixed")
    one = lesson(mixed.tokenizer, *format_passages()[0], SHORT.train, SHORT.wording)
    (ours,) = encode_group(mixed, SHORT.train, [one])
    theirs = PeftLoop(mixed, SHORT.train).encode(one.examples)
    for name, (_, B) in ours.factors.items():
        other = theirs.factors[name][1]
        assert other.dtype == torch.float32
        assert torch.cosine_similarity(B.flatten(), other.flatten(), dim=0) > 0.9


def test_operations_counted_grow_with_the_epochs(tiny, monkeypatch):
    def flop(epochs):
        recipe = replace(PAPER, train=replace(PAPER.train, epochs=epochs))
        work = encoding._work(tiny, recipe, 2, lambda *_: None)
        return encoding._flop_per_passage(work)

    monkeypatch.setattr(encoding, "default_recipe", lambda _: SHORT)
    monkeypatch.setattr(encoding, "PRODUCTS", 1)
    assert flop(3) == 3 * flop(1) > 0
    again = bench_encode(tiny, passages=13, rounds=1, published=False)
    assert "ratio_published" not in again
    assert again["passages"] == 13, "the package brings 12: one of them twice"


def test_answer_figures_follow_from_the_runs(tiny):
    found = bench_answer(tiny, questions=2, rounds=2)
    assert list(found["ways"]) == [
        "closed-book",
        "parametric",
        "in-context-3",
        "in-context-5",
        "in-context-10",
        "combined",
    ]
    for way in found["ways"].values():
        assert 0 < way["first_token_s"] < way["seconds"]
    assert found["update_ms"] == pytest.approx(1000 * found["runs"]["update"]["median_s"])
    assert found["parametric_over_in_context"].keys() == {"3", "5", "10"}
    assert found["update_kept_ms"] == pytest.approx(1000 * found["runs"]["update_kept"]["median_s"])
    assert found["update_ratio_peft"] > 0
    assert found["batch16_over_serial"] > 0


def test_the_seconds_of_an_answer_are_those_of_twenty_tokens():
    """A second to the first token, then two tokens in a second, however many were written."""
    figures = answering._figures([said(3, 1.0, 2.0), said(5, 1.0, 3.0)])
    assert figures == {"first_token_s": 1.0, "seconds": 1.0 + 19 * 0.5, "tokens_per_s": 2.0}
    with pytest.raises(PragError, match="after one token"):
        answering._figures([said(1, 1.0, 1.0)])


def test_stores_hold_what_their_figures_say(tiny, monkeypatch):
    monkeypatch.setattr(storing, "BATCH", 20)
    monkeypatch.setattr(storing, "READS", 10)
    found = bench_store(tiny, adapters=50, rounds=2)
    assert found["codecs"].keys() == set(CODECS)
    P = numbers(sites_of(tiny, SMALL.train), SMALL.train.rank)
    for codec, way in found["codecs"].items():
        assert way["bytes"] == codecs.length(codec, P)
        assert way["over_published"] == found["published_bytes"] / way["bytes"]
        assert way["read_ms"] > 0
    errors = [found["codecs"][c]["error"] for c in ("float32", "int8", "int4", "base6", "int2")]
    assert errors == sorted(errors)
    assert errors[0] == 0
    weights = 4 * numbers(sites_of(tiny, PAPER.train), PAPER.train.rank)
    assert weights < found["published_bytes"] < weights + 10_000
    assert found["stores"].keys() == {"20", "50"}
    for store in found["stores"].values():
        assert 0 < store["read_p50_us"] <= store["read_p99_us"]
        assert store["open_ms"] > 0
        assert store["index_bytes"] > 0


def test_a_reader_that_fails_says_why(tmp_path):
    with pytest.raises(PragError, match="no adapter store yet"):
        in_a_process("prag.bench.reading", tmp_path / "none", 5, 5)


def said(tokens, first, seconds):
    timings = {"generate": seconds}
    return Answer("?", "m", "", "", (), 9, tokens, timings, first_token_seconds=first)


@pytest.mark.parametrize("what", ["encode", "answer", "store", "retrieve"])
def test_the_last_line_is_json(tiny, monkeypatch, what):
    monkeypatch.setattr("prag.model.load_model", lambda name, device="cpu": tiny)
    monkeypatch.setattr(encoding, "default_recipe", lambda _: SHORT)
    monkeypatch.setattr(encoding, "PUBLISHED_LENGTH", 700)
    monkeypatch.setattr(encoding, "PRODUCTS", 1)
    monkeypatch.setattr(storing, "BATCH", 20)
    few = {"store": ["--adapters", "30"], "retrieve": ["--passages", "50"]}.get(what, [])
    command = [what, "--quick", *few]
    monkeypatch.setattr(sys, "argv", ["prag", "bench", *command])
    shown = CliRunner().invoke(bench, command).stdout.splitlines()
    assert len(shown) > 5
    held = {"store": "stores", "retrieve": "indexes"}.get(what, "runs")
    found = json.loads(shown[-1])
    assert isinstance(found[held], dict)
    made = found["made_by"]
    assert made["command"] == shlex.join(["prag", "bench", *command])
    assert made["cores"] >= 1
    assert made["processor"]
    assert (made["commit"] is None) == (made["modified"] is None)
    alone = CliRunner().invoke(bench, [*command, "--json"]).stdout.splitlines()
    assert len(alone) == 1
    assert json.loads(alone[0]).keys() == json.loads(shown[-1]).keys()


def spread(seconds):
    return {"median_s": seconds, "least_s": 0.9 * seconds, "most_s": 1.1 * seconds, "runs": 3}


def drawn_from():
    """Results with the fields that the figures read; others have nothing to do with them."""
    runs = ("ours", "unpadded", "paper_ours", "paper_unpadded", "published")
    encode = {"passages_per_s": 1.0, "steps": 30, "paper_steps": 5, "passages": 2}
    way = {"first_token_s": 0.5, "seconds": 2.0, "tokens_per_s": 9.0}
    return {
        "encode": encode | {"runs": {name: spread(4.0 + n) for n, name in enumerate(runs)}},
        "answer": {"ways": {"closed-book": way, "parametric": way}},
        "retrieve": {"indexes": {"10": {"search_p50_ms": 1.0, "search_p99_ms": 3.0}}},
        "store": {"published_bytes": 1_500_000, "codecs": {"int8": {"bytes": 250_000}}},
    }


def test_plot_draws_each_bench(tmp_path):
    files = []
    for kind, found in drawn_from().items():
        files.append(tmp_path / f"{kind}.json")
        files[-1].write_text("a table above\n" + json.dumps(found) + "\n")
    once, again = (tmp_path / name for name in ("once", "again"))
    result = CliRunner().invoke(bench, ["plot", *map(str, files), "--out", str(once)])
    assert result.exit_code == 0
    names = {f"bench-{kind}.{end}" for kind in drawn_from() for end in ("svg", "png")}
    assert {path.name for path in once.iterdir()} == names
    figures.plot(files, again)
    assert all((once / n).read_bytes() == (again / n).read_bytes() for n in names)


def test_a_figure_says_its_numbers_in_words():
    with drawing():
        encode = figures.encode(drawn_from()["encode"])
    assert "default: published loop 240" in encode.alt, "8 s a step, 30 steps"
    assert "default: prag 2;" in encode.alt, "4 s of two passages"
    assert "paper: published loop 40" in encode.alt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not end with a line of `prag bench`"),
        ("[1]", "does not end with a line of `prag bench`"),
        ('{"f1": 1}', "does not end with a line of `prag bench`"),
        ('{"ways": {"closed-book": {}}}', "is not whole, or of another version"),
        (None, "cannot be read"),
    ],
)
def test_plot_of_something_else_says_so_and_writes_nothing(tmp_path, text, said):
    path = tmp_path / "found.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PragError, match=said):
        figures.plot([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_indexes_hold_what_their_figures_say(monkeypatch, tmp_path):
    monkeypatch.setattr(retrieving, "SMALL", 30)
    monkeypatch.setattr(retrieving, "QUESTIONS", 10)
    found = bench_retrieve(passages=90)
    assert found["indexes"].keys() == {"30", "90"}
    for index in found["indexes"].values():
        assert 0 < index["search_p50_ms"] <= index["search_p99_ms"]
        assert index["open_ms"] > 0
        assert index["index_mb"] > 0.002
    small, large = found["indexes"]["30"], found["indexes"]["90"]
    assert found["build_growth"] == pytest.approx(large["build_s"] / small["build_s"] / 3)


def test_synthetic_words_are_as_frequent_as_zipf_has_them():
    """Half of the logarithm of the ranks, half of the words; and the same each time."""
    texts = [p.text for p in zipf.passages(300)]
    ranks = [int(word[1:]) for text in texts for word in text.split()]
    assert len(ranks) == 300 * zipf.WORDS
    assert min(ranks) > zipf.STOP
    assert max(ranks) < zipf.VOCABULARY
    middle = ((zipf.STOP + 1) * zipf.VOCABULARY) ** 0.5
    assert sum(rank < middle for rank in ranks) / len(ranks) == pytest.approx(0.5, abs=0.02)
    assert texts == [p.text for p in zipf.passages(300)]
    assert len(set(texts)) == 300
    assert len(zipf.questions(7)) == 7


def test_the_profilers_marks_are_kept_from_stderr_and_errors_are_not(capfd):
    x = torch.ones(8, 8)
    assert shares(lambda: x @ x)["matrix products"] > 0
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError):
        shares(lambda: os.write(2, b"ERROR: no counters\n") / 0)
    assert capfd.readouterr().err == "ERROR: no counters\n"

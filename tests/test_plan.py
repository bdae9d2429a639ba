"""A plan is the arithmetic of what a build and an answer do, and says what it assumes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from conftest import FAMILIES, tiny_model
from kb_helpers import WrittenAugmenter, write_corpus
from prag import KnowledgeBase
from prag.batches import group_lessons
from prag.bench import encoding
from prag.bench.encoding import packaged_lessons
from prag.config import CODECS, PAPER, SMALL
from prag.encode import encode_group
from prag.evaluate.texts import format_passages
from prag.plan import (
    Figure,
    Hardware,
    Shape,
    Use,
    adapted_of,
    break_even,
    costs_of,
    hardware_named,
    plan,
    read_hardware,
    shape_of,
    sizes_of,
    skeleton,
    workload,
)
from prag.plan import figures as bench_figures
from prag.plan.calibration import Timed, fitted, spread
from prag.plan.costs import generating_seconds, training_of
from prag.plan.operations import finishing, reading, training_steps
from prag.plan.workload import DRAWN, shared
from prag.precision import learner
from prag.quiet import quiet_of, shared_beginning
from prag.records import PragError
from prag.replay import sites_of

pytestmark = pytest.mark.fast

RESULTS = Path(__file__).parent.parent / "results" / "bench"
LOUD = replace(SMALL, train=replace(SMALL.train, quiet=0.0, epochs=2))
"""Nothing is measured on the packaged texts."""


def in_place(out, a, b, **_):
    """The torch counter passes over the product that is added in place."""
    (n, m, k), (_, _, p) = a, b
    return 2 * n * m * k * p


def counted(run):
    extra = {torch.ops.aten.baddbmm_: in_place}
    with FlopCounterMode(display=False, custom_mapping=extra) as counter, torch.enable_grad():
        run()
    return counter.get_total_flops()


def printed(out):
    """The JSON among what was printed; progress stands beside it."""
    found, _ = json.JSONDecoder().raw_decode(out[out.index("{") :])
    return found


def machine(**changed) -> Hardware:
    rates = {"train_flop_per_s": 1e12, "prefill_flop_per_s": 2e12, "memory_bytes_per_s": 1e11}
    return Hardware("a machine", **{k: Figure(v, "given") for k, v in {**rates, **changed}.items()})


# -- operations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("recipe", [PAPER, LOUD], ids=["paper", "loud"])
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family, recipe, attention):
    """To the last one, where a passage rests too; fused attention is what torch does not count."""
    base = tiny_model(family)
    base.model.set_attn_implementation(attention)
    lessons = packaged_lessons(base, recipe)[:2]
    lessons[0] = replace(lessons[0], examples=lessons[0].examples[:-1])
    shape, adapted = shape_of(base), adapted_of(base, recipe)
    steps = training_steps(shape, adapted, lessons, 0, recipe.train.epochs)
    made = sum(steps, finishing(adapted, 2))
    found = counted(lambda: encode_group(base, recipe.train, lessons))
    assert found == (made.total if attention == "eager" else made.products)


@pytest.mark.usefixtures("few_everyday")
def test_operations_with_a_beginning_that_is_read_once():
    base = tiny_model("llama", hidden=128)
    base.model.set_attn_implementation("eager")
    recipe = replace(SMALL, train=replace(SMALL.train, epochs=2))
    quiet = quiet_of(base, sites_of(base, recipe.train), recipe)
    assert quiet.read == shared(base, recipe) > 0
    lessons = packaged_lessons(base, recipe)[:2]
    shape, adapted = shape_of(base), adapted_of(base, recipe)
    steps = training_steps(shape, adapted, lessons, quiet.read, 2)
    made = sum(steps, finishing(adapted, 2)).total
    assert counted(lambda: encode_group(base, recipe.train, lessons, quiet)) == made


def test_the_bench_counts_the_same(tiny, monkeypatch):
    """But for what its counter passes over: the part of adapters that is added in place."""
    work = encoding._work(tiny, LOUD, 2, lambda *_: None)
    group = work.lessons[: encoding.COUNTED]
    shape, adapted = shape_of(tiny), adapted_of(tiny, LOUD)
    steps = training_steps(shape, adapted, group, 0, LOUD.train.epochs)
    made = sum(steps, finishing(adapted, 2)).products / 2
    theirs = encoding._flop_per_passage(work)
    assert theirs < made < 1.05 * theirs


def test_operations_of_reading_a_prompt(tiny):
    tiny.model.set_attn_implementation("eager")
    try:
        ids = torch.arange(2, 42)[None]
        with torch.no_grad():
            found = counted(lambda: tiny.model(ids, use_cache=False, logits_to_keep=1))
    finally:
        tiny.model.set_attn_implementation("sdpa")
    assert found == reading(shape_of(tiny), 40, 0).total


# -- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "numbers"),
    [("llama-3.2-1b", 1_235_814_400, 983_040), ("llama-3-8b", 8_030_261_248, 3_538_944)],
)
def test_built_in_shapes_have_the_published_numbers(
    name, parameters, numbers, monkeypatch, tmp_path
):
    """And an adapter of the paper's recipe: 2 (3 x hidden + 3 x wide) numbers a layer."""
    tiny_model("llama").tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("prag.plan.shape.packaged_folder", lambda: tmp_path)
    base = skeleton(name)
    assert shape_of(base).parameters == parameters
    assert adapted_of(base, PAPER).numbers == numbers
    assert all(p.device.type == "meta" for p in base.model.parameters())


def test_a_folder_has_the_shape_of_its_model(model_folder):
    loaded = tiny_model("llama", dtype=torch.float32)
    found = skeleton(str(model_folder))
    assert shape_of(found) == replace(shape_of(loaded), name=str(model_folder))
    for recipe in (PAPER, SMALL):
        assert adapted_of(found, recipe) == adapted_of(loaded, recipe)
        assert shared(found, recipe) == len(
            getattr(shared_beginning(loaded, sites_of(loaded, recipe.train), recipe), "ids", ())
        )


# -- bytes --------------------------------------------------------------------------------------


def built(base, folder, passages, recipe, codec=None):
    kb = KnowledgeBase.create(folder / "kb", base, recipe, codec=codec)
    kb.add(write_corpus(folder / "towers.jsonl", passages))
    return kb


@pytest.mark.parametrize("codec", ["float32", "base6"])
def test_bytes_of_adapters_are_those_of_a_store(codec, tmp_path):
    base = tiny_model("llama", dtype=torch.float32)
    kb = built(base, tmp_path, 24, PAPER, codec)
    kb.augment(augmenter=WrittenAugmenter())
    kb.build()
    passages = kb.passages()
    made = kb.augmentations_of({p.id for p in passages})
    work = workload(base, PAPER, len(passages), passages, made)
    sizes = sizes_of(work, adapted_of(base, PAPER), codec)
    shards = sum(f.stat().st_size for f in (kb.folder / "adapters" / "shards").iterdir())
    assert sizes.adapters == shards
    lines = sum(f.stat().st_size for f in (kb.folder / "augmentations").iterdir())
    assert sizes.augmentations == pytest.approx(lines)
    index = (kb.folder / "adapters" / "index.sqlite").stat().st_size
    assert sizes.adapter_index == pytest.approx(index, abs=32768)  # pages of 4,096 bytes
    assert kb.passages()
    with kb._store(readonly=True) as store:
        assert set(store.stored_bytes(store.keys()).values()) == {sizes.adapter}


def test_bytes_of_text_are_near_those_of_a_corpus(tmp_path):
    base = tiny_model("llama", dtype=torch.float32)
    kb = built(base, tmp_path, 400, PAPER)
    kb.augment(augmenter=WrittenAugmenter())
    kb.build(only=[kb.passages()[0].id])
    passages = kb.passages()
    made = kb.augmentations_of({p.id for p in passages[::8]})
    sizes = sizes_of(
        workload(base, PAPER, 400, passages[::8], made, source=str(tmp_path / "towers.jsonl")),
        adapted_of(base, PAPER),
        "float32",
    )
    corpus = (kb.folder / "corpus.sqlite").stat().st_size
    index = sum(f.stat().st_size for f in (kb.folder / "retrieval").rglob("*") if f.is_file())
    assert sizes.corpus == pytest.approx(corpus, rel=0.15)
    assert sizes.retrieval == pytest.approx(index, rel=0.15)


# -- the whole ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A tiny model, and what 12 packaged passages cost with it."""
    base = tiny_model("llama", dtype=torch.float32)
    adapted = adapted_of(base, LOUD)
    work = workload(base, LOUD, 12)
    return shape_of(base), adapted, work, sizes_of(work, adapted, "base6")


def test_the_whole_corpus_is_counted_as_its_sample(towers):
    shape, adapted, work, _ = towers
    groups = group_lessons(list(work.lessons), 1024)
    steps = [training_steps(shape, adapted, g, 0, LOUD.train.epochs) for g in groups]
    found, count = training_of(shape, adapted, work)
    assert count == sum(map(len, steps))
    finished = sum(finishing(adapted, len(g)).total for g in groups)
    assert found.total == pytest.approx(sum(s.total for each in steps for s in each) + finished)


@settings(max_examples=15)
@given(n=st.integers(1, 10**7), more=st.integers(1, 10**7))
def test_a_larger_corpus_costs_more(towers, n, more):
    shape, adapted, work, sizes = towers
    few, many = (
        costs_of(shape, adapted, replace(work, passages=p), sizes, machine(), Use())
        for p in (n, n + more)
    )
    assert all(few.hours[s] <= many.hours[s] for s in ("augment", "index"))
    if n + more > 1.1 * n + 100:  # groups of a few passages may be better filled by one more
        assert few.hours["encode"] <= many.hours["encode"] + 1e-12


def test_a_large_corpus_is_in_proportion(towers):
    shape, adapted, work, _ = towers
    one, _ = training_of(shape, adapted, replace(work, passages=DRAWN))
    ten, _ = training_of(shape, adapted, replace(work, passages=10 * DRAWN))
    assert ten.total == pytest.approx(10 * one.total, rel=1e-9)


@given(
    parametric=st.floats(1e-4, 10),
    slower=st.floats(1e-6, 10),
    ahead=st.floats(0, 1e6),
    price=st.floats(0.01, 100),
    storage=st.floats(0, 1e6),
)
def test_break_even_is_where_both_have_cost_the_same(parametric, slower, ahead, price, storage):
    found = break_even(parametric, parametric + slower, ahead, price, storage)
    context = parametric + slower

    def money(questions, each, before):
        return before + questions * each / 3600 * price

    assert ahead + found.hours * parametric / 3600 == pytest.approx(
        found.hours * context / 3600, rel=1e-6, abs=1e-9
    )
    assert money(found.money, parametric, ahead * price + storage) == pytest.approx(
        money(found.money, context, 0.0), rel=1e-6, abs=1e-9
    )


def test_never_has_a_reason():
    found = break_even(0.2, 0.1, 5.0, 1.0, 0.0)
    assert (found.hours, found.money) == (None, None)
    assert "never" in found.reason
    assert "0.2 s" in found.reason
    assert break_even(0.1, 0.2, 5.0, 0.0, 0.0).money is None
    assert "storage" in break_even(0.1, 0.2, 5.0, 0.0, 1.0).reason


def test_break_even_of_a_plan_is_that_of_its_rows(towers):
    """In money: after so many questions both methods have cost the same, but for the text's own."""
    shape, adapted, work, sizes = towers
    hardware = machine(load_numbers_per_s=1e12, adapted=1.0).priced(2.0, 0.5)
    even = costs_of(shape, adapted, work, sizes, hardware, Use()).break_even["in-context-3"]
    assert even.money is not None
    use = Use(questions=max(1, round(even.money)))
    ways = costs_of(shape, adapted, work, sizes, hardware, use).ways
    assert ways["parametric"].money == pytest.approx(ways["in-context-3"].money, rel=1e-3)


def test_an_answer_costs_what_its_parts_do(towers):
    shape, adapted, work, sizes = towers
    hardware = machine(question_s=1.0, adapted=1.0, load_numbers_per_s=1e6, search_s=0.5)
    ways = costs_of(shape, adapted, work, sizes, hardware, Use(contexts=(3, 5))).ways
    assert 1.0 < ways["closed-book"].seconds < 1.1
    load = 3 * adapted.numbers / 1e6
    assert ways["parametric"].seconds == pytest.approx(
        ways["closed-book"].seconds + load + 12 * 0.5, rel=0.01
    )
    assert ways["in-context-5"].prompt_tokens > ways["in-context-3"].prompt_tokens
    # Recipe `small` asks combined twice.
    assert ways["combined-3"].seconds > ways["in-context-3"].seconds + 1.0
    many = costs_of(shape, adapted, work, sizes, hardware, Use(rows=10)).ways
    assert many["closed-book"].seconds == pytest.approx(ways["closed-book"].seconds / 10, rel=0.1)


def test_a_zero_price_is_no_money(towers):
    shape, adapted, work, sizes = towers
    found = costs_of(shape, adapted, work, sizes, machine().priced(0.0, 0.0), Use())
    assert found.money == 0.0
    assert all(way.money == 0.0 for way in found.ways.values())


def test_pairs_that_a_model_writes_cost_what_it_writes(tiny):
    shape = shape_of(tiny)
    work = workload(tiny, PAPER, 100)
    assert [len(a) for a in work.asked] == [2] * 12  # a rewrite, and a list of pairs
    adapted = adapted_of(tiny, PAPER)
    sizes = sizes_of(work, adapted, "float32")
    hardware = machine()

    def hours(use):
        return costs_of(shape, adapted, work, sizes, hardware, use).hours["augment"]

    alone = sum(
        generating_seconds(shape, hardware, a.prompt, a.written, 1)
        for each in work.asked
        for a in each
    )
    assert hours(Use(augment_rows=1)) == pytest.approx(alone / 3600 * 100 / 12)
    assert hours(Use(tries=2.5)) == pytest.approx(2.5 * hours(Use()))
    assert hours(Use(augment_rows=12)) < hours(Use(augment_rows=1))


def test_a_prompt_that_does_not_fit_is_refused(towers):
    shape, adapted, work, sizes = towers
    with pytest.raises(PragError, match="do not fit"):
        costs_of(shape, adapted, work, sizes, machine(), Use(contexts=(100,)))


# -- calibration --------------------------------------------------------------------------------


@given(
    step=st.floats(1e-4, 1.0),
    rate=st.floats(1e9, 1e13),
    sizes=st.lists(st.floats(1e8, 1e12), min_size=3, max_size=20, unique=True),
)
def test_the_fit_finds_what_steps_were_made_of(step, rate, sizes):
    timed = [Timed(flop, step + flop / rate) for flop in sizes]
    found_step, found_rate = fitted(timed)
    for t in timed:
        assert found_step + t.operations / found_rate == pytest.approx(t.seconds, rel=1e-3)


def test_the_fit_is_never_below_nothing():
    step, rate = fitted([Timed(1e9, 1.0), Timed(2e9, 2.5), Timed(4e9, 6.0)])
    assert step == 0.0
    assert rate == pytest.approx(7e9 / 9.5)
    with pytest.raises(PragError, match="no training step"):
        fitted([])


def test_groups_of_many_sizes_are_timed(tiny):
    groups = group_lessons(packaged_lessons(tiny, LOUD), 1024)
    chosen = spread(groups)
    assert all(group in groups for group in chosen)
    assert len({id(g) for g in chosen}) == len(chosen) == min(3, len(groups))


@pytest.mark.usefixtures("few_everyday")
def test_this_machine_is_timed(prag, model_folder):
    code, out = prag(
        "plan",
        "--corpus",
        50,
        "--model",
        model_folder,
        "--seconds",
        0,
        "--json",
    )
    assert code == 0, out
    found = printed(out)
    figures = found["hardware"]["figures"]
    measured = {name for name, f in figures.items() if f["origin"] == "measured"}
    assert measured == figures.keys() - {"search_s", "price_per_hour", "storage_per_gb_month"}
    assert all(hours >= 0 for hours in found["hours"].values())
    assert found["made_by"]["command"].startswith("prag plan")


# -- what was measured before -------------------------------------------------------------------


@pytest.fixture
def bench_of_tiny(monkeypatch, tmp_path):
    """Files as `prag bench` prints them, and the tiny model for the one they are of."""
    tiny = tiny_model("llama", dtype=torch.float32)
    monkeypatch.setattr(bench_figures, "skeleton", lambda _: tiny)
    monkeypatch.setattr(bench_figures, "default_recipe", lambda _: LOUD)
    return [RESULTS / "encode.json", RESULTS / "answer.json"]


def test_figures_of_the_bench_give_back_what_was_timed(bench_of_tiny):
    """The passages that it trained take the time that they took, and so do its answers."""
    found = bench_figures.hardware_of(bench_of_tiny, LOUD, 1)
    base = tiny_model("llama", dtype=torch.float32)
    shape, adapted = shape_of(base), adapted_of(base, LOUD)
    answer = json.loads(bench_of_tiny[1].read_text())
    packaged = format_passages()
    asks = [f"What is {p.title} known for?" for p, _ in packaged]
    texts, made = [p for p, _ in packaged], {p.id: a for p, a in packaged}
    work = workload(base, LOUD, 36, texts, made, asks)
    operations, _ = training_of(shape, adapted, work)
    encode = json.loads(bench_of_tiny[0].read_text())
    seconds = operations.total / found.train_flop_per_s.value
    assert seconds == pytest.approx(36 / encode["passages_per_s"], rel=1e-3)
    assert found.train_flop_per_s.origin == "measured"
    assert "prag bench encode" in found.train_flop_per_s.note
    ways = costs_of(
        shape, adapted, work, sizes_of(work, adapted, "base6"), found, Use(contexts=(3, 10))
    ).ways
    # Prompts with passages are tests/test_plan_real.py's: one token a byte is a lot of keys.
    for name in ("closed-book", "parametric"):
        assert ways[name].seconds == pytest.approx(answer["ways"][name]["seconds"], rel=0.2), name


def test_figures_of_another_recipe_are_refused(bench_of_tiny):
    other = replace(LOUD, name="mine", train=replace(LOUD.train, rank=8))
    with pytest.raises(PragError, match="none of mine"):
        bench_figures.hardware_of(bench_of_tiny, other, 1)
    with pytest.raises(PragError, match="--rows 1"):
        bench_figures.hardware_of(bench_of_tiny, LOUD, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not end with a line"),
        ("not json", "does not end with a line"),
        (
            '{"made_by": {"command": "prag bench store", "commit": "x", "processor": "y"}}',
            "another",
        ),
    ],
)
def test_a_file_that_is_no_bench_is_refused(text, said, tmp_path):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(PragError, match=said):
        bench_figures.read_figures(tmp_path / "f.json")


def test_half_of_the_figures_is_not_enough():
    with pytest.raises(PragError, match="bench answer --json"):
        bench_figures.hardware_of([RESULTS / "encode.json"], SMALL, 1)


# -- what a user gets wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--corpus", -3], "at least 1 passage"),
        (["--corpus", 5, "--hardware", "abacus"], "no hardware 'abacus'"),
        (["--corpus", 5, "--codec", "zip"], "no codec 'zip'"),
        (["--corpus", 5, "--price", -1], "--price is at least 0"),
        (["--corpus", 5, "--questions", 0], "questions is at least 1"),
        (["--corpus", 5, "--rows", 0], "rows is at least 1"),
        (["--corpus", 5, "--months", -1], "months is at least 0"),
        (["--corpus", 5, "--contexts", "three"], "numbers of passages"),
        (["--corpus", 5, "--model", "llama-3-8b"], "cannot be timed"),
        (["--corpus", 5, "--hardware", "h100", "--figures", "x.json"], "exclude each other"),
        (["--corpus", 5, "--hardware", "h100", "--model", "/no/such"], "no shape of the model"),
        (["--corpus", 5, "--recipe", "none"], "no recipe"),
        (["--corpus", 5, "--figures", "/no/such.json", "--model", "{model}"], "cannot be read"),
        (
            ["--corpus", 5, "--hardware", "h100", "--model", "{model}", "--sample", "/no/such"],
            "cannot be read",
        ),
    ],
)
def test_bad_input_is_an_error_that_says_so(prag, model_folder, words, said):
    code, out = prag("plan", *[model_folder if w == "{model}" else w for w in words])
    assert code == 1, out
    assert said in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train_flop_per_s = 1e12", "lacks memory_bytes_per_s, prefill_flop_per_s"),
        ("flops = 1", "fields that are not known: flops"),
        ("train_flop_per_s = 'fast'\nprefill_flop_per_s = 1\nmemory_bytes_per_s = 1", "no"),
        ("train_flop_per_s = 0\nprefill_flop_per_s = 1\nmemory_bytes_per_s = 1", "above 0"),
        ("train_flop_per_s = nan\nprefill_flop_per_s = 1\nmemory_bytes_per_s = 1", "above 0"),
        (
            "price_per_hour = -1\ntrain_flop_per_s = 1\nprefill_flop_per_s = 1\n"
            "memory_bytes_per_s = 1",
            "at least 0",
        ),
        ("= =", "cannot be read"),
    ],
)
def test_a_hardware_file_with_wrong_fields_is_refused(text, said, tmp_path):
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(PragError, match=said):
        read_hardware(tmp_path / "box.toml")


def test_a_hardware_file_is_given_and_the_rest_is_assumed(tmp_path, prag, model_folder):
    path = tmp_path / "box.toml"
    path.write_text(
        "name = 'box'\ntrain_flop_per_s = 1e12\nprefill_flop_per_s = 2e12\n"
        "memory_bytes_per_s = 1e11\nprice_per_hour = 2\n"
    )
    code, out = prag("plan", "--corpus", 50, "--model", model_folder, "--hardware", path, "--json")
    assert code == 0, out
    found = printed(out)
    figures = found["hardware"]["figures"]
    assert figures["price_per_hour"] == {
        "value": 2.0, "origin": "given", "note": str(path), "unit": "money/h",
    }  # fmt: skip
    assert figures["adapted"]["origin"] == "assumed"
    for name, figure in figures.items():
        said = any(line.startswith(f"{name} =") for line in found["assumptions"])
        assert said == (figure["origin"] == "assumed"), name
    assert found["money"] == pytest.approx(2 * sum(found["hours"].values()))


def test_nothing_of_a_data_sheet_is_called_measured():
    found = hardware_named("h100")
    assert {f.origin for f in found.figures.values()} == {"assumed"}
    assert "guess" in found.train_flop_per_s.note


def test_the_tables_say_all(prag, model_folder):
    code, out = prag(
        "plan", "--corpus", 5000, "--model", model_folder, "--hardware", "h100", "--price", 2,
        "--contexts", "3,5",
    )  # fmt: skip
    assert code == 0, out
    for word in ("5,000 passages", "in-context-5", "combined-3", "assumed, not measured",
                 "parametric against in-context-3", "a guess", "closed-book"):  # fmt: skip
        assert word in out, word


def test_a_sample_is_a_corpus_or_a_knowledge_base(built_kb, model_folder, tmp_path):
    towers = write_corpus(tmp_path / "t.jsonl", 3)
    one = plan(9, str(model_folder), SMALL, hardware="h100", sample=towers)
    two = plan(9, str(model_folder), SMALL, hardware="h100", sample=built_kb)
    assert one.work.sample == two.work.sample
    assert one.costs.operations == two.costs.operations
    assert one.costs.break_even == two.costs.break_even
    with pytest.raises(PragError, match="written by a model"):
        plan(9, str(model_folder), PAPER, hardware="h100", sample=towers)


def test_augmentations_made_elsewhere_say_what_is_trained_on(model_folder, tmp_path):
    passages = [p for p, _ in format_passages()]
    towers = tmp_path / "p.jsonl"
    towers.write_text(
        "".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages)
    )
    rows = [
        {"id": p.id[:12], "rewrite": a.rewrites[0], "qa": [asdict(q) for q in a.pairs]}
        for p, a in format_passages()
    ]
    made = tmp_path / "a.jsonl"
    made.write_text("".join(json.dumps(r) + "\n" for r in rows))
    given_ = plan(12, str(model_folder), PAPER, hardware="h100", sample=towers, augmentations=made)
    packaged = plan(12, str(model_folder), PAPER, hardware="h100")
    assert given_.costs.operations == packaged.costs.operations
    assert math.isclose(given_.work.tokens_trained, packaged.work.tokens_trained)


def test_what_is_not_counted_is_refused(tiny):
    spans = replace(SMALL, augment=replace(SMALL.augment, style="spans"))
    with pytest.raises(PragError, match="spans"):
        workload(tiny, spans, 5)


def test_the_precision_of_training_is_the_recipes(tiny):
    """The model that is timed is the one that a build trains on."""
    assert learner(tiny, SMALL.train.precision) is tiny  # float64 is taken as it is
    assert isinstance(shape_of(tiny), Shape)
    assert set(CODECS) >= {"float32", "base6"}

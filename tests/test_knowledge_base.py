"""The life of a knowledge base, on a tiny model."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import tiny_model
from kb_helpers import WrittenAugmenter, adapters_of, write_corpus
from prag import KnowledgeBase, PragError, trainer
from prag.config import PAPER
from prag.corpus import Catalogue
from prag.generate import TransformersEngine
from prag.knowledge_base import augmentations, build
from prag.lora import merge
from prag.methods.base import relative
from prag.prompts import Lesson
from prag.records import Document, Hit, Passage
from prag.retrieval import ReplacedError
from prag.store import AdapterStore, codecs

pytestmark = pytest.mark.fast

QUICK = replace(PAPER, name="quick", augment=replace(PAPER.augment, pairs=2))


@pytest.fixture(scope="module")
def base():
    return tiny_model("llama", dtype=torch.float32)


@pytest.fixture
def kb(base, tmp_path):
    """Six passages, augmented and built."""
    kb = KnowledgeBase.create(tmp_path / "kb", base, QUICK)
    kb.add(write_corpus(tmp_path / "towers.jsonl", 6))
    kb.augment(augmenter=WrittenAugmenter())
    kb.build()
    return kb


def test_build_encodes_each_passage_once_and_then_nothing(kb):
    again = kb.build()
    assert (again.encoded, again.kept, again.damaged) == (0, 6, 0)
    status = kb.status()
    assert status.up_to_date
    assert (status.documents, status.passages, status.encoded) == (6, 6, 6)
    assert status.augmented == {"endpoint:written": 6}
    assert kb.verify().problems == ()


def test_a_corpus_is_built_a_slice_at_a_time(kb, base, tmp_path, monkeypatch):
    """As many lessons in memory as a slice has passages; what a slice has is kept or trained."""
    monkeypatch.setattr(augmentations, "SLICE", 2)
    sizes, told = [], []
    plan = build.plan_lessons

    def counted(*args):
        made = plan(*args)
        sizes.append(len(made.lessons))
        return made

    monkeypatch.setattr(build, "plan_lessons", counted)
    with kb._store() as store:
        (first,) = [k for k in store.keys() if k.passage == kb.passages()[0].id]  # noqa: SIM118
        before = store.read(first)
        store.discard([first])
    kb.add(write_corpus(tmp_path / "more.jsonl", 3, start=6))
    kb.augment(augmenter=WrittenAugmenter())
    report = kb.build(lambda *word: told.append(word))
    assert sizes == [2, 2, 2, 2, 1]
    assert (report.encoded, report.kept) == (4, 5)
    encode = [(done, total) for stage, done, total in told if stage == "encode"]
    assert encode[0] == (0, 8), "nothing is known yet of the slices after the first"
    assert encode[-1] == (4, 4)
    assert [done for done, _ in encode] == sorted(done for done, _ in encode)
    again = adapters_of(kb)[first]
    for name, pair in before.factors.items():  # in another group: the same but for rounding
        for one, other in zip(pair, again.factors[name], strict=True):
            assert (one - other).norm() < 0.01 * one.norm()


def test_progress_goes_by_tokens():
    """Short passages train first: six of eight are done when half of the tokens are."""
    told = []
    meter = build._Meter(lambda *word: told.append(word), SimpleNamespace(total=8))
    short, long = [Lesson(f"{i}", ()) for i in range(6)], [Lesson(f"{i}", ()) for i in (6, 7)]
    for group in (short, long):
        meter.expect(group, 8 * 300 / 600, 300)
    for group in (short, long):
        step = meter.within(group)
        step(150)
        step(150)
        meter.over(group)
    assert told == [("encode", done, 8) for done in (2, 4, 4, 6)], "the last word is the build's"


def test_the_corpus_is_looked_through_again_only_after_a_change(kb, base, tmp_path, monkeypatch):
    looked = []
    digest = Catalogue.digest
    monkeypatch.setattr(Catalogue, "digest", lambda self: looked.append(1) or digest(self))
    question = "Who built Calver2?"
    first = [kb.ask(question, "in-context", top_k=6) for _ in range(3)]
    assert len(looked) == 1
    elsewhere = KnowledgeBase.open(kb.folder, base)
    gone = next(p.id for p in kb.passages() if p.title == "Calver2")
    elsewhere.withdraw([gone])
    looked.clear()
    after = [kb.ask(question, "in-context", top_k=6) for _ in range(3)]
    assert len(looked) == 1
    for before, now in zip(first, after, strict=True):
        assert gone in {s.passage_id for s in before.sources}
        assert gone not in {s.passage_id for s in now.sources}
    elsewhere.add(tmp_path / "towers.jsonl")
    elsewhere.build()
    assert gone in {s.passage_id for s in kb.ask(question, "in-context", top_k=6).sources}


def test_an_index_that_was_replaced_is_opened_again(kb):
    """A build replaces it before it says so in prag.json; a question may come in between."""

    class Gone:
        def search(self, questions, k, allowed=None):
            raise ReplacedError("gone")

    before = kb.ask("Who built Calver2?", "in-context")
    kb.__dict__["_retriever"] = Gone()
    assert kb.ask("Who built Calver2?", "in-context").sources == before.sources


def test_four_methods_say_what_they_used(kb):
    question = "Who built Calver2?"
    answers = {
        m: kb.ask(question, m) for m in ("closed-book", "in-context", "parametric", "combined")
    }
    assert answers["closed-book"].sources == ()
    top = answers["parametric"].sources
    assert top[0].title == "Calver2"
    assert all(s.adapter and not s.in_prompt for s in top)
    assert all(s.adapter is None and s.in_prompt for s in answers["in-context"].sources)
    assert all(s.adapter and s.in_prompt for s in answers["combined"].sources)
    assert answers["parametric"].prompt_tokens == answers["closed-book"].prompt_tokens
    assert answers["combined"].prompt_tokens == answers["in-context"].prompt_tokens
    assert {"retrieve", "load", "generate"} <= set(answers["parametric"].timings)
    assert len({a.raw for a in answers.values()}) == 4


def test_ask_many_equals_ask_one_by_one(kb):
    questions = ["Who built Calver2?", "Which tower has 24 metres?", "When was Brixo1 built?"]
    together = kb.ask_many(questions, "combined", top_k=2)
    for question, answer in zip(questions, together, strict=True):
        alone = kb.ask(question, "combined", top_k=2)
        assert (alone.raw, alone.sources) == (answer.raw, answer.sources)


def test_a_recipe_can_route_to_the_best_passage_and_says_so(kb):
    kb.build(recipe=replace(QUICK, merge="best"))
    answer = kb.ask("Who built Calver2?")
    assert [bool(s.adapter) for s in answer.sources] == [True, False, False]
    assert any("best passage's adapter alone" in note for note in answer.notes)


def test_beside_the_text_adapters_count_as_the_recipe_says(kb, monkeypatch):
    asked = []
    generate = TransformersEngine.generate

    def noted(engine, requests, config):
        asked.extend(requests)
        return generate(engine, requests, config)

    monkeypatch.setattr(TransformersEngine, "generate", noted)
    kb.build(recipe=replace(QUICK, beside_text=0.25))
    for method in ("parametric", "combined"):
        kb.ask("Who built Calver2?", method)
    alone, beside = (request.adapters.factors for request in asked)
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[n][0], beside[n][0]) for n in alone)
    assert all(torch.equal(0.25 * alone[n][1], beside[n][1]) for n in alone)
    assert any(B.any() for _, B in alone.values())


def test_a_recipe_can_leave_offered_answers_to_the_base_model(kb):
    offered, asked = "Is Calver2 older than Brixo1?", "Who built Calver2?"
    before = {q: kb.ask(q).raw for q in (offered, asked)}
    kb.build(recipe=replace(QUICK, offered="base"))
    for method, same in (("parametric", "closed-book"), ("combined", "in-context")):
        answer = kb.ask(offered, method)
        assert answer.raw == kb.ask(offered, same).raw
        assert answer.sources
        assert all(s.adapter is None for s in answer.sources)
        assert any("offers its answers" in note for note in answer.notes)
        assert answer.adapter_bytes == 0
    assert before[offered] != kb.ask(offered, "closed-book").raw
    other = kb.ask(asked)
    assert other.raw == before[asked]
    assert all(s.adapter for s in other.sources)


def test_a_recipe_can_weigh_adapters_by_the_scores_of_their_passages(kb):
    kb.build(recipe=replace(QUICK, merge="score"))
    library, ids = kb.library(), [p.id for p in kb.passages()][:3]
    hits = [Hit(i, score, n) for n, (i, score) in enumerate(zip(ids, (8.0, 2.0, 0.0), strict=True))]
    there, without = library.adapters(hits)
    assert [hit.passage_id for hit, _ in there] == ids[:2], "a score of 0 is not in the weights"
    assert without == []
    made = library.merged(there)
    expected = merge([s.adapter for _, s in there], [1.0, 0.25])
    for name, (A, B) in expected.factors.items():
        assert torch.equal(made.factors[name][0], A)
        assert torch.equal(made.factors[name][1], B)
    alike, _ = library.adapters([Hit(i, 0.0, n) for n, i in enumerate(ids)])
    assert len(alike) == 3, "where no score is above 0 all count alike"
    assert library.merged([]) is None
    answer = kb.ask("Who built Calver2?")
    assert answer.sources[0].adapter


@given(st.lists(st.floats(-5, 50, allow_nan=False), max_size=6))
def test_weights_by_score_are_shares_of_the_best(scores):
    weights = relative(scores)
    assert len(weights) == len(scores)
    assert all(0 <= w <= 1 for w in weights)
    assert not scores or max(weights) == 1
    if scores and max(scores) > 0:
        shares = [w * max(scores) for w in weights]
        assert shares == pytest.approx([max(s, 0.0) for s in scores])


def test_a_question_without_hits_is_an_error_and_spares_the_others(kb):
    with pytest.raises(PragError, match="no passage fits the question"):
        kb.ask("zyzzyva qwertyuiop?")
    good, bad = kb.ask_many(["Who built Calver2?", "zyzzyva qwertyuiop?"])
    assert good.error is None
    assert good.raw
    assert bad.error is not None
    with pytest.raises(PragError, match="empty"):
        kb.ask("  ? ")
    assert kb.ask("zyzzyva qwertyuiop?", "closed-book").raw


def test_changed_document_replaces_its_passages(kb, tmp_path):
    before = adapters_of(kb)
    path = tmp_path / "towers.jsonl"
    path.write_text(path.read_text().replace("mason2", "mason222"))
    report, _ = kb.add(path)
    assert (report.added, report.replaced, report.unchanged) == (0, 1, 5)
    kb.augment(augmenter=WrittenAugmenter())
    built = kb.build()
    assert (built.encoded, built.kept, built.discarded) == (1, 5, 1)
    after = adapters_of(kb)
    assert len(after) == 6
    assert len(before.keys() & after.keys()) == 5
    assert kb.ask("Who built Calver2?").sources[0].text.count("mason222") == 1


def test_same_documents_twice_do_nothing(kb, tmp_path):
    report, _ = kb.add(tmp_path / "towers.jsonl")
    assert (report.added, report.replaced, report.unchanged) == (0, 0, 6)
    assert kb.build().encoded == 0


def test_withdrawn_is_gone_at_once(kb):
    source = kb.ask("Who built Calver2?").sources[0]
    kb.withdraw([source.passage_id])
    answer = kb.ask("Who built Calver2?")
    assert source.passage_id not in {s.passage_id for s in answer.sources}
    assert any("changed since the last build" in note for note in answer.notes)
    assert all(key.passage != source.passage_id for key in adapters_of(kb))
    for file in (kb.folder / "augmentations").glob("*.jsonl"):
        assert source.passage_id not in file.read_text()
    with pytest.raises(PragError):
        kb.withdraw([source.passage_id])
    assert kb.build().encoded == 0
    assert kb.verify().problems == ()


def test_added_and_not_built_is_said(kb):
    kb.add_documents([Document("new", "here", (Passage("Zorn", "Zorn is a tower of glass."),))])
    answer = kb.ask("Who built Calver2?")
    assert any("changed since the last build" in note for note in answer.notes)
    assert not kb.status().up_to_date


def test_wrong_base_model_is_refused(kb):
    other = tiny_model("llama", seed=1, dtype=torch.float32)
    with pytest.raises(PragError, match="restore that model"):
        KnowledgeBase.open(kb.folder, other)


def test_wrong_base_model_in_the_place_of_the_right_one(kb, tmp_path):
    folder = tmp_path / "model"
    other = tiny_model("llama", seed=1, dtype=torch.float32)
    other.model.save_pretrained(folder)
    other.tokenizer.save_pretrained(folder)
    settings = (kb.folder / "prag.json").read_text()
    (kb.folder / "prag.json").write_text(settings.replace('"tiny-llama"', f'"{folder}"'))
    with pytest.raises(PragError, match=f"{kb.settings.base}.*restore that model"):
        KnowledgeBase.open(kb.folder).ask("Who built Calver2?")


def test_another_recipe_is_refused_until_it_is_built(kb):
    other = replace(QUICK, train=replace(QUICK.train, rank=4))
    with pytest.raises(PragError, match=r"another recipe .* `prag build`"):
        kb.ask("Who built Calver2?", recipe=other)
    kb.build(recipe=other)
    assert kb.ask("Who built Calver2?", recipe=other).sources[0].adapter
    assert len(adapters_of(kb)) == 12, "the adapters of the first recipe are kept"
    assert kb.build(recipe=QUICK).encoded == 0


def test_changed_augmentation_is_trained_again(kb):
    class Other(WrittenAugmenter):
        def _one(self, p):
            made = super()._one(p)
            return replace(made, pairs=(replace(made.pairs[0], answer="another"),))

    path = kb._augmentations.file("endpoint:written")
    path.append(Other().augment(list(kb._catalogue().passages())[:2]))
    report = kb.build()
    assert (report.encoded, report.kept) == (2, 4)


def test_flipped_byte_is_found_named_and_mended(kb):
    good = adapters_of(kb)
    shard = max((kb.folder / "adapters" / "shards").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    report = kb.verify()
    assert len(report.problems) == 1
    assert shard.name.split(".")[0] in report.problems[0]
    assert "prag build" in report.problems[0]
    mended = kb.build()
    assert mended.damaged >= 1
    assert mended.encoded == mended.damaged
    assert kb.verify().problems == ()
    same = adapters_of(kb)
    assert good.keys() == same.keys()
    for key, adapter in good.items():
        for name, (A, B) in adapter.factors.items():
            torch.testing.assert_close(same[key].factors[name][0], A, rtol=0, atol=1e-4)
            torch.testing.assert_close(same[key].factors[name][1], B, rtol=0, atol=1e-3)


def test_a_stopped_build_goes_on_with_the_groups_it_would_have_had(base, tmp_path, monkeypatch):
    encode = trainer.encode_group
    groups: list[list[str]] = []

    def recorded(base, train, lessons, *others):
        if len(groups) == stop_after:
            raise KeyboardInterrupt
        groups.append([lesson.passage_id for lesson in lessons])
        return encode(base, train, lessons, *others)

    monkeypatch.setattr(trainer, "encode_group", recorded)
    seen = []
    for name, stop_after in (("calm", 99), ("stopped", 2)):
        kb = KnowledgeBase.create(tmp_path / name, base, QUICK)
        kb.add(write_corpus(tmp_path / "towers.jsonl", 10))
        kb.augment(augmenter=WrittenAugmenter())
        groups.clear()
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                kb.build(tokens_a_step=700)
            stop_after = 99
        kb.build(tokens_a_step=700)
        seen.append(list(groups))
    assert seen[0] == seen[1]
    assert len(seen[0]) > 3


def test_damaged_index_is_found_and_mended(kb):
    files = [p for p in (kb.folder / "retrieval").rglob("*.npy") if p.stat().st_size > 200]
    data = bytearray(files[0].read_bytes())
    data[-3] ^= 255
    files[0].write_bytes(data)
    assert any("retrieval index" in problem for problem in kb.verify().problems)
    kb.build()
    assert kb.verify().problems == ()


def test_damage_stops_an_answer(kb):
    for shard in (kb.folder / "adapters" / "shards").glob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        shard.write_bytes(data)
    answers = kb.ask_many([f"Who built {n}?" for n in ("Calver2", "Brixo1", "Estrel4")])
    assert all(a.error and "prag build" in a.error for a in answers)


def test_an_adapter_is_read_once_and_again_after_a_build(kb, monkeypatch):
    read = []
    usual = AdapterStore.read
    monkeypatch.setattr(
        AdapterStore, "read", lambda self, key, *more: read.append(key) or usual(self, key, *more)
    )
    first = kb.ask("Who built Calver2?", method="parametric")
    assert len(read) == len(set(read)) > 0
    again = kb.ask("Who built Calver2?", method="parametric")
    assert (again.raw, again.adapter_bytes) == (first.raw, first.adapter_bytes)
    assert len(read) == len(set(read))
    kb.build()
    kb.ask("Who built Calver2?", method="parametric")
    assert len(read) == 2 * len(set(read))


def test_passage_without_pairs_is_left_out_and_said(base, tmp_path):
    class Nothing(WrittenAugmenter):
        def _one(self, p):
            made = super()._one(p)
            return replace(made, pairs=()) if p.title == "Calver2" else made

    kb = KnowledgeBase.create(tmp_path / "kb", base, QUICK)
    kb.add(write_corpus(tmp_path / "towers.jsonl", 4))
    kb.augment(augmenter=Nothing())
    report = kb.build()
    assert len(report.left_out) == 1
    assert kb.status().left_out == report.left_out
    assert kb.status().up_to_date
    answer = kb.ask("Who built Calver2?", top_k=1)
    assert answer.sources[0].adapter is None
    assert any("has no adapter" in note for note in answer.notes)


def test_imported_augmentations_come_first_and_keep_their_origin(kb, tmp_path):
    passage = next(iter(kb._catalogue().passages()))
    file = tmp_path / "strong.jsonl"
    file.write_text(
        f'{{"id": "{passage.id[:12]}", "rewrite": "R", "qa": [{{"question": "Q one two?", '
        f'"answer": "A", "full_answer": "F"}}]}}\n'
        '{"id": "000000000000", "rewrite": "R", "qa": []}\n'
    )
    report = kb.augment_from(file)
    assert (report.imported, report.unknown) == (1, 1)
    assert report.origin.startswith("file:strong@")
    built = kb.build()
    assert built.encoded == 1
    assert built.origins == {report.origin: 1, "endpoint:written": 5}
    answer = kb.ask(f"Who built {passage.title}?", top_k=1)
    recipe = kb.settings.recipe
    assert answer.sources[0].adapter.endswith(recipe.fingerprint(report.origin))
    assert recipe.fingerprint(report.origin) != recipe.fingerprint("endpoint:written")


def test_two_writers_do_not_meet(kb):
    other = KnowledgeBase.open(kb.folder, kb.base)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with kb._writing():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    try:
        with pytest.raises(PragError, match="another process is writing"):
            other.build()
        assert other.ask("Who built Calver2?").raw, "reading goes on"
    finally:
        leave.set()
        thread.join()
    assert other.build().encoded == 0


def test_a_reader_sees_what_another_process_built(kb, tmp_path):
    reader = KnowledgeBase.open(kb.folder, kb.base)
    reader.ask("Who built Calver2?")
    kb.add(write_corpus(tmp_path / "more.jsonl", 2, start=6))
    kb.augment(augmenter=WrittenAugmenter())
    kb.build()
    assert reader.ask("Who built Gorran6?").sources[0].title == "Gorran6"


def test_copied_folder_is_the_same_knowledge_base(kb, tmp_path):
    import shutil

    shutil.copytree(kb.folder, tmp_path / "copy")
    copy = KnowledgeBase.open(tmp_path / "copy", kb.base)
    assert copy.ask("Who built Calver2?").raw == kb.ask("Who built Calver2?").raw
    assert copy.build().encoded == 0


def test_nothing_to_build_and_not_built_yet(base, tmp_path):
    kb = KnowledgeBase.create(tmp_path / "kb", base)
    with pytest.raises(PragError, match="no passages"):
        kb.build()
    with pytest.raises(PragError, match="not built yet"):
        kb.ask("Who built Calver2?")
    with pytest.raises(PragError, match="already"):
        KnowledgeBase.create(tmp_path / "kb", base)
    with pytest.raises(PragError, match="no knowledge base"):
        KnowledgeBase.open(tmp_path / "none")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adapters_in_half_the_bytes(kb, base, tmp_path, dtype):
    half = KnowledgeBase.create(tmp_path / "half", base, QUICK, codec=dtype)
    half.add(tmp_path / "towers.jsonl")
    half.augment(augmenter=WrittenAugmenter())
    half.build()
    assert half.status().store.bytes_live * 2 == kb.status().store.bytes_live
    for key, adapter in adapters_of(half).items():
        for name, (A, _) in adapters_of(kb)[key].factors.items():
            rounded = A.to(getattr(torch, dtype)).to(A.dtype)
            assert torch.equal(adapter.factors[name][0], rounded)
    with pytest.raises(PragError, match="no codec 'int3'"):
        KnowledgeBase.create(tmp_path / "other", base, codec="int3")


def test_a_recipe_says_how_its_adapters_are_stored(base, tmp_path):
    few = replace(QUICK, codec="base6")
    assert KnowledgeBase.create(tmp_path / "a", base, QUICK).settings.codec == "float32"
    assert KnowledgeBase.create(tmp_path / "b", base, few).settings.codec == "base6"
    assert KnowledgeBase.open(tmp_path / "b", base).settings.codec == "base6"
    told = KnowledgeBase.create(tmp_path / "c", base, few, codec="int8")
    assert (told.settings.codec, told.settings.recipe) == ("int8", few)
    told.add(write_corpus(tmp_path / "towers.jsonl", 2))
    told.augment(augmenter=WrittenAugmenter())
    told.build(recipe=replace(few, merge="best"))
    assert told.settings.codec == "int8"
    with AdapterStore.open(told.folder / "adapters", readonly=True) as store:
        factors = store.read(store.keys()[0]).factors
        numbers = sum(A.numel() + B.numel() for A, B in factors.values())
        assert set(store.stored_bytes(store.keys()).values()) == {codecs.length("int8", numbers)}


def test_export_writes_one_folder_a_passage(kb, tmp_path):
    folders = kb.export(tmp_path / "out")
    assert len(folders) == 6
    assert all((f / "adapter_config.json").exists() for f in folders)


def test_an_index_whose_making_was_killed_is_no_damage(tmp_path, tiny):
    """SQLite had grown the file, and the tables in it were never committed."""
    kb = KnowledgeBase.create(tmp_path / "kb", model=tiny)
    kb.add([write_corpus(tmp_path / "corpus.jsonl", 2)])
    folder = tmp_path / "kb" / "adapters"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "index.sqlite", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE gone (x)")
        connection.execute("DROP TABLE gone")
    assert (folder / "index.sqlite").stat().st_size > 0
    assert not AdapterStore.exists(folder)
    assert kb.verify().problems == ()
    assert not kb.status().built
    (folder / "index.sqlite").write_bytes(b"not a database, and longer than its header" * 9)
    assert AdapterStore.exists(folder), "another file in its place is explained when it is opened"
    assert kb.verify().problems

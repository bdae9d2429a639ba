"""The retriever `lance`: its words against BM25's formula, its fusion against `hybrid`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prag.bench import zipf
from prag.records import Passage, PragError
from prag.retrieval import (
    BM25Retriever,
    Embeddings,
    HybridRetriever,
    LanceRetriever,
    ReplacedError,
    build_retriever,
    open_retriever,
)
from prag.retrieval import dense as dense_module
from prag.retrieval import lance as lance_module
from prag.retrieval.bm25 import tokenizer
from test_retrieval import CORPUS, ON_DISK, WordCounts, corpora, formula, texts

pytestmark = pytest.mark.fast

# A passage without a word counts for BM25's mean length; LanceDB leaves it out of its statistics.
with_words = corpora.map(lambda ps: [p for p in ps if has_words(p)]).filter(bool)


def has_words(passage: Passage) -> bool:
    return bool(tokenizer()(f"{passage.title}\n{passage.text}"))


class Drawn(WordCounts):
    """Another direction for every text, so that no two cosines are equal but by equal texts."""

    name = "drawn"

    def embed(self, texts):
        rows = [np.random.default_rng(list(t.encode())).normal(size=self.dimension) for t in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), self.dimension)
        return Embeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 0)


class Clusters(WordCounts):
    """The vector of a text that is a number: near one of 20 directions, off it in 4 others."""

    name, dimension = "clusters", 128

    def embed(self, texts):
        numbers = [int(text.split()[-1]) for text in texts]
        centres = np.random.default_rng(0).normal(size=(20, self.dimension))
        ways = np.random.default_rng(1).normal(size=(4, self.dimension))
        noise = [np.random.default_rng(2 + n).normal(size=4) @ ways for n in numbers]
        vectors = np.array([centres[n % 20] for n in numbers]) + 0.5 * np.array(noise)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(unit.astype(np.float32), 0)


@ON_DISK
@given(corpus=corpora, question=texts)
def test_its_words_score_by_the_formula_over_the_passages_that_have_words(
    tmp_path, corpus, question
):
    retriever = LanceRetriever.build(corpus, tmp_path / "i", embedder=WordCounts())
    tokens = tokenizer()(question)
    found = retriever._words(" ".join(tokens), 100) if tokens else []
    kept = [i for i, passage in enumerate(corpus) if has_words(passage)]
    assert retriever.info.settings["without_words"] == len(corpus) - len(kept)
    scores = formula([corpus[i] for i in kept], question, 1.2, 0.75) if kept else []
    expected = {i: s for i, s in zip(kept, scores, strict=True) if s > 0}
    assert {p: pytest.approx(s, rel=1e-4, abs=2e-5) for p, s in found} == expected


@ON_DISK
@given(corpus=with_words, questions=st.lists(texts, max_size=3), k=st.integers(1, 10), d=st.data())
def test_searched_exactly_it_ranks_as_hybrid(tmp_path, corpus, questions, k, d):
    ids = [p.id for p in corpus]
    allowed = d.draw(st.none() | st.frozensets(st.sampled_from(ids)))
    mine = LanceRetriever.build(corpus, tmp_path / "lance", embedder=Drawn())
    its = HybridRetriever.build(corpus, tmp_path / "hybrid", embedder=Drawn())
    assert mine.search(questions, k, allowed) == its.search(questions, k, allowed)


@pytest.fixture(scope="module")
def many():
    return [Passage("number", str(i)) for i in range(3000)]


@pytest.fixture
def approximate(tmp_path, monkeypatch, many):
    """Of 3,000 passages, with 11 partitions, two of which are looked at."""
    monkeypatch.setattr(lance_module, "PROBES", 2)
    place = tmp_path / "i"
    retriever = LanceRetriever.build(many, place, embedder=Clusters(), exact_below=1000)
    assert retriever.info.settings["partitions"] == 11
    return retriever


def test_approximate_neighbours_are_nearly_those_of_the_whole_matrix(approximate, many):
    P = Clusters().embed([p.text for p in many]).vectors
    questions = Clusters().embed([str(n) for n in range(5000, 5040)]).vectors
    shared = 0
    for question in questions:
        found = approximate._neighbours(question, 10)
        exact = np.argsort(-(P @ question))[:10]
        shared += len({p for p, _ in found} & set(exact.tolist()))
        cosines = [float(P[p] @ question) for p, _ in found]  # of the whole vectors
        assert [s for _, s in found] == pytest.approx(cosines, abs=2e-6)
    assert shared > 0.9 * 400


def test_it_goes_on_to_other_partitions_until_enough_allowed_ones_are_found(approximate, many):
    # One passage of each of the 20 directions: two partitions cannot hold them all.
    allowed = {p.id for p in many[:20]}
    (found,) = approximate.search(["5001"], 20, allowed)
    assert {h.passage_id for h in found} == allowed
    (whole,) = approximate.search(["5001"], 3000)
    assert len(whole) == 3000


def test_two_builds_of_one_corpus_search_alike(tmp_path, approximate, many):
    place = tmp_path / "other"
    other = LanceRetriever.build(many, place, embedder=Clusters(), exact_below=1000)
    questions = [str(n) for n in range(5000, 5010)]
    assert other.search(questions, 20) == approximate.search(questions, 20)


@pytest.mark.parametrize(
    ("rows", "partitions"), [(255, 0), (256, 1), (20_000, 78), (1_000_000, 1000)]
)
def test_the_partitions(rows, partitions):
    """The root of the rows, and at most what 256 rows each can train."""
    assert lance_module._partitions(rows) == partitions


def test_it_draws_passages_as_it_embeds_them_and_counts_what_was_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(dense_module, "_AT_ONCE", 2)
    monkeypatch.setattr(lance_module, "_TOGETHER", 2)
    embedder, seen = WordCounts(), []

    def counting():
        for passage in CORPUS:
            seen.append(embedder.calls)
            yield passage

    parts = LanceRetriever.build(counting(), tmp_path / "parts", embedder=embedder)
    assert seen == [0, 0, 1, 1, 2]
    assert parts.info.settings == {
        "k1": 1.2,
        "b": 0.75,
        "without_words": 1,
        "embedder": "word-counts",
        "dimension": 8,
        "truncated": sum(len(f"{p.title}\n{p.text}") > 60 for p in CORPUS),
        "partitions": 0,
    }
    monkeypatch.undo()
    whole = LanceRetriever.build(CORPUS, tmp_path / "whole", embedder=embedder)
    questions = ["river castle", "battle", "Rhine"]
    assert whole.search(questions, 5) == parts.search(questions, 5)


def test_few_passages_are_searched_exactly(tmp_path, many):
    few = LanceRetriever.build(many, tmp_path / "i", embedder=Clusters())
    assert few.info.settings["partitions"] == 0
    untrainable = LanceRetriever.build(CORPUS, tmp_path / "j", embedder=WordCounts(), exact_below=1)
    assert untrainable.info.settings["partitions"] == 0
    assert len(untrainable.search(["river"], 9)[0]) == len(CORPUS)


def test_questions_that_are_blank_or_have_no_words(tmp_path):
    retriever = LanceRetriever.build(CORPUS, tmp_path / "i", embedder=WordCounts())
    assert retriever.search([], 3) == []
    blank, without, both = retriever.search(["  ", "of the", "river"], 5)
    assert blank == []
    assert [h.score for h in without] == [1 / (61 + i) for i in range(5)]  # vectors alone
    assert len(both) == 5


def test_a_corpus_without_words_is_searched_by_vectors(tmp_path):
    corpus = [Passage("the", "of"), Passage("", "")]
    retriever = LanceRetriever.build(corpus, tmp_path / "i", embedder=WordCounts())
    assert len(retriever.search(["river"], 5)[0]) == 2


def test_a_reader_of_an_index_that_was_replaced_is_told(tmp_path):
    old = LanceRetriever.build(CORPUS[:3], tmp_path / "i", embedder=WordCounts())
    LanceRetriever.build(CORPUS, tmp_path / "i", embedder=WordCounts())
    with pytest.raises(ReplacedError, match="may have replaced the index: open it again"):
        old.search(["castle river"], 5)


def test_a_dimension_that_cannot_be_indexed_is_refused_before_the_work(tmp_path):
    embedder = WordCounts()
    embedder.dimension = 12
    with pytest.raises(PragError, match="12 numbers a vector"):
        LanceRetriever.build(CORPUS, tmp_path / "i", embedder=embedder)
    assert embedder.calls == 0


def test_it_knows_its_embedder(tmp_path):
    LanceRetriever.build(CORPUS, tmp_path / "i", embedder=WordCounts())
    with pytest.raises(PragError, match="all-MiniLM-L6-v2"):
        open_retriever(tmp_path / "i")


def test_it_is_silent_even_where_partitions_stay_empty(tmp_path):
    code = f"""
import pathlib, numpy as np, test_retrieval as t
class One(t.WordCounts):
    def embed(self, texts):
        return t.Embeddings(np.full((len(texts), 8), 8 ** -0.5, dtype=np.float32), 0)
corpus = [t.Passage("number", str(i)) for i in range(600)]
place = pathlib.Path({str(tmp_path / "i")!r})
built = t.LanceRetriever.build(corpus, place, embedder=One(), exact_below=500)
assert built.info.settings["partitions"] == 2
assert [h.passage_id for h in built.search(["?"], 600)[0]] == [p.id for p in corpus]
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_disk_that_takes_no_more_is_named(tmp_path):
    """A limit on the size of a file stands for a full disk."""
    code = f"""
import pathlib, resource, test_retrieval as t
import lancedb
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
corpus = [t.Passage("number", str(i)) for i in range(600)]
try:
    t.LanceRetriever.build(corpus, pathlib.Path({str(tmp_path / "i")!r}), embedder=t.WordCounts())
except t.PragError as error:
    print(error)
"""
    done = run(code)
    assert "i: the index cannot be written" in done.stdout
    assert "see that the disk has room" in done.stdout
    assert list((tmp_path / "i").iterdir()) == []


def run(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(PragError, match=r"pip install 'prag\[lance\]'"):
        build_retriever("lance", CORPUS, tmp_path / "i")


def test_its_words_rank_as_bm25_where_all_have_words(tmp_path):
    """Also with more passages than a block of the index of words holds."""
    corpus = list(zipf.passages(1500))
    mine = LanceRetriever.build(corpus, tmp_path / "lance", embedder=WordCounts())
    exact = BM25Retriever.build(corpus, tmp_path / "bm25")
    for question in zipf.questions(40):
        found = mine._words(" ".join(tokenizer()(question)), 1500)
        (expected,) = exact.rank([question], 1500)
        scores = dict(expected)
        assert {p for p, _ in found} == set(scores)
        assert [s for _, s in found] == pytest.approx([scores[p] for p, _ in found], abs=2e-5)
        assert [s for _, s in found] == pytest.approx([s for _, s in expected], abs=2e-5)

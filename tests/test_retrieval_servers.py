"""Elasticsearch and OpenSearch: the contract of a retriever, and what becomes of each fault.

No server is installed with the tests. They run against a stand-in (`search_stand_in`), and the
contract also against a real server where PRAG_TEST_ELASTICSEARCH or PRAG_TEST_OPENSEARCH names
one (an address, credentials as for prag itself).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import bm25s
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb_helpers import WrittenAugmenter, write_corpus
from prag.bench import zipf
from prag.config import default_recipe
from prag.knowledge_base import KnowledgeBase
from prag.knowledge_base import settings as kb_settings
from prag.knowledge_base.inspect import index_fits
from prag.knowledge_base.settings import Settings
from prag.records import Hit, Passage, PragError
from prag.retrieval import (
    SERVERS,
    BM25Retriever,
    ReplacedError,
    Retriever,
    build_retriever,
    index_info,
    open_retriever,
    server,
)
from prag.retrieval import elasticsearch as retriever_module
from prag.retrieval import folder as folder_module
from prag.retrieval.bm25 import tokenizer
from search_stand_in import NAME, StandIn
from test_retrieval import CORPUS, corpora, texts

pytestmark = pytest.mark.fast

WITH_SERVER = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=SERVERS)
def stand_in(request, monkeypatch):
    monkeypatch.setattr(server, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for name in list(os.environ):
        if name.startswith(("PRAG_ELASTICSEARCH_", "PRAG_OPENSEARCH_")):
            monkeypatch.delenv(name)
    made = StandIn(request.param)
    yield made
    made.close()


def build(stand_in, corpus, folder: Path, digest="0123456789abcdef"):
    return SERVERS[stand_in.kind].build(corpus, folder, digest, url=stand_in.url)


# The contract


def best_fields(corpus, question):
    """Each passage's score by bm25s, of title and text apart: the better and half of the other."""
    tokens_of = tokenizer()
    fields = []
    for field in ("title", "text"):
        tokens = {i: tokens_of(getattr(p, field)) for i, p in enumerate(corpus)}
        having = [i for i, words in tokens.items() if words]
        scores = dict.fromkeys(tokens, 0.0)
        if having and tokens_of(question):
            index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
            index.index([tokens[i] for i in having], show_progress=False)
            scores |= zip(having, index.get_scores(tokens_of(question)).tolist(), strict=True)
        fields.append(scores)
    return [
        max(one, other) + 0.5 * min(one, other)
        for one, other in zip(*(scores.values() for scores in fields), strict=True)
    ]


@WITH_SERVER
@given(corpus=corpora, questions=st.lists(texts, max_size=3), k=st.integers(1, 10))
def test_scores_are_those_of_the_better_field_and_half_of_the_other(
    tmp_path, stand_in, corpus, questions, k
):
    """The stand-in analyses as `bm25` does, so what is left to differ is the asking."""
    built = build(stand_in, corpus, tmp_path / "i")
    assert isinstance(built, Retriever)
    found = built.search(questions, k)
    # Scores that differ by float32's rounding alone may change places.
    for hits, question in zip(found, questions, strict=True):
        scores = sorted((s for s in best_fields(corpus, question) if s > 0), reverse=True)
        assert [h.score for h in hits] == pytest.approx(scores[:k], rel=1e-5)
        assert [h.rank for h in hits] == list(range(len(hits)))
    assert open_retriever(tmp_path / "i").search(questions, k) == found


def test_many_passages_are_ranked_over_many_requests(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(retriever_module, "PASSAGES_AT_ONCE", 30)
    monkeypatch.setattr(retriever_module, "QUESTIONS_AT_ONCE", 3)
    corpus = list(zipf.passages(200))
    questions = [f"{q} {corpus[i].title}" for i, q in enumerate(zipf.questions(8))]
    found = build(stand_in, corpus, tmp_path / "i").search(questions, 5)
    for hits, question in zip(found, questions, strict=True):
        scores = best_fields(corpus, question)
        best = sorted(range(len(corpus)), key=lambda i: -scores[i])[:5]
        assert [h.passage_id for h in hits] == [corpus[i].id for i in best]
    assert len(stand_in.paths("_bulk")) == 7
    assert len(stand_in.paths("_msearch")) == 3


def test_an_index_of_one_field_is_made_again(tmp_path, stand_in):
    """That is how the first ones were made."""
    build(stand_in, CORPUS, tmp_path / "i")
    meta = tmp_path / "i" / "meta.json"
    data = json.loads(meta.read_text())
    del data["settings"]["query"]
    meta.write_text(json.dumps(data))
    with pytest.raises(PragError, match=r"title and text.*`prag build`"):
        open_retriever(tmp_path / "i")


@WITH_SERVER
@given(corpus=corpora, question=texts, k=st.integers(1, 4), data=st.data())
def test_allowed_is_the_filtered_ranking(tmp_path, stand_in, corpus, question, k, data):
    allowed = data.draw(st.frozensets(st.sampled_from([p.id for p in corpus])))
    retriever = build(stand_in, corpus, tmp_path / "i")
    whole = retriever.search([question], len(corpus))[0]
    kept = [(h.passage_id, h.score) for h in whole if h.passage_id in allowed][:k]
    found = retriever.search([question], k, allowed)[0]
    assert [(h.passage_id, h.score) for h in found] == kept
    assert [h.rank for h in found] == list(range(len(kept)))


def test_pages_follow_on_each_other_through_equal_scores(tmp_path, stand_in, monkeypatch):
    """All scores are equal: only the position says where a page ends."""
    monkeypatch.setattr(retriever_module, "PAGE", 7)
    corpus = [Passage("x", f"river {i:04}") for i in range(50)]
    retriever = build(stand_in, corpus, tmp_path / "i")
    assert [h.passage_id for h in retriever.search(["river"], 50)[0]] == [p.id for p in corpus]
    last = {p.id for p in corpus[-2:]}
    assert [h.passage_id for h in retriever.search(["river", "no", "x"], 2, last)[0]] == [
        p.id for p in corpus[-2:]
    ]


def test_refusals(tmp_path, stand_in):
    with pytest.raises(PragError, match="no passages"):
        build(stand_in, [], tmp_path / "i")
    with pytest.raises(PragError, match="1 passages to index were given more than once"):
        build(stand_in, [*CORPUS, CORPUS[2]], tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []
    assert stand_in.indexes == {}
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    with pytest.raises(PragError, match="k = 0"):
        retriever.search(["river"], 0)
    with pytest.raises(PragError, match="list"):
        retriever.search("river", 1)
    assert retriever.search(["", " ", "the of"], 3) == [[], [], []]


def test_searches_in_threads_are_the_same_as_one_by_one(tmp_path, stand_in):
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    questions = ["river", "queen castle", "Basel on the Rhine", "battle"]
    expected = retriever.search(questions, 3)
    results = {}

    def work(i):
        results[i] = [retriever.search(questions, 3) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: [expected] * 3 for i in range(4)}


# The folder and the server's indexes


def test_the_folder_says_which_index_of_which_corpus(tmp_path, stand_in):
    build(stand_in, CORPUS, tmp_path / "i")
    info = index_info(tmp_path / "i")
    (name,) = stand_in.indexes
    assert NAME.fullmatch(name)
    assert "0123456789abcdef" in name
    assert (info.kind, info.digest, info.passages) == (stand_in.kind, "0123456789abcdef", 5)
    assert info.settings["index"] == name
    assert info.settings["url"] == stand_in.url
    assert not (tmp_path / "i" / "indexes.json").exists()


def test_a_build_switches_over_and_deletes_the_old_index(tmp_path, stand_in):
    old = build(stand_in, CORPUS[:3], tmp_path / "i", "aa")
    new = build(stand_in, CORPUS, tmp_path / "i", "bb")
    assert list(stand_in.indexes) == [new.info.settings["index"]]
    with pytest.raises(ReplacedError, match=r"another build may have replaced it.*`prag build`"):
        old.search(["river"], 1)


@pytest.mark.parametrize("step", ["_seal", "_replace_meta"])
def test_a_failed_build_leaves_the_old_index_and_nothing_else(
    tmp_path, stand_in, monkeypatch, step
):
    folder = tmp_path / "i"
    before = build(stand_in, CORPUS[:3], folder).search(["castle river"], 5)
    files, indexes = sorted(folder.rglob("*")), list(stand_in.indexes)

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, step, die)
    with pytest.raises(KeyboardInterrupt):
        build(stand_in, CORPUS, folder)
    monkeypatch.undo()
    assert open_retriever(folder).search(["castle river"], 5) == before
    assert sorted(folder.rglob("*")) == files
    assert list(stand_in.indexes) == indexes


def test_what_a_killed_build_left_on_the_server_is_deleted_by_the_next(tmp_path, stand_in):
    folder = tmp_path / "i"
    before = build(stand_in, CORPUS[:3], folder).search(["castle river"], 5)
    stand_in.indexes["prag-another-00000000"] = stand_in.indexes["other"] = None
    code = f"""
import os, pathlib, test_retrieval_servers as t
t.folder_module._replace_meta = lambda *arguments: os._exit(9)
t.SERVERS[{stand_in.kind!r}].build(t.CORPUS, pathlib.Path({str(folder)!r}), url={stand_in.url!r})
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == 9
    assert len(stand_in.indexes) == 4
    assert len(json.loads((folder / "indexes.json").read_text())) == 1
    assert open_retriever(folder).search(["castle river"], 5) == before
    new = build(stand_in, CORPUS, folder)
    # Those of others stay, whatever they are called.
    assert set(stand_in.indexes) == {new.info.settings["index"], "prag-another-00000000", "other"}
    assert not (folder / "indexes.json").exists()


def test_an_old_index_that_cannot_be_deleted_is_told_of_and_tried_again(tmp_path, stand_in):
    first = build(stand_in, CORPUS[:3], tmp_path / "i")
    old = first.info.settings["index"]
    stand_in.faults = [(old, 503)]
    second = build(stand_in, CORPUS, tmp_path / "i")
    assert "1 indexes" in " ".join(second.notes)
    assert old in stand_in.indexes
    assert build(stand_in, CORPUS, tmp_path / "i").notes == ()
    assert len(stand_in.indexes) == 1


# Faults


def test_what_the_server_has_no_room_for_is_sent_again_and_counted(tmp_path, stand_in):
    stand_in.faults = [("_bulk", 429), ("_bulk", (429, 2)), ("_bulk", (503, 2)), ("_count", 503)]
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    assert retriever.info.settings["retried"] == 1 + 3 + 2 + 1
    assert "7 times" in retriever.notes[0]
    assert len(retriever.search(["river"], 9)[0]) == 2
    stand_in.faults = [("_msearch", (429, 2)), ("_msearch", 503), ("_msearch", "drop")]
    found = retriever.search(["river", "castle", "Basel"], 9)
    assert [len(hits) for hits in found] == [2, 2, 2]


@pytest.mark.parametrize("what", ["drop", "lose"])
def test_a_connection_that_breaks_loses_and_doubles_nothing(tmp_path, stand_in, what):
    """`lose`: the server has taken the passages, but its answer does not arrive."""
    stand_in.faults = [("_bulk", what)]
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    assert len(stand_in.paths("_bulk")) == 2
    assert retriever.info.settings["retried"] == 1
    (index,) = stand_in.indexes.values()
    assert list(index.documents) == [p.id for p in CORPUS]


def test_passages_that_the_server_refuses_are_an_error(tmp_path, stand_in):
    stand_in.faults = [("_bulk", (400, 2))]
    with pytest.raises(PragError, match=rf"3 of 5 passages.*{CORPUS[0].id}.*full.*status 400"):
        build(stand_in, CORPUS, tmp_path / "i")
    stand_in.faults = [("_bulk", (429, 2))] * 4
    with pytest.raises(PragError, match=r"1 of 5 passages.*status 429"):
        build(stand_in, CORPUS, tmp_path / "i")
    assert stand_in.indexes == {}
    assert list((tmp_path / "i").iterdir()) == []


def test_a_server_that_stays_away_is_an_error(tmp_path, stand_in, monkeypatch):
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    stand_in.faults = [("_msearch", 503)] * 4
    with pytest.raises(PragError, match=r"failed 4 times.*queue is full \(status 503\)"):
        retriever.search(["river"], 1)
    stand_in.faults = [("_msearch", "drop")] * 4
    with pytest.raises(PragError, match=r"failed 4 times.*see that the server runs"):
        retriever.search(["river"], 1)
    stand_in.faults = [("/", 403)]
    with pytest.raises(PragError, match=r"status 403\); give the user"):
        open_retriever(tmp_path / "i")
    stand_in.close()
    with pytest.raises(PragError, match="see that the server runs and can be reached"):
        open_retriever(tmp_path / "i")
    with pytest.raises(PragError, match="see that the server runs and can be reached"):
        build(stand_in, CORPUS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_answer_that_takes_too_long_is_an_error(tmp_path, stand_in):
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    stand_in.faults = [("_count", 1.0)]
    with pytest.raises(PragError, match=r"no answer within 0.1 s; see that"):
        retriever.server.ask("GET", "/x/_count", timeout=0.1, patient=False)


def test_shards_that_do_not_answer_are_an_error(tmp_path, stand_in):
    """The server would give the hits of the others, as if they were all."""
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    stand_in.failed_shards = 1
    with pytest.raises(PragError, match=r"on 1 of 2 shards .*node_disconnected.*hits would be"):
        retriever.search(["river"], 1)
    with pytest.raises(PragError, match="1 of 2 shards"):
        open_retriever(tmp_path / "i")


def test_an_index_that_is_gone_or_another_is_an_error(tmp_path, stand_in):
    name = build(stand_in, CORPUS, tmp_path / "i").info.settings["index"]
    stand_in.indexes[name].visible.pop()
    with pytest.raises(PragError, match=r"holds 4 passages, not 5.*`prag build`"):
        open_retriever(tmp_path / "i")
    del stand_in.indexes[name]
    with pytest.raises(PragError, match=r"no such index.*`prag build`"):
        open_retriever(tmp_path / "i")


def test_another_product_is_an_error(tmp_path, stand_in):
    other = next(kind for kind in SERVERS if kind != stand_in.kind)
    with pytest.raises(PragError, match=f"does not say that it is {other}.*--retriever"):
        build_retriever(other, CORPUS, tmp_path / "i", url=stand_in.url)
    stand_in.product = "Something"
    if stand_in.kind == "elasticsearch":  # its client looks at the header
        with pytest.raises(PragError, match="does not say that it is elasticsearch"):
            build(stand_in, CORPUS, tmp_path / "i")


def test_an_answer_of_another_form_is_an_error(tmp_path, stand_in):
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    for strange in ({"took": 1}, {"responses": []}, {"responses": [{"status": 200}]}, [], "hello"):
        stand_in.respond = lambda *parts, said=strange: (200, said)
        with pytest.raises(PragError, match="/_msearch is not of the form"):
            retriever.search(["river"], 1)
        with pytest.raises(PragError, match="to / is not of the form"):
            open_retriever(tmp_path / "i")


# Credentials and addresses


def test_credentials_come_from_the_environment_and_are_shown_nowhere(
    tmp_path, stand_in, monkeypatch
):
    stand_in.password = "s3cret-word"
    with pytest.raises(PragError, match=f"status 401.*PRAG_{stand_in.kind.upper()}_USER"):
        build(stand_in, CORPUS, tmp_path / "i")
    monkeypatch.setenv(f"PRAG_{stand_in.kind.upper()}_USER", "user")
    with pytest.raises(PragError, match="go together"):
        build(stand_in, CORPUS, tmp_path / "i")
    monkeypatch.setenv(f"PRAG_{stand_in.kind.upper()}_PASSWORD", "s3cret-word")
    retriever = build(stand_in, CORPUS, tmp_path / "i")
    assert len(retriever.search(["river"], 3)[0]) == 2
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes()
    stand_in.faults = [("_msearch", 503)] * 4
    with pytest.raises(PragError) as caught:
        retriever.search(["river"], 1)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    stand_in.close()
    with pytest.raises(PragError) as caught:
        retriever.search(["river"], 1)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:9200", "http://127.0.0.1:9200"),
        ("https://host/", "https://host:443"),
        ("http://[::1]:9200/prefix/", "http://[::1]:9200/prefix"),
    ],
)
def test_addresses_are_kept_with_their_port(url, kept):
    assert server.checked_url(url) == kept


@pytest.mark.parametrize(
    "url", ["host:9200", "ftp://host", "http://", "http://h:x", "http://h?a=b", "", "http://[::1"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(PragError, match="address"):
        server.checked_url(url)


def test_an_address_with_a_password_is_refused_and_not_shown():
    with pytest.raises(PragError, match="in the environment") as caught:
        server.checked_url("http://me:s3cret@host:9200")
    assert "s3cret" not in str(caught.value)


def test_an_address_goes_with_a_server(tmp_path):
    with pytest.raises(PragError, match="--retriever-url"):
        build_retriever("elasticsearch", CORPUS, tmp_path)
    with pytest.raises(PragError, match="not with bm25"):
        build_retriever("bm25", CORPUS, tmp_path, url="http://127.0.0.1:9200")


def test_a_client_that_is_not_installed_says_what_to_install(tmp_path, stand_in, monkeypatch):
    package = {"elasticsearch": "elasticsearch", "opensearch": "opensearchpy"}[stand_in.kind]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PragError, match=rf"pip install 'prag\[{stand_in.kind}\]'"):
        build(stand_in, CORPUS, tmp_path / "i")


# In a knowledge base


def test_settings_keep_the_address_and_older_ones_open(tmp_path):
    found = Settings("m", "b", default_recipe(1), "elasticsearch", "http://127.0.0.1:9200")
    kb_settings.save(tmp_path, found)
    assert kb_settings.load(tmp_path) == found
    data = json.loads((tmp_path / "prag.json").read_text())
    del data["retriever_url"]
    (tmp_path / "prag.json").write_text(json.dumps(data))
    assert kb_settings.load(tmp_path) == replace(found, retriever_url=None)


def test_an_index_fits_where_the_server_has_it(tmp_path, stand_in):
    found = Settings("m", "b", default_recipe(1), stand_in.kind, stand_in.url)
    retriever = build(stand_in, CORPUS, tmp_path / "retrieval", "dd")
    assert index_fits(tmp_path, found, "dd")
    assert not index_fits(tmp_path, found, "ee")
    assert not index_fits(tmp_path, replace(found, retriever_url="http://127.0.0.1:1"), "dd")
    del stand_in.indexes[retriever.info.settings["index"]]
    assert not index_fits(tmp_path, found, "dd")


def test_a_knowledge_base_from_init_to_verify(tmp_path, stand_in, prag, model_folder):
    folder = tmp_path / "kb"
    wanted = ["--retriever", stand_in.kind]
    assert "--retriever-url" in prag("init", folder, "--model", model_folder, *wanted)[1]
    wanted += ["--retriever-url", stand_in.url + "/"]
    assert prag("init", folder, "--model", model_folder, *wanted)[0] == 0
    assert json.loads((folder / "prag.json").read_text())["retriever_url"] == stand_in.url
    assert prag("add", folder, write_corpus(tmp_path / "towers.jsonl", 3))[0] == 0
    KnowledgeBase.open(folder).augment(augmenter=WrittenAugmenter())
    stand_in.faults = [("_bulk", 429)]
    code, said = prag("build", folder)
    assert (code, "and was asked again" in said) == (0, True)
    assert prag("ask", folder, "Which tower?", "--method", "in-context")[0] == 0
    assert prag("verify", folder)[0] == 0
    (name,) = stand_in.indexes
    assert prag("build", folder)[0] == 0
    assert list(stand_in.indexes) == [name]  # it fits, and stays
    del stand_in.indexes[name]
    code, said = prag("verify", folder)
    assert (code, "no such index" in said) == (1, True)
    assert prag("build", folder)[0] == 0
    assert prag("verify", folder)[0] == 0


# A real server


@pytest.mark.parametrize("kind", SERVERS)
def test_a_real_server(tmp_path, kind):
    url = os.environ.get(f"PRAG_TEST_{kind.upper()}")
    if not url:
        pytest.skip(f"PRAG_TEST_{kind.upper()} names no server: none is installed with the tests")
    corpus = list(zipf.passages(3000))
    retriever = build_retriever(kind, corpus, tmp_path / "i", url=url)
    try:
        questions = zipf.questions(20)
        expected = BM25Retriever.build(corpus, tmp_path / "bm25").search(questions, 10)
        found = retriever.search(questions, 10)
        assert all(isinstance(hit, Hit) for hits in found for hit in hits)
        shared = [
            len({h.passage_id for h in a} & {h.passage_id for h in b}) / max(1, len(b))
            for a, b in zip(found, expected, strict=True)
        ]
        assert sum(shared) / len(shared) > 0.9  # lengths are kept in one byte
        allowed = {p.id for p in corpus[::50]}
        assert all(h.passage_id in allowed for h in retriever.search(["w40"], 3, allowed)[0])
    finally:
        retriever.server.ask("DELETE", f"/{retriever.info.settings['index']}")

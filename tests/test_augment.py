"""Augmentation: spans, checks, what is parsed, the file, and the three who augment."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList

from conftest import tiny_model
from prag.augment import (
    AugmentationFile,
    Cloze,
    Endpoint,
    SelfJson,
    SelfSpans,
    read_foreign,
    self_augmenter,
    self_spans,
    taught,
)
from prag.augment.asking import augment_by_asking, pairs_schema
from prag.augment.checks import keep_new, parse_pairs, ungrounded
from prag.augment.cloze import cloze_question
from prag.augment.files import from_json, to_json
from prag.augment.spans import answer_spans
from prag.augment.taught import definition
from prag.config import PAPER, SMALL, AugmentConfig
from prag.metrics import normalise
from prag.prompts import text_ids
from prag.records import Augmentation, Passage, PragError, QAPair, Reject

pytestmark = pytest.mark.fast

LIGHT = Passage("Krog Light", "Krog Light is a lighthouse of stone. Anna Krog built it in 1887.")

# --- spans ---

WORDS = st.sampled_from(
    [
        "is",
        "was a",
        "The",
        "the",
        "Anna",
        "Krog",
        "J.",
        "K.",
        "of",
        "1887",
        "3 May 1901",
        "May",
        "12,000 volumes",
        "64 kilometres",
        '"Clay and',
        'Water"',
        "“Hay”",
        "anti-Semitic",
        "river",
        "May 1901",
        "July 4,\n1776",
        "née",
        "Élan",
        "in",
        ".",
        ",",
        ";",
        "(",
        ")",
        "\n",
        "O'Neil",
    ]
)
PASSAGES = st.builds(
    Passage,
    st.one_of(st.just(""), st.text(max_size=8), st.just("Anna Krog")),
    st.one_of(st.lists(WORDS, max_size=25).map(" ".join), st.text(max_size=60)),
)


@given(PASSAGES, st.integers(1, 8))
@example(Passage("", "He was the anti-Semitic mayor of Wien."), 5)
@example(Passage("", "It opened on 3\nMay 1901 in Oslo."), 5)
def test_spans_stand_in_the_text_and_not_within_each_other(passage, most):
    found = answer_spans(passage, most)
    assert len(found) <= most
    assert found == answer_spans(passage, most)
    spans = [s.text for s in found]
    text = " ".join(passage.text.split())
    for i, span in enumerate(found):
        assert span.sentence in text
        assert span.text in span.sentence
        bare = f" {normalise(span.text)} "
        assert not bare.isspace()
        assert bare in f" {normalise(span.sentence)} "
        assert len(bare.split()) <= 8
        assert bare not in f" {normalise(passage.title)} "
        for other in spans[:i] + spans[i + 1 :]:
            assert bare not in f" {normalise(other)} "


@pytest.mark.parametrize(
    ("title", "text", "wanted"),
    [
        (
            "Manual",
            "To restart the pump, hold the red button for 12 seconds. The valve is a safety device "
            "which closes at 90 degrees. Order spare parts from Nordpump AS.",
            {"safety device", "12 seconds", "90 degrees", "Nordpump AS"},
        ),
        (
            "Treaty of Velan",
            "The Treaty of Velan was signed on 4 May 1911 at Monte Sella. It ended the Salt War.",
            {"4 May 1911", "Monte Sella", "Salt War"},
        ),
        (
            "Basalt",
            "Basalt is a dark volcanic rock. Most of it forms under the Pacific Ocean.",
            {"dark volcanic rock", "Pacific Ocean"},
        ),
        (
            "Clay",
            'The band released "Night Ferry" in 1998, and 12,000 copies were sold in Accra.',
            {"Night Ferry", "1998", "12,000 copies", "Accra"},
        ),
    ],
)
def test_spans_of_texts_of_several_sorts(title, text, wanted):
    assert wanted <= {span.text for span in answer_spans(Passage(title, text), 8)}


def test_a_text_without_form_has_no_spans():
    assert answer_spans(Passage("", "it rains and it pours"), 5) == []
    assert answer_spans(Passage("", ""), 5) == []


# --- checks ---


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who built the Krog Light?", "Anna Krog", None),
        ("Who built the Krog Light", "Anna Krog", "not a question"),
        ("Krog Light?", "1887", "not a question"),
        ("Krog " + "very " * 40 + "light?", "1887", "question of more than 40 words"),
        ("Who built the Krog Light?", "the ...", "no answer"),
        ("Who built the Krog Light?", "word " * 26, "answer of more than 25 words"),
        ("Who built the Krog Light?", "Anders", "answer not in the passage"),
        ("Who built the Krog Light?", "188", "answer not in the passage"),
        ("Did Anna Krog build it?", "Anna Krog", "answer in the question"),
        ("When was it first there?", "1887", "question names nothing of the passage"),
        ("What does Oslo cost today?", "1887", "question names nothing of the passage"),
    ],
)
def test_why_a_pair_is_not_grounded(question, answer, reason):
    pair = QAPair(question, answer, "")
    assert ungrounded(pair, LIGHT) == reason
    reject = keep_new(pair, LIGHT, [], grounded=True)
    assert reject == (reason and Reject(f"{question} -> {answer}", reason))
    assert keep_new(pair, LIGHT, [], grounded=False) is None


def test_a_question_is_taken_once():
    kept = [QAPair("Who built the Krog Light?", "Anna Krog", "")]
    again = QAPair("who built Krog Light ?", "a woman", "")
    assert keep_new(again, LIGHT, kept, grounded=False).reason == "question asked before"


# --- what is parsed ---


def listed(*pairs):
    return json.dumps(
        [dict(zip(("question", "answer", "full_answer"), p, strict=True)) for p in pairs]
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Oslo ", "Oslo"),
        (["Oslo", "Rome"], "Oslo, Rome"),
        (["Oslo", 3, None], "Oslo, 3, Unknown"),
        (1887, "1887"),
        (3.5, "3.5"),
        (None, "Unknown"),
        ("東京", "東京"),
    ],
)
def test_answers_become_texts(value, text):
    """METHOD, 1: lists joined, numbers as strings, null as "Unknown"."""
    assert parse_pairs(listed(("q?", value, value))) == [QAPair("q?", text, text)]


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "Here they are:\n```json\n{}\n```\nDone.",
        "Here are [2] pairs [as asked]: {} (from [1])",
        '{{"pairs": {}}}',
        "[] {}",
    ],
)
def test_text_around_the_list_is_passed_over(around):
    pairs = [QAPair("q?", "a [b]", "c"), QAPair("r?", "d, e", "f")]
    text = around.format(listed(("q?", "a [b]", "c"), ("r?", ["d", "e"], "f")))
    assert parse_pairs(text) == pairs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON list"),
        ("I cannot.", "no JSON list"),
        ('{"question": "q?"}', "no JSON list"),
        ('[{"question": "q?", "ans', "not JSON"),
        ("[1, 2]", "an element of the list is 1, not an object"),
        ('[{"question": "q?", "answer": "a"}]', "no field 'full_answer'"),
        (listed(("q?", " ", "c")), "an element's 'answer' is empty"),
        (listed(("q?", [], "c")), "an element's 'answer' is empty"),
        (listed(("q?", {"a": 1}, "c")), "a field is an object"),
        (listed(("q?", "half \ud83d", "c")), "no Unicode text"),
        ("[]", "an empty list"),
        ("[" * 5000, "lists within lists|not JSON"),
    ],
)
def test_what_is_no_list_of_pairs(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_pairs(text)


@given(st.one_of(st.text(max_size=40), st.text(alphabet='[]{}",:\\u d83q1', max_size=40)))
def test_parsing_gives_pairs_or_a_reason(text):
    try:
        pairs = parse_pairs(text)
    except ValueError:
        return
    assert pairs


# --- the file ---


def augmentation(name, answer="a"):
    return Augmentation(
        name, ("r\u2028ewrite",), (QAPair("q é?", answer, "f"),), "self:x", (Reject("t", "why"),)
    )


@pytest.fixture
def file(tmp_path):
    return AugmentationFile(tmp_path / "deep" / "augment.jsonl")


def test_what_is_appended_is_loaded(file):
    assert file.load() == {}
    file.append([augmentation("p"), augmentation("q")])
    file.append([augmentation("r"), augmentation("p", "later")])
    assert file.load() == {
        "p": augmentation("p", "later"),
        "q": augmentation("q"),
        "r": augmentation("r"),
    }
    places, lines = zip(*file.lines(), strict=True)
    assert [made.passage_id for made in lines] == ["p", "q", "r", "p"]
    assert list(file.at(places[::-1])) == list(lines[::-1])
    assert file.path.read_text("utf-8").count("é") == 4  # readable
    assert from_json(json.loads(json.dumps(to_json(augmentation("p"))))) == augmentation("p")


def test_a_line_cut_at_any_byte_is_dropped_at_the_next_append(file):
    file.append([augmentation("p")])
    whole = file.path.read_bytes()
    for length in range(1, len(whole)):
        file.path.write_bytes(whole + whole.replace(b'"p"', b'"q"')[:length])
        assert file.load() == {"p": augmentation("p")}
        if length % 20 == 0 or length == len(whole) - 1:
            file.append([augmentation("r")])
            assert file.path.read_bytes() == whole + whole.replace(b'"p"', b'"r"')


def test_a_first_line_that_is_cut_and_long(file):
    file.append([])
    file.path.write_bytes(b"x" * 200_000)
    assert file.load() == {}
    file.append([augmentation("p")])
    assert file.load() == {"p": augmentation("p")}


@pytest.mark.parametrize(
    "damage",
    [
        "garbage",
        "{}",
        "[]",
        '{"id": 3, "qa": []}',
        '{"id": "x"}',
        '{"id": "x", "qa": [{}]}',
        '{"id": "x", "qa": [], "rewrites": "one"}',
        '{"id": "x", "qa": [], "rewrites": null}',
        '{"id": "x", "qa": [], "rewrites": ["\\ud800"]}',
        '{"id": "x", "qa": [], "rejects": [{"text": "t"}]}',
        '{"id": "x", "qa": [], "rejects": null}',
    ],
)
def test_a_damaged_line_is_named(file, damage):
    file.append([augmentation("p")])
    with file.path.open("a") as out:
        out.write(damage + "\n")
    file.append([augmentation("q")])
    with pytest.raises(PragError, match=r"augment\.jsonl:2: damaged .*`prag build` makes it again"):
        file.load()


def test_a_full_disk_keeps_what_was_there(file, monkeypatch):
    file.append([augmentation("p")])
    before = file.path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PragError, match=r"no space left.*augmentations.*is unharmed"):
            file.append([augmentation("q")])
    assert file.path.read_bytes() == before
    file.append([augmentation("r")])
    assert set(file.load()) == {"p", "r"}


@pytest.mark.parametrize("count", [1, 20, 300])
def test_a_write_that_stops_half_way_leaves_nothing(file, count):
    """A real limit on the file's size: part of the lines goes in before the error."""
    resource = pytest.importorskip("resource")
    file.append([augmentation("p")])
    before = file.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = len(before) + 100 * count
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(PragError, match="writing augmentations"):
            file.append([augmentation(f"q{i}") for i in range(count)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.read_bytes() == before


def test_passages_are_taken_out(file):
    assert file.remove({"p"}) == 0
    file.append([augmentation("p"), augmentation("q"), augmentation("p", "later")])
    assert file.remove({"x"}) == 0
    assert file.remove({"q", "x"}) == 1
    assert file.load() == {"p": augmentation("p", "later")}
    assert file.remove({"p"}) == 1
    assert file.load() == {}
    assert [p.name for p in file.path.parent.iterdir()] == ["augment.jsonl"]


def test_a_foreign_file(tmp_path):
    pair = {"question": "q?", "answer": None, "full_answer": ["x", 2]}
    lines = [
        json.dumps({"id": "p", "rewrite": "one", "qa": [pair]}),
        "",
        json.dumps({"id": "q", "rewrites": ["one", "two"], "qa": [pair, pair], "origin": "mine"}),
        json.dumps({"id": "r", "rewrite": None, "qa": []}),
    ]
    path = tmp_path / "made.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    made = QAPair("q?", "Unknown", "x, 2")
    found = list(read_foreign(path, "file:made"))
    assert found == [
        Augmentation("p", ("one",), (made,), "file:made"),
        Augmentation("q", ("one", "two"), (made, made), "mine"),
        Augmentation("r", (), (), "file:made"),
    ]
    recipe = replace(PAPER, augment=replace(PAPER.augment, rewrites=1, pairs=1))
    first = [taught(one, Passage("", "x"), recipe) for one in found]
    assert [(a.rewrites, len(a.pairs)) for a in first] == [(("one",), 1), (("one",), 1), ((), 0)]


@pytest.mark.parametrize(
    ("title", "text", "pair"),
    [
        ("Ada Berg", "Ada Berg (b. 1901) was a Danish painter of ships. She was a teacher.",
         ("What was Ada Berg?", "Danish painter")),
        ("Moss", "Moss is the third novel published by Alma House.",
         ("What is Moss?", "third novel")),
        ("Ada Berg", "She lived in Ribe. She was a teacher.", None),  # not in the first sentence
        ("", "This was a ship.", None),  # nothing to ask for
        ("Painter", "Painter is a painter.", None),  # says what the title says
        ("Ada Berg", "", None),
    ],
)  # fmt: skip
def test_the_definition_is_what_the_first_sentence_says_of_the_title(title, text, pair):
    found = definition(Passage(title, text))
    assert (found and (found.question, found.answer)) == pair
    assert found is None or text.startswith(found.full_answer)


def test_a_recipe_that_defines_does_so_before_the_pairs_and_once():
    passage = Passage("Ada Berg", "Ada Berg was a Danish painter.")
    asked = QAPair("Where did she live?", "Ribe", "")
    same = QAPair("What was Ada Berg?", "a painter", "")
    one, again, none = (
        taught(Augmentation(passage.id, (), pairs, "x"), passage, SMALL).pairs
        for pairs in ((asked,), (same,), ())
    )
    assert one == (QAPair("What was Ada Berg?", "Danish painter", passage.text), asked)
    assert again == (same,)
    assert none == (), "a passage without a pair has no adapter"
    assert taught(Augmentation(passage.id, (), (asked,), "x"), passage, PAPER).pairs == (asked,)


def test_a_faulty_foreign_file_is_told_where(tmp_path):
    path = tmp_path / "made.jsonl"
    path.write_text('{"id": "p", "qa": []}\n{"id": "q", "rewrite": 3, "qa": []}\n')
    with pytest.raises(PragError, match=r"made\.jsonl:2: 'rewrites' is not a list of texts"):
        list(read_foreign(path, "file:x"))
    path.write_bytes(b"\xff\n")
    with pytest.raises(PragError, match="cannot be read as UTF-8"):
        list(read_foreign(path, "file:x"))
    with pytest.raises(PragError, match="cannot be read"):
        list(read_foreign(tmp_path / "none.jsonl", "file:x"))


# --- asking ---


class Scripted:
    """Answers prompts from lists, one list a passage and kind; remembers what was asked."""

    def __init__(self, rewrites, pairs):
        self.left = {False: rewrites, True: pairs}
        self.asked = []

    def __call__(self, prompts, schema, seed):
        self.asked.append((len(prompts), schema is not None, seed))
        kind = self.left[schema is not None]
        return [kind[next(n for n in kind if n in prompt)].pop(0) for prompt in prompts]


def test_each_passage_is_asked_until_it_has_enough_or_attempts_run_out():
    config = AugmentConfig(rewrites=2, pairs=2, attempts=2, seed=10)
    passages = [Passage("Aldern", "x"), Passage("Brixo", "y"), Passage("Calver", "z")]
    ask = Scripted(
        {
            "Aldern": ["one", "two"],
            "Brixo": ["one", "one ", "", "two"],
            "Calver": ["", " ", "", ""],
        },
        {
            "Aldern": [listed(("a?", 1, "f"), ("b?", 2, "f"), ("c?", 3, "f"))],
            "Brixo": [listed(("a?", 1, "f")), listed(("A ?", 9, "f"), ("b?", 2, "f"))],
            "Calver": ["sorry", "[{"],
        },
    )
    one, two, three = augment_by_asking(passages, config, "endpoint:m", ask)
    assert one == Augmentation(
        passages[0].id,
        ("one", "two"),
        (QAPair("a?", "1", "f"), QAPair("b?", "2", "f")),
        "endpoint:m",
    )
    assert two.rewrites == ("one", "two")
    assert [p.question for p in two.pairs] == ["a?", "b?"]
    assert [r.reason for r in two.rejects] == [
        "empty rewrite or one that was there",
        "empty rewrite or one that was there",
        "question asked before",
    ]
    assert (three.rewrites, three.pairs) == ((), ())
    assert len(three.rejects) == 4 + 2
    assert three.rejects[4] == Reject("sorry", "no JSON list")
    assert three.rejects[5].reason.startswith("not JSON")
    assert ask.asked == [
        (3, False, 10),
        (3, False, 11),
        (2, False, 12),
        (2, False, 13),
        (3, True, 10),
        (2, True, 11),
    ]


def test_no_passages_and_no_rewrites_ask_nothing():
    ask = Scripted({}, {"Krog": [listed(("a?", 1, "f"))]})
    assert augment_by_asking([], AugmentConfig(), "x", ask) == []
    (made,) = augment_by_asking([LIGHT], AugmentConfig(rewrites=0, pairs=1), "x", ask)
    assert (made.rewrites, len(made.pairs)) == ((), 1)
    assert ask.asked == [(1, True, 0)]


# --- the base model, JSON ---


def terse(base):
    """The model, made to like the marks that end things: its strings are short."""
    liked = base.tokenizer('"}],:', add_special_tokens=False)["input_ids"]
    disliked = base.tokenizer(" \n\t\r", add_special_tokens=False)["input_ids"]
    bias = torch.zeros(258, dtype=base.dtype)
    bias[liked], bias[disliked] = 8.0, -8.0
    base.model.lm_head.register_forward_hook(lambda module, inputs, out: out + bias)
    return base


@pytest.mark.parametrize(("model", "tokens"), [("terse", 400), ("terse", 60), ("free", 60)])
def test_constrained_decoding_says_json_or_runs_out_of_tokens(model, tokens):
    base = tiny_model("llama", seed=1)
    base = terse(base) if model == "terse" else base
    asker = SelfJson(base, AugmentConfig(max_new_tokens=tokens, temperature=1.0))
    said = asker._ask(["What?", "And a longer one?", "W"], pairs_schema(2), 3)
    whole = 0
    for text in said:
        assert text.startswith("[")
        if text.endswith("]"):
            assert len(parse_pairs(text)) == 2
            whole += 1
        else:
            # Half a character at the end may be one token or more.
            assert len(text_ids(base.tokenizer, text)) >= tokens - 3
            with pytest.raises(ValueError, match="not JSON"):
                parse_pairs(text)
    assert (whole == len(said)) == (tokens == 400)
    assert said == asker._ask(["What?", "And a longer one?", "W"], pairs_schema(2), 3)


def test_the_model_augments_itself():
    base = terse(tiny_model("llama", seed=1))
    config = AugmentConfig(pairs=2, max_new_tokens=250, temperature=1.0, attempts=1)
    augmenter = self_augmenter(base, config)
    assert isinstance(augmenter, SelfJson)
    assert augmenter.augment([]) == []
    before = torch.random.get_rng_state()
    made = augmenter.augment([LIGHT, Passage("", "A boat.")])
    assert torch.equal(before, torch.random.get_rng_state())
    assert [m.passage_id for m in made] == [LIGHT.id, Passage("", "A boat.").id]
    for one in made:
        assert one.origin == f"self:{base.fingerprint}"
        assert len(one.rewrites) == 1
        assert len(one.pairs) == 2 or one.rejects
    assert made == augmenter.augment([LIGHT, Passage("", "A boat.")])


# --- an endpoint ---


class Server:
    """A chat completions server on this machine: it says what the script has, in turn."""

    def __init__(self, script):
        self.asked = []
        script = iter(script)
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                asked.append((self.path, json.loads(self.rfile.read(length))))
                status, said = next(script)
                message = {"role": "assistant", "content": said}
                reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
                if status != 200:
                    reply = {"error": {"message": said, "type": "x"}}
                if said is NO_CHOICES:
                    reply = {}
                body = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *parts):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


NO_CHOICES = object()


@pytest.fixture
def serve(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = []

    def start(script):
        started.append(Server(script))
        return started[-1]

    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()


def wrapped(*pairs):
    return json.dumps({"pairs": json.loads(listed(*pairs))})


ASKED = AugmentConfig(rewrites=1, pairs=1, attempts=2, max_new_tokens=99, seed=5)


def test_an_endpoint_is_asked_as_the_api_has_it(serve):
    server = serve([(200, "in other words"), (200, wrapped(("q?", ["a", "b"], "f")))])
    endpoint = Endpoint(ASKED, "m1", server.url, workers=1)
    (made,) = endpoint.augment([LIGHT])
    assert made == Augmentation(
        LIGHT.id, ("in other words",), (QAPair("q?", "a, b", "f"),), "endpoint:m1"
    )
    (path, first), (_, second) = server.asked
    assert path == "/v1/chat/completions"
    assert (first["model"], first["max_tokens"], first["seed"]) == ("m1", 99, 5)
    assert first["temperature"] == 0.7
    assert [m["role"] for m in first["messages"]] == ["user"]
    assert LIGHT.text in first["messages"][0]["content"]
    assert "response_format" not in first
    schema = second["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["pairs"] == pairs_schema(1)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(serve, status):
    server = serve(
        [(status, "wait"), (200, "words"), (status, "wait"), (200, wrapped(("q?", 1, "f")))]
    )
    (made,) = Endpoint(ASKED, "m", server.url, workers=1, retries=1).augment([LIGHT])
    assert (made.rewrites, len(made.pairs), made.rejects) == (("words",), 1, ())
    assert len(server.asked) == 4


def test_a_server_that_stays_in_trouble_is_given_up(serve):
    server = serve([(500, "broken")] * 9)
    with pytest.raises(PragError, match=r"the endpoint http://127.* \(model m\): .*broken"):
        Endpoint(ASKED, "m", server.url, workers=1, retries=2).augment([LIGHT])
    assert len(server.asked) == 3


def test_a_refusal_is_told_at_once(serve):
    server = serve([(401, "bad key")] * 9)
    with pytest.raises(PragError, match=r"the endpoint http://127.* \(model m\): .*bad key"):
        Endpoint(ASKED, "m", server.url, workers=1).augment([LIGHT])
    assert len(server.asked) == 1


def test_nobody_there_is_told(serve):
    server = serve([])
    server.http.server_close()
    with pytest.raises(PragError, match="the endpoint http://127"):
        Endpoint(ASKED, "m", server.url, workers=1, retries=0).augment([LIGHT])


def test_what_is_no_json_is_a_reject(serve):
    server = serve([(200, "words"), (200, "I would rather not."), (200, NO_CHOICES)])
    (made,) = Endpoint(ASKED, "m", server.url, workers=1).augment([LIGHT])
    assert (made.rewrites, made.pairs) == (("words",), ())
    assert made.rejects == (
        Reject("I would rather not.", "no JSON list"),
        Reject("", "no JSON list"),
    )
    assert len(server.asked) == 3


def test_many_requests_in_flight_come_back_in_order(serve):
    server = serve([(200, "words")] * 8 + [(200, wrapped(("q?", 1, "f")))] * 8)
    passages = [Passage(f"T{i}", "x") for i in range(8)]
    made = Endpoint(ASKED, "m", server.url, workers=4).augment(passages)
    assert [m.passage_id for m in made] == [p.id for p in passages]
    assert len(server.asked) == 16


def test_an_endpoint_without_a_key_says_so(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(PragError, match="OPENAI_API_KEY=none"):
        Endpoint(ASKED, "m", "http://127.0.0.1:1/v1")


# --- the base model, spans ---

SPANS = AugmentConfig(style="spans", rewrites=0, pairs=2, temperature=0.0, max_new_tokens=24)
LIBRARY = [
    LIGHT,
    Passage("Velan", "The Velan is a river of Italy. It rises near Monte Sella; floods in 1966."),
    Passage("", "it rains"),
    Passage(
        "Clay", "Clay was released in Accra on 4 May 1911 by Joseph Amara, with 12,000 copies."
    ),
    Passage("Basalt", "Basalt is a dark rock."),
]
SAID = {  # what the model is made to say after the start of a question; else what it likes
    "lighthouse": " built of?",
    "Anna Krog": " Who built Krog Light?",
    "river": "?",
    "Monte Sella": " does the Velan rise?",
    "1966": " was this\n",
    "Accra": " in Accra was Clay made?",
    "Joseph Amara": " Who made Clay?",
}


@pytest.fixture
def short(monkeypatch):
    """A shorter text before the passages, so that the tests are quick."""
    monkeypatch.setattr(self_spans, "WORKED", "Write a question.\n\nText:")


def guided(base):
    """The model, made to say these questions for these answers; really through its cache."""
    generate = base.model.generate

    class Force(LogitsProcessor):
        def __init__(self, wanted, start):
            self.wanted, self.start = wanted, start

        def __call__(self, ids, logits):
            at = ids.shape[1] - self.start
            for row, wanted in enumerate(self.wanted):
                if at < len(wanted):
                    logits[row] = float("-inf")
                    logits[row, wanted[at]] = 0.0
            return logits

    def guided_generate(ids, **more):
        texts = [
            base.tokenizer.decode(row[kept.bool()])
            for row, kept in zip(ids, more["attention_mask"], strict=True)
        ]
        spans = [t.rsplit("\nAnswer: ", 1)[1].split("\n")[0] for t in texts]
        wanted = [text_ids(base.tokenizer, SAID.get(span, "")) for span in spans]
        force = LogitsProcessorList([Force(wanted, ids.shape[1])])
        return generate(ids, logits_processor=force, **more)

    base.model.generate = guided_generate
    return base


def plainly(base, passage, config):
    """The question of each span without batch, cache or padding: the whole text for each token."""
    ends = {i for i in range(258) if {"?", "\n"} & set(base.tokenizer.decode([i]))}
    ends.add(base.tokenizer.eos_token_id)
    lead = f"{passage.title}: " if passage.title else ""
    shown = []
    for span in answer_spans(passage, config.pairs + self_spans.SPARE):
        starter = f" {span.starter}" if span.starter else ""
        text = f"{self_spans.WORKED} {lead}{span.sentence}\nAnswer: {span.text}\nQuestion:{starter}"
        ids = text_ids(base.tokenizer, text)
        wanted, said = text_ids(base.tokenizer, SAID.get(span.text, "")), []
        while len(said) < config.max_new_tokens and not (said and said[-1] in ends):
            with torch.no_grad():
                best = int(base.model(torch.tensor([ids + said])).logits[0, -1].argmax())
            said.append(wanted[len(said)] if len(said) < len(wanted) else best)
        question = span.starter + base.tokenizer.decode(said, skip_special_tokens=True)
        shown.append(f"{question.strip()} -> {span.text}")
    return shown


def shown_by(one):
    """Every question that was kept or rejected, with its answer."""
    return {f"{p.question} -> {p.answer}" for p in one.pairs} | {
        r.text for r in one.rejects if " -> " in r.text
    }


def assert_sound(made, base, config):
    """Each of LIBRARY has grounded pairs at most as many as wanted, and reasons for the rest."""
    for passage, one in zip(LIBRARY, made, strict=True):
        assert (one.passage_id, one.rewrites) == (passage.id, ())
        assert one.origin == f"self:{base.fingerprint}"
        assert len(one.pairs) <= config.pairs
        assert all(ungrounded(p, passage) is None for p in one.pairs)
        assert all(r.reason for r in one.rejects)


@pytest.mark.parametrize(("family", "rows"), [("llama", 3), ("qwen2", 48), ("gemma", 4)])
def test_passages_together_give_what_each_gives_alone(short, monkeypatch, family, rows):
    monkeypatch.setattr(self_spans, "ROWS", rows)
    base = guided(tiny_model(family))
    together = SelfSpans(base, SPANS).augment(LIBRARY)
    assert together == [SelfSpans(base, SPANS).augment([p])[0] for p in LIBRARY]
    assert together[::-1] == SelfSpans(base, SPANS).augment(LIBRARY[::-1])
    for passage, one in zip(LIBRARY, together, strict=True):
        expected = plainly(base, passage, SPANS)
        assert shown_by(one) <= set(expected)
        # Only grounded questions beyond those that are wanted are neither kept nor rejected.
        assert len(shown_by(one)) == len(set(expected)) or len(one.pairs) == SPANS.pairs
    assert len({len(plainly(base, p, SPANS)) for p in LIBRARY}) > 2


def test_kept_pairs_are_grounded_and_rejects_have_reasons(short):
    base = guided(tiny_model("llama"))
    augmenter = self_augmenter(base, SPANS)
    assert isinstance(augmenter, SelfSpans)
    made = augmenter.augment(LIBRARY)
    assert_sound(made, base, SPANS)
    for passage, one in zip(LIBRARY, made, strict=True):
        spans = [s.text for s in answer_spans(passage, SPANS.pairs + self_spans.SPARE)]
        order = [spans.index(p.answer) for p in one.pairs]
        assert order == sorted(order)
    light, velan, rain, clay, _ = made
    who = QAPair("Who built Krog Light?", "Anna Krog", "Anna Krog built it in 1887.")
    assert who in light.pairs
    assert "Where does the Velan rise?" in [p.question for p in velan.pairs]
    assert Reject("In what year was this -> 1966", "not a question") in velan.rejects
    assert (
        Reject("Where in Accra was Clay made? -> Accra", "answer in the question") in clay.rejects
    )
    assert rain.rejects == (Reject("", "no span of the passage can be an answer"),)


def test_no_passages_ask_nothing(short):
    augmenter = SelfSpans(tiny_model("llama"), SPANS)
    assert augmenter.augment([]) == []
    assert augmenter._cache is None


def test_the_worked_examples_are_read_once(short):
    base = tiny_model("llama")
    calls = []
    base.model.register_forward_hook(lambda module, inputs, out: calls.append(1))
    augmenter = SelfSpans(base, replace(SPANS, max_new_tokens=1))
    first = augmenter.augment(LIBRARY)
    once = len(calls)
    assert augmenter.augment(LIBRARY) == first
    assert len(calls) == 2 * once - 1


# --- by rule ---

RULE = AugmentConfig(style="cloze", rewrites=0, pairs=5)


@pytest.mark.parametrize(
    ("title", "text", "wanted"),
    [
        (
            "Ada Fowl",
            "Ada Mary Fowl (24 January 1894 – 17 May 1973) was an Australian politician. "
            "She was born in Merryland to bricklayer Thomas Fowl. Her party won 14 seats.",
            {
                ("Ada Mary Fowl was what?", "Australian politician"),
                ("When was Ada Fowl born?", "24 January 1894"),
                ("When did Ada Fowl die?", "17 May 1973"),
                ("Ada Fowl was born in what place?", "Merryland"),
                ("Ada Fowl's party won how many seats?", "14 seats"),
            },
        ),
        (
            "Salt War",
            "The Salt War (1 May 1901 – 3 June 1907) was a conflict. It ended in Oslo.",
            {
                ("Salt War, from what date?", "1 May 1901"),
                ("Salt War, until what date?", "3 June 1907"),
                ("Salt War ended in what place?", "Oslo"),
            },
        ),
        (
            "Clay (band)",
            'Clay released "Night Ferry" in 1998. In 2004 they moved to Accra. '
            "(They split in 2009.)",
            {
                ("Clay released what title in 1998?", "Night Ferry"),
                ("Clay split in what year?", "2009"),
                ('Clay released "Night Ferry" in what year?', "1998"),
                ("Clay: In 2004 they moved to whom or what?", "Accra"),
                ("Clay: In what year they moved to Accra?", "2004"),
            },
        ),
        (
            "Krog Light",
            "Anna Krog built it in 1887.",
            {
                ("Krog Light: who or what built it in 1887?", "Anna Krog"),
                ("Anna Krog built it in what year?", "1887"),
            },
        ),
        (
            "",
            "Order the pump (made by Nordpump in Oslo) within 12 days.",
            {
                ("Order the pump, made by Nordpump in what place?", "Oslo"),
                ("Order the pump within how many days?", "12 days"),
            },
        ),
    ],
)
def test_a_sentence_up_to_its_answer_is_the_question(title, text, wanted):
    passage = Passage(title, text)
    (made,) = Cloze(tiny_model("llama"), replace(RULE, pairs=9)).augment([passage])
    assert wanted <= {(p.question, p.answer) for p in made.pairs}


@given(PASSAGES)
def test_a_question_by_rule_asks_once_and_keeps_to_its_passage(passage):
    for span in answer_spans(passage, 8):
        question = cloze_question(span, passage)
        assert question == cloze_question(span, passage)
        assert question.endswith("?")
        assert "\n" not in question
        assert question[:1] == question[:1].upper()


def test_pairs_by_rule_are_grounded_and_rejects_have_reasons():
    base = tiny_model("llama")
    augmenter = self_augmenter(base, RULE)
    assert isinstance(augmenter, Cloze)
    made = augmenter.augment(LIBRARY)
    assert made == [augmenter.augment([p])[0] for p in LIBRARY]
    assert_sound(made, base, RULE)
    assert made[2].rejects == (Reject("", "no span of the passage can be an answer"),)
    twice = Passage("Ox", "Ox (born 1 May 1901) is a poet (born 3 June 1907). He is in Oslo.")
    (one,) = augmenter.augment([twice])
    assert Reject("When was Ox born? -> 3 June 1907", "question asked before") in one.rejects


def test_a_year_in_brackets_elsewhere_is_no_birth():
    film = Passage("Ox", "Ox was in Clay (1973). He was also in Hay (1979 – 1981).")
    (one,) = Cloze(tiny_model("llama"), RULE).augment([film])
    assert {p.answer for p in one.pairs} >= {"1973", "1979", "1981"}
    assert not any("born" in p.question or "die" in p.question for p in one.pairs)


def test_the_span_is_the_whole_word():
    arthur = Passage("Ox", "Arthurs met Art at noon in 1973.")
    span = next(s for s in answer_spans(arthur, 9) if s.text == "Art")
    assert cloze_question(span, arthur) == "Ox: Arthurs met whom or what at noon in 1973?"

"""The engine vllm by its HTTP: same answers, eviction, end tokens, errors. No vLLM is needed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
import torch

from conftest import tiny_model
from prag import KnowledgeBase
from prag.config import GenerateConfig
from prag.generate import Request, TransformersEngine
from prag.lora import Merged
from prag.model import load_model
from prag.records import PragError
from prag.vllm_engine import VllmEngine
from prag.vllm_server import as_adapter, content_of
from vllm_stand_in import StandIn

pytestmark = pytest.mark.fast
pytest.importorskip("httpx")

CONFIG = GenerateConfig(8)
PROMPT = tuple(range(40, 60))


def merged(base, seed, ranks=(2,), strength=0.3):
    """A random adapter; the ranks of its sites go round."""
    g = torch.Generator().manual_seed(seed)
    return Merged(
        {
            site.name: (
                torch.randn(r, site.inputs, generator=g, dtype=base.dtype),
                torch.randn(site.outputs, r, generator=g, dtype=base.dtype) * strength,
            )
            for site, r in zip(base.sites, ranks * len(base.sites), strict=False)
        }
    )


@pytest.fixture
def served(monkeypatch, tiny):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    started = StandIn(tiny)
    yield started
    started.http.shutdown()
    started.http.server_close()


@pytest.fixture
def engine(served, tiny, tmp_path):
    made = VllmEngine(tiny, served.url, folder=tmp_path / "adapters")
    yield made
    made.close()


def same(theirs, own):
    for a, b in zip(theirs, own, strict=True):
        assert (a.text, a.ids, a.ended, a.pieces) == (b.text, b.ids, b.ended, b.pieces)
        assert (a.trace is None) == (b.trace is None)
        if a.trace is not None:
            assert a.trace.probabilities == pytest.approx(b.trace.probabilities)
            assert a.trace.end == pytest.approx(b.trace.end)
            assert a.trace.attention is None


def test_it_answers_as_the_transformers_engine_does(engine, tiny):
    a, b = merged(tiny, 1), merged(tiny, 2, ranks=(1, 3))
    requests = [
        Request(PROMPT, a),
        Request(PROMPT),
        Request(PROMPT[3:], b, watch="confidence"),
        Request(PROMPT, a, max_new_tokens=3),
        Request(PROMPT, Merged({})),
        Request(PROMPT[5:], until=lambda text: len(text) >= 2, watch="confidence"),
        Request(PROMPT[5:], a, until=lambda text: len(text) >= 3),
    ]
    theirs = engine.generate(requests, CONFIG)
    own = TransformersEngine(tiny).generate(requests, CONFIG)
    same(theirs, own)
    assert theirs[0].ids != theirs[1].ids, "the adapters change what is said"
    assert all(0 < m.first_token_seconds <= m.seconds for m in theirs)


def test_requests_without_adapters_are_not_beside_those_with(engine, served, tiny):
    served.seconds = 0.1
    a = merged(tiny, 1)
    made = engine.generate([Request(PROMPT, a), Request(PROMPT)] * 3, CONFIG)
    assert not served.wrong
    assert made[0].ids == made[2].ids != made[1].ids == made[3].ids


@pytest.mark.parametrize(
    ("writes", "ids", "ended"),
    [
        ([65, 66, 1], (65, 66), True),
        ([65, 66], (65, 66), False),
        ([65, 66, 67, 1], (65, 66, 67), True),
        ([1], (), True),
    ],
)
def test_the_end_token_is_no_part_of_what_was_made(engine, served, tiny, writes, ids, ended):
    served.writes = writes
    (made,) = engine.generate([Request(PROMPT, watch="confidence")], CONFIG)
    assert (made.ids, made.ended) == (ids, ended)
    assert made.text == tiny.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(made.pieces) == made.text
    assert (len(made.trace.probabilities), len(made.trace.end)) == (len(ids), ended)
    body = served.of("completions")[-1]
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([1], True)


@pytest.mark.parametrize("adapted", [False, True])
def test_until_ends_it_where_it_is_first_true(engine, served, tiny, adapted):
    served.writes = [65, 66, 67, 68, 69, 1]
    three = len(tiny.tokenizer.decode([65, 66, 67]))
    request = Request(PROMPT, merged(tiny, 1) if adapted else None, until=lambda t: len(t) == three)
    (made,) = engine.generate([request], CONFIG)
    assert (made.ids, made.ended) == ((65, 66, 67), False)


def test_settings_are_the_callers_and_none_the_servers(engine, served):
    engine.generate([Request(PROMPT)], replace(CONFIG, temperature=0.7, top_k=9, top_p=0.8, seed=3))
    engine.generate([Request(PROMPT, max_new_tokens=2)], CONFIG)
    sampled, greedy = (body for body in served.of("completions") if "stream" in body)
    asked = [sampled[k] for k in ("temperature", "top_k", "top_p", "seed", "max_tokens")]
    assert asked == [0.7, 9, 0.8, 3, 8]
    assert (greedy["temperature"], greedy["max_tokens"], "top_k" in greedy) == (0.0, 2, False)
    assert (greedy["repetition_penalty"], greedy["min_p"]) == (1.0, 0.0)
    assert greedy["prompt"] == list(PROMPT)


def test_what_was_read_for_earlier_questions_is_not_used(engine, served):
    for _ in range(2):
        engine.begin()
        engine.generate([Request(PROMPT), Request(PROMPT)], CONFIG)
    salts = [body["cache_salt"] for body in served.of("completions") if "stream" in body]
    assert salts[0] == salts[1] != salts[2] == salts[3]


# --- adapters on the server ---


def test_the_adapter_used_longest_ago_goes_first(served, tiny, tmp_path):
    engine = VllmEngine(tiny, served.url, folder=tmp_path, adapters=2)
    a, b, c = (merged(tiny, seed) for seed in range(3))
    for one in (a, b, a, c, b):
        engine.generate([Request(PROMPT, one)], CONFIG)
    changes = [
        (path, next(x for x, m in zip("abc", (a, b, c), strict=True) if content_of(m) in name))
        for path, body in served.asked
        if (name := (body or {}).get("lora_name"))
    ]
    load, unload = "load_lora_adapter", "unload_lora_adapter"
    assert changes == [
        (load, "a"),
        (load, "b"),
        (unload, "b"),
        (load, "c"),
        (unload, "a"),
        (load, "b"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(served.loaded)
    engine.close()
    assert not served.loaded
    assert not list(tmp_path.iterdir())


def test_an_adapter_in_use_is_never_taken_out(served, tiny):
    engine = VllmEngine(tiny, served.url, adapters=1)
    engine.begin()
    served.gate.clear()
    made = []
    requests = [Request(PROMPT, merged(tiny, seed)) for seed in range(2)]
    asking = threading.Thread(
        target=lambda: made.extend(engine.generate(requests, replace(CONFIG, rows=2)))
    )
    asking.start()
    until_true(lambda: any("stream" in body for body in served.of("completions")))
    time.sleep(0.2)  # time in which the other could have taken its place
    assert len(served.of("load_lora_adapter")) == 1
    assert not served.of("unload_lora_adapter")
    served.gate.set()
    asking.join(20)
    assert len(made) == 2
    assert not served.wrong
    engine.close()


def test_many_at_once_never_take_what_another_uses(served, tiny):
    engine = VllmEngine(tiny, served.url, adapters=2)
    served.seconds = 0.01
    sets = [merged(tiny, seed) for seed in range(5)]
    requests = [Request(PROMPT, sets[i * 7 % 5]) for i in range(30)]
    theirs = engine.generate(requests, replace(CONFIG, rows=8, max_new_tokens=2))
    assert not served.wrong
    assert served.most == 2
    own = TransformersEngine(tiny).generate(requests, replace(CONFIG, max_new_tokens=2))
    same(theirs, own)
    engine.close()


def test_engines_of_one_server_leave_each_other_alone(served, tiny):
    first, second = (VllmEngine(tiny, served.url) for _ in range(2))
    request = Request(PROMPT, merged(tiny, 1))
    made = first.generate([request], CONFIG)
    same(second.generate([request], CONFIG), made)
    second.close()
    same(first.generate([request], CONFIG), made)
    assert len(served.of("load_lora_adapter")) == 2
    first.close()


def test_after_a_restart_of_the_server_adapters_are_loaded_again(engine, served, tiny):
    request = Request(PROMPT, merged(tiny, 1))
    made = engine.generate([request], CONFIG)
    served.loaded.clear()
    with pytest.raises(PragError, match="does not exist"):
        engine.generate([request], CONFIG)
    same(engine.generate([request], CONFIG), made)


def test_sites_of_a_smaller_rank_are_padded(tiny):
    uneven = merged(tiny, 3, ranks=(1, 2, 4))
    even = as_adapter(uneven)
    assert (even.rank, even.alpha) == (4, 4)
    for name, (A, B) in uneven.factors.items():
        padded_A, padded_B = even.factors[name]
        assert (padded_A.shape[0], padded_B.shape[1]) == (4, 4)
        assert torch.equal(padded_B @ padded_A, B @ A)


def test_names_go_by_content(tiny):
    assert content_of(merged(tiny, 1)) == content_of(merged(tiny, 1))
    assert content_of(merged(tiny, 1)) != content_of(merged(tiny, 2))
    some = dict(list(merged(tiny, 1).factors.items())[:2])
    assert content_of(Merged(some)) != content_of(merged(tiny, 1))


# --- errors ---

LOAD = "load_lora_adapter"


def vllm_says(message):
    return {"error": {"message": message, "code": 400}}


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((404, {"detail": "Not Found"}), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ((500, vllm_says("LoRA is not enabled. Use --enable-lora")), "start it with --enable-lora"),
        ((500, vllm_says("LoRA rank 12 is greater than max_lora_rank 8.")), "--max-lora-rank 16"),
        ((404, vllm_says("No adapter found for /x")), "--adapter-folder"),
        ((500, vllm_says("expected target modules in {'o_proj'}")), "expected target modules"),
        ((401, vllm_says("Unauthorized")), "VLLM_API_KEY"),
    ],
)
def test_an_adapter_that_is_not_taken(engine, served, tiny, tmp_path, refusal, told):
    served.refuses[LOAD] = refusal
    with pytest.raises(PragError, match=told) as caught:
        engine.generate([Request(PROMPT, merged(tiny, 1, ranks=(12,)))], CONFIG)
    assert served.url in str(caught.value)
    assert not list((tmp_path / "adapters").iterdir()), "nothing is left behind"
    del served.refuses[LOAD]
    engine.generate([Request(PROMPT, merged(tiny, 1))], CONFIG)


def test_a_folder_that_cannot_be_written(served, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    engine = VllmEngine(tiny, served.url, folder=tmp_path / "file")
    with pytest.raises(PragError, match="writing an adapter failed"):
        engine.generate([Request(PROMPT, merged(tiny, 1))], CONFIG)


def test_nobody_there(served, tiny):
    served.http.shutdown()
    served.http.server_close()
    with pytest.raises(PragError, match=r"no vLLM server answers at http://127.*--engine-url"):
        VllmEngine(tiny, served.url).begin()
    with pytest.raises(PragError, match="no vLLM server answers at nonsense"):
        VllmEngine(tiny, "nonsense").begin()


@pytest.mark.parametrize("name", ["other", None])
def test_a_name_that_the_server_does_not_have(served, tiny, name):
    served.models = ("one", "two")
    with pytest.raises(PragError, match=r"serves 'one', 'two', .*--engine-model"):
        VllmEngine(tiny, served.url, name).begin()
    VllmEngine(tiny, served.url, "two").begin()


def test_another_base_model(served):
    with pytest.raises(PragError, match="is not 'tiny-llama'"):
        VllmEngine(tiny_model("llama", seed=1), served.url).begin()


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_base_model_in_coarser_precision_is_the_same(engine, served, shift):
    served.shift = shift
    engine.begin()


@pytest.mark.parametrize("reply", [(200, "<html>"), (404, {"detail": "Not Found"})])
def test_what_is_no_vllm(engine, served, reply):
    served.refuses["models"] = reply
    with pytest.raises(PragError, match="up to /v1"):
        engine.begin()


def test_a_server_that_is_silent(served, tiny):
    engine = VllmEngine(tiny, served.url, timeout=0.2)
    engine.begin()
    served.gate.clear()
    with pytest.raises(PragError, match=r"said nothing for 0\.2 s"):
        engine.generate([Request(PROMPT)], CONFIG)
    served.gate.set()


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        ('data: {"choices": [{"token_ids": [65]}]}\n\n', "broke off in the middle"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "broke off: .*out of memory"),
        ('data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n', "gives no token ids"),
    ],
)
def test_an_answer_that_breaks_off(engine, served, stream, told):
    engine.begin()
    served.refuses["completions"] = (200, stream)
    with pytest.raises(PragError, match=told):
        engine.generate([Request(PROMPT)], CONFIG)


def test_what_does_not_fit_or_cannot_be_done(engine, served):
    served.context = 30
    with pytest.raises(PragError, match="without tokens"):
        engine.check(Request(()), CONFIG)
    with pytest.raises(PragError, match="context of 30"):
        engine.check(Request(PROMPT, max_new_tokens=11), CONFIG)
    with pytest.raises(PragError, match="any but dragin"):
        engine.generate([Request(PROMPT, watch="attention")], CONFIG)
    assert engine.generate([], CONFIG) == []
    with pytest.raises(PragError, match="at least 1 set"):
        VllmEngine(engine.base, served.url, adapters=0)


# --- a knowledge base, and the command ---


def test_a_knowledge_base_answers_through_it(prag, served, built_kb, model_folder, tmp_path):
    base = load_model(str(model_folder))
    served.base, served.engine = base, TransformersEngine(base)
    questions = ["What is word 1 of Aldern0?", "What is word 1 of Brixo1?", "Is Calver2 a tower?"]
    own = KnowledgeBase.open(built_kb, base)
    theirs = KnowledgeBase.open(built_kb, base, engine=lambda b: VllmEngine(b, served.url))
    for method in ("closed-book", "in-context", "parametric", "combined", "da-rag", "flare"):
        expected = own.ask_many(questions, method)
        for a, b in zip(theirs.ask_many(questions, method), expected, strict=True):
            assert (a.raw, a.error, a.sources, a.notes) == (b.raw, b.error, b.sources, b.notes)
    assert all("dragin" in a.error for a in theirs.ask_many(questions, "dragin"))
    assert served.of(LOAD)
    code, said = prag(
        "ask", built_kb, questions[0], "--engine", "vllm", "--engine-url", served.url,
        "--engine-model", "base", "--adapter-folder", tmp_path / "seen",
    )  # fmt: skip
    assert (code, own.ask(questions[0]).text in said) == (0, True)


def test_the_service_answers_through_it(served, built_kb, model_folder, tmp_path):
    from serve_helpers import asked
    from serve_helpers import served as serving

    kb = KnowledgeBase.open(built_kb)
    wrong = serving(kb, lambda base: VllmEngine(base, served.url, folder=tmp_path))
    with wrong as (_, client):  # which serves another model
        reply = client.post("/v1/chat/completions", json=asked("Is Calver2 a tower?"))
        assert reply.status_code == 502
        assert "Adapters fit only the model" in reply.json()["error"]["message"]
    base = load_model(str(model_folder))
    served.base, served.engine = base, TransformersEngine(base)
    question = "How high is the tower Brixo1?"
    with serving(kb, lambda base: VllmEngine(base, served.url, folder=tmp_path)) as (_, client):
        for method in ("parametric", "in-context", "combined", "closed-book"):
            expected = kb.ask(question, method).raw.strip().removeprefix(":").strip()
            for stream in (False, True):
                body = asked(question, method, max_tokens=20, stream=stream)
                reply = client.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200, reply.text
                if stream:
                    lines = [line[6:] for line in reply.text.split("\n\n") if line][:-1]
                    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
                    text = "".join(delta.get("content", "") for delta in deltas)
                else:
                    text = reply.json()["choices"][0]["message"]["content"]
                assert text == expected
        assert "prag_questions_total" in client.get("/metrics").text


def test_the_command_says_what_is_missing(prag, built_kb):
    ask = ("ask", built_kb, "What is word 1 of Aldern0?")
    assert prag(*ask, "--engine", "vllm")[1].endswith("like http://127.0.0.1:8000/v1")
    assert "use transformers or vllm" in prag(*ask, "--engine", "other")[1]
    assert "go with vllm" in prag(*ask, "--engine-url", "http://127.0.0.1:8000/v1")[1]


def until_true(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

"""The service: OpenAI's calls, documents that come and go under questions, refusals."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import httpx
import pytest

from prag.config import GenerateConfig
from prag.serve.asking import Asked, Call, Turn
from prag.serve.service import Service
from prag.serve.settings import ServeSettings
from serve_helpers import BUILDERS, TOWERS, asked, documents, make_kb, served, wait_for

pytestmark = pytest.mark.fast
CHAT = "/v1/chat/completions"
QUESTION = "Who built the tower Brixo?"


@pytest.fixture(scope="module")
def running(model_folder, tmp_path_factory):
    kb = make_kb(tmp_path_factory.mktemp("serve") / "kb", model_folder)
    with served(kb) as (service, client):
        yield service, client


@pytest.fixture(scope="module")
def client(running):
    return running[1]


def events(response):
    """The data of server-sent events, the last a word."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# -- questions --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["parametric", "in-context", "combined", "closed-book"])
def test_an_answer_is_that_of_ask(running, method):
    service, client = running
    reply = client.post(CHAT, json=asked(QUESTION, method, max_tokens=20)).json()
    answer = service.kb.ask(QUESTION, method)
    assert reply["choices"][0]["message"]["content"] == answer.raw.strip().removeprefix(":").strip()
    assert reply["prag"]["answer"] == answer.text
    assert reply["usage"]["prompt_tokens"] == answer.prompt_tokens
    assert reply["usage"]["completion_tokens"] == answer.generated_tokens
    assert [p["id"] for p in reply["prag"]["passages"]] == [s.passage_id for s in answer.sources]
    assert [p["adapter"] for p in reply["prag"]["passages"]] == [s.adapter for s in answer.sources]
    if method != "closed-book":
        assert reply["prag"]["passages"][0]["documents"] == ["tower-Brixo.txt"]


@pytest.mark.parametrize("method", ["parametric", "in-context", "combined", "closed-book"])
def test_a_stream_says_what_the_whole_says(client, method):
    body = asked(QUESTION, method)
    whole = client.post(CHAT, json=body).json()
    streamed = events(
        client.post(CHAT, json={**body, "stream": True, "stream_options": {"include_usage": True}})
    )
    assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in streamed if e["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert streamed[-1]["usage"] == whole["usage"]
    assert streamed[-1]["choices"] == []
    last = streamed[-2]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["prag"]["passages"] == whole["prag"]["passages"]
    if method == "closed-book":
        assert len(streamed) > 5  # it came in pieces


def test_each_prompt_of_a_completion_is_a_question(client):
    prompts = ["Who built the tower Brixo?", "Who built the tower Calver?"]
    body = {"model": "prag/parametric", "prompt": prompts, "max_tokens": 9}
    whole = client.post("/v1/completions", json=body).json()
    assert [c["index"] for c in whole["choices"]] == [0, 1]
    found = [c["prag"]["passages"][0]["documents"] for c in whole["choices"]]
    assert found == [["tower-Brixo.txt"], ["tower-Calver.txt"]]
    streamed = events(client.post("/v1/completions", json={**body, "stream": True}))
    for choice in whole["choices"]:
        parts = [e["choices"][0] for e in streamed if e["choices"][0]["index"] == choice["index"]]
        assert "".join(p["text"] for p in parts) == choice["text"]


def test_models_are_methods(client):
    names = [m["id"] for m in client.get("/v1/models").json()["data"]]
    assert names == ["prag/parametric", "prag/combined", "prag/in-context", "prag/closed-book"]
    assert client.get("/v1/models/prag/combined").json()["id"] == "prag/combined"
    assert client.get("/v1/models/gpt-4").status_code == 404


def test_the_limit_ends_an_answer_and_stop_texts_cut_it(client):
    whole = client.post(CHAT, json=asked(QUESTION, "closed-book", max_tokens=30)).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    text = whole["choices"][0]["message"]["content"]
    stop = text[5:7]
    cut = client.post(CHAT, json=asked(QUESTION, "closed-book", max_tokens=30, stop=stop)).json()
    assert cut["choices"][0]["message"]["content"] == text[: text.index(stop)].rstrip()
    assert cut["choices"][0]["finish_reason"] == "stop"
    body = asked(QUESTION, "closed-book", max_tokens=30, stop=stop, stream=True)
    parts = [
        e["choices"][0]["delta"].get("content", "") for e in events(client.post(CHAT, json=body))
    ]
    assert "".join(parts) == text[: text.index(stop)].rstrip()


def test_a_seed_gives_the_same_again(client):
    body = asked(QUESTION, "closed-book", temperature=1.0, seed=7)
    texts = [client.post(CHAT, json=body).json()["choices"][0]["message"]["content"] for _ in "ab"]
    other = client.post(CHAT, json={**body, "seed": 8}).json()["choices"][0]["message"]["content"]
    assert texts[0] == texts[1] != other


def test_what_may_be_found_is_the_askers_choice(running):
    service, client = running

    def found(**prag):
        reply = client.post(CHAT, json=asked(QUESTION, prag=prag))
        return [p["documents"][0] for p in reply.json()["prag"]["passages"]]

    everything = found(top_k=4)
    assert sorted(everything) == sorted(TOWERS)
    assert found(top_k=1) == ["tower-Brixo.txt"]
    without = found(top_k=4, filter={"without_documents": ["tower-Brixo.txt"]})
    assert without == [d for d in everything if d != "tower-Brixo.txt"]
    assert found(filter={"documents": ["tower-Calver.txt"]}) == ["tower-Calver.txt"]
    ids = [p.id for p in service.kb.passages()]
    brixo = next(p.id for p in service.kb.passages() if "Brixo" in p.text)
    assert "tower-Brixo.txt" not in found(top_k=4, filter={"without_passages": [brixo]})
    reply = client.post(CHAT, json=asked(QUESTION, prag={"passages": [ids[3], ids[0]]})).json()
    assert [p["id"] for p in reply["prag"]["passages"]] == [ids[3], ids[0]]
    unknown = client.post(CHAT, json=asked(QUESTION, prag={"passages": ["0" * 16]}))
    assert unknown.status_code == 404


def test_a_question_that_nothing_fits_is_answered_without_passages(client):
    reply = client.post(CHAT, json=asked("zzz qqq?")).json()
    assert reply["prag"]["passages"] == []
    assert "no passage fits" in reply["prag"]["notes"][0]
    assert reply["prag"]["method"] == "parametric"


def test_a_system_message_stands_in_the_prompt(client):
    plain = client.post(CHAT, json=asked(QUESTION)).json()
    body = asked(QUESTION)
    body["messages"].insert(0, {"role": "system", "content": "Speak as a lighthouse keeper."})
    told = client.post(CHAT, json=body).json()
    assert told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    assert "system message" in told["prag"]["notes"][-1]


def test_a_question_that_goes_on_is_searched_for_with_the_one_before(client):
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Jon Moe."},
        {"role": "user", "content": "And how high is it?"},
    ]
    reply = client.post(CHAT, json={"model": "prag/parametric", "messages": messages}).json()
    assert reply["prag"]["passages"][0]["documents"] == ["tower-Brixo.txt"]
    assert "condense" in reply["prag"]["timings"]


def test_search_and_documents_are_shown(client):
    (first, *_) = client.get("/search", params={"q": QUESTION, "top_k": 2}).json()["passages"]
    assert first["documents"] == ["tower-Brixo.txt"]
    assert first["adapter"].startswith(first["id"])
    listed = client.get("/documents").json()["documents"]
    assert {d["name"]: d["state"] for d in listed} == dict.fromkeys(TOWERS, "ready")
    shown = client.get("/documents/tower-Brixo.txt").json()["passages"][0]
    assert shown["text"] == TOWERS["tower-Brixo.txt"]
    assert shown["adapter"] == first["adapter"]
    assert {"question", "answer"} == set(shown["augmentation"]["pairs"][0])
    assert client.get("/documents/nothing").status_code == 404
    assert client.get("/jobs/nothing").status_code == 404


def test_metrics_tell_of_what_was_asked(client):
    client.post(CHAT, json=asked(QUESTION))
    client.post(CHAT, json=asked(QUESTION, prag={"passages": ["0" * 16]}))
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['prag_questions_total{method="parametric",status="200"}']) >= 1
    assert float(values['prag_questions_total{method="parametric",status="404"}']) >= 1
    assert float(values["prag_rows_count"]) > 0
    assert float(values["prag_adapters"]) == len(TOWERS)
    assert float(values["prag_adapter_bytes"]) > 0
    assert float(values["prag_cache_misses"]) >= 1
    assert float(values["prag_cache_hits"]) >= 1
    assert float(values["prag_under_way"]) == float(values["prag_admitted"]) == 0
    stage = 'prag_stage_seconds_count{method="parametric",stage="generate"}'
    assert float(values[stage]) >= 1


def test_the_page_is_given_with_its_policy(client):
    for path, kind in {
        "/": "text/html",
        "/page.css": "text/css",
        "/page.js": "text/javascript",
    }.items():
        response = client.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in response.headers["content-security-policy"]
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200


# -- documents come and go --------------------------------------------------------------------


def test_a_document_is_added_answers_and_is_withdrawn(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    with served(kb) as (_, client):
        text = "Estrel is a tower of 91 metres. It was built by Ane Dahl in 1954."
        files = [
            ("files", ("../../Estrel.txt", text.encode())),
            ("files", ("b.md", b"# Hut\n\nA hut.")),
        ]
        response = client.post("/documents", files=files)
        assert response.status_code == 202
        assert response.headers["location"] == f"/jobs/{response.json()['id']}"
        name = "%2e%2e/%2e%2e/Estrel.txt"
        assert client.get(f"/documents/{name}").json()["state"] == "adding"
        assert wait_for(client, response.json()["id"])["state"] == "done"
        assert not (tmp_path / "Estrel.txt").exists()
        question = "Who built the tower Estrel?"
        found = client.post(CHAT, json=asked(question)).json()["prag"]["passages"]
        assert found[0]["documents"] == ["../../Estrel.txt"]
        assert found[0]["adapter"] is not None

        job = client.delete(f"/documents/{name}")
        assert job.status_code == 200
        for _ in range(3):  # before, while and after the process takes it out
            for method in ("parametric", "in-context", "combined"):
                reply = client.post(CHAT, json=asked(question, method)).json()
                assert all("Estrel" not in p["text"] for p in reply["prag"]["passages"])
            assert all(
                "Estrel" not in p["text"]
                for p in client.get("/search", params={"q": question}).json()["passages"]
            )
            refused = client.post(CHAT, json=asked(question, prag={"passages": [found[0]["id"]]}))
            assert refused.status_code == 404
            assert client.get(f"/documents/{name}").status_code == 404
            wait_for(client, job.json()["id"])
        assert client.delete(f"/documents/{name}").status_code == 404

        again = client.post(
            "/documents", json={"documents": [{"name": "Estrel.txt", "text": text}]}
        )
        wait_for(client, again.json()["id"])
        found = client.post(CHAT, json=asked(question)).json()["prag"]["passages"]
        assert found[0]["documents"] == ["Estrel.txt"]
    assert kb.verify().problems == ()


def test_each_of_many_clients_gets_its_own_while_documents_come_and_go(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    methods = ("parametric", "in-context", "combined", "closed-book")
    questions = [f"Who built the tower {name}?" for name in BUILDERS]
    filters = {"documents": list(TOWERS)}  # what comes and goes is not theirs
    pairs = [(q, m) for q in questions for m in methods]
    with served(kb, rows=6) as (service, client):

        def answer(question, method):
            body = asked(question, method, max_tokens=12, prag={"top_k": 1, "filter": filters})
            reply = client.post(CHAT, json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()["choices"][0]["message"]["content"]

        alone = {pair: answer(*pair) for pair in pairs}
        assert len(set(alone.values())) > len(questions)  # another one's would be seen
        wrong, over = [], threading.Event()

        def ask(n):
            for i in range(12):
                pair = pairs[(7 * n + 5 * i) % len(pairs)]
                if answer(*pair) != alone[pair]:
                    wrong.append(pair)

        def churn():
            while not over.is_set():
                body = {"documents": [{"name": "x.txt", "text": "The tower Brixo is Eli Nes's."}]}
                wait_for(client, client.post("/documents", json=body).json()["id"])
                client.delete("/documents/x.txt").raise_for_status()
                found = client.get("/search", params={"q": "tower Brixo Nes"}).json()["passages"]
                if any("x.txt" in p["documents"] for p in found):
                    wrong.append("x.txt")

        churning = threading.Thread(target=churn)
        askers = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
        for thread in (churning, *askers):
            thread.start()
        for thread in askers:
            thread.join(120)
        over.set()
        churning.join(120)
        assert wrong == []
        text = client.get("/metrics").text
        assert 'prag_rows_bucket{le="4.0"}' in text
        rows = {
            li.split("}")[0]: float(li.split()[-1]) for li in text.splitlines() if "rows_b" in li
        }
        several = rows['prag_rows_bucket{le="+Inf"'] - rows['prag_rows_bucket{le="1.0"']
        assert several > 20  # they did share passes
        assert service.inbox.hidden() <= {"x.txt"}


def test_killed_in_the_middle_everything_that_was_taken_comes_to_be_there(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    names = [f"new-{i}.txt" for i in range(3)]
    with served(kb) as (service, client):
        for i, name in enumerate(names):
            town = ["Fenwick", "Gorran", "Hadley"][i]
            text = f"The mast of {town} is {70 + i} metres high and painted by Siv Aas."
            body = {"documents": [{"name": name, "text": text}]}
            assert client.post("/documents", json=body).status_code == 202
        client.delete("/documents/tower-Aldern.txt")
        while service.builder.process_id is None:
            time.sleep(0.01)
        os.kill(service.builder.process_id, signal.SIGKILL)
        time.sleep(1.0)
    # The service was stopped in the middle too: the next one goes on.
    with served(kb) as (_, client):
        while any(j["state"] in ("waiting", "running") for j in client.get("/jobs").json()["jobs"]):
            time.sleep(0.1)
        assert {j["state"] for j in client.get("/jobs").json()["jobs"]} == {"done"}
        listed = {d["name"]: d["state"] for d in client.get("/documents").json()["documents"]}
        assert listed == dict.fromkeys([*names, *list(TOWERS)[1:]], "ready")
        found = client.post(CHAT, json=asked("Who painted the mast of Hadley?")).json()
        assert found["prag"]["passages"][0]["documents"] == ["new-2.txt"]
    assert kb.verify().problems == ()


def test_jobs_that_the_process_always_dies_of_fail(model_folder, tmp_path, monkeypatch):
    kb = make_kb(tmp_path / "kb", model_folder)
    with served(kb) as (_, client):
        monkeypatch.setattr("prag.serve.builder.sys.executable", "/bin/false")
        body = {"documents": [{"name": "a.txt", "text": "A hut on a hill."}]}
        job = wait_for(client, client.post("/documents", json=body).json()["id"])
        assert job["state"] == "failed"
        assert "ended 3 times" in job["error"]
        assert client.post(CHAT, json=asked(QUESTION)).status_code == 200


def test_only_the_job_that_kills_the_process_fails(model_folder, tmp_path, monkeypatch):
    kb = make_kb(tmp_path / "kb", model_folder)
    died = []

    def run(self, at_once):
        jobs = self._inbox.open_jobs()
        taken = jobs[: int(at_once)] if at_once else jobs
        if any("poison.txt" in job.documents for job in taken):
            died.append(len(taken))
            return [job.id for job in taken]
        for job in taken:
            self._inbox.finish(job.id)
        return None

    monkeypatch.setattr("prag.serve.builder.Builder._turn", run)
    with served(kb) as (service, client):
        service.builder._wanted.clear()
        names = ["first.txt", "poison.txt", "last.txt"]
        jobs = [service.inbox.add(documents({name: "A hut."})).id for name in names]
        service.builder.wake()
        assert [wait_for(client, job)["state"] for job in jobs] == ["done", "failed", "done"]
    assert died == [3, 1, 1]


def test_another_process_that_writes_is_waited_for(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    with served(kb) as (_, client):
        with kb._writing():
            body = {"documents": [{"name": "a.txt", "text": "A hut on a hill of Gorran."}]}
            job = client.post("/documents", json=body).json()["id"]
            end = time.monotonic() + 60
            while client.get(f"/jobs/{job}").json()["stage"] != "wait":
                assert time.monotonic() < end
                time.sleep(0.1)
        assert wait_for(client, job)["state"] == "done"


def test_withdrawing_waits_for_the_answers_that_rest_on_it(model_folder, tmp_path, monkeypatch):
    kb = make_kb(tmp_path / "kb", model_folder)
    service = Service(kb, ServeSettings())
    monkeypatch.setattr(service.builder, "wake", lambda: None)
    held, go_on = threading.Event(), threading.Event()
    answered = service._answered

    def slow(*arguments):
        held.set()
        go_on.wait(30)
        return answered(*arguments)

    monkeypatch.setattr(service, "_answered", slow)
    question = Asked("parametric", (Turn("user", QUESTION),), GenerateConfig(), top_k=1)
    asking = threading.Thread(
        target=service.answer, args=(question, Call(service.engine, 60, (), None))
    )
    asking.start()
    held.wait(30)
    service.withdraw("tower-Calver.txt")  # the answer rests on another one
    gone = threading.Thread(target=service.withdraw, args=("tower-Brixo.txt",))
    gone.start()
    gone.join(0.5)
    assert gone.is_alive()
    go_on.set()
    gone.join(30)
    assert not gone.is_alive()
    asking.join(30)
    service.close()


def test_uploads_that_cannot_be_read_are_named_and_nothing_is_taken(running):
    service, client = running
    before = len(service.inbox.jobs())
    good = ("files", ("a.txt", b"A hut."))
    for name, data, word in [
        ("b.pdf", b"no pdf", "b.pdf"),
        ("b.xyz", b"text", "known endings"),
        ("b.parquet", b"PAR1", "known endings"),
        ("b.jsonl.gz", b"\x1f\x8b", "known endings"),
        ("b.txt", b"", "b.txt"),
        ("b.txt", b"\xff\xfe\x00\xd8", "b.txt"),
        ("b.jsonl", b'{"no": "text"}', "b.jsonl:1"),
        ("a.txt", b"Another hut.", "twice"),
    ]:
        response = client.post("/documents", files=[good, ("files", (name, data))])
        assert 400 <= response.status_code < 500, (name, response.text)
        assert word in response.json()["error"]["message"]
    assert (
        client.post("/documents", content=b"x", headers={"content-type": "text/plain"}).status_code
        == 415
    )
    assert client.post("/documents", json={"documents": []}).status_code == 400
    assert client.post("/documents", files=[("other", (None, "x"))]).status_code == 400
    assert len(service.inbox.jobs()) == before


# -- limits and who may ask -------------------------------------------------------------------


def test_beyond_the_rows_and_the_queue_there_is_no_room(model_folder, tmp_path, monkeypatch):
    kb = make_kb(tmp_path / "kb", model_folder)
    with served(kb, rows=1, queue=1) as (service, client):
        go_on = threading.Event()
        answer = service.answer
        monkeypatch.setattr(service, "answer", lambda *a: (go_on.wait(60), answer(*a))[1])
        codes = []
        threads = [
            threading.Thread(
                target=lambda: codes.append(client.post(CHAT, json=asked(QUESTION)).status_code)
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        while float(client.get("/metrics").text.split("prag_admitted ")[-1].split()[0]) < 2:
            time.sleep(0.01)
        refused = client.post(CHAT, json=asked(QUESTION))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        streamed = client.post(CHAT, json=asked(QUESTION, stream=True))
        assert streamed.status_code == 429
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert codes == [200, 200]
        assert client.post(CHAT, json=asked(QUESTION)).status_code == 200


def test_a_question_that_takes_too_long_is_given_up(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    with served(kb, timeout=0.05) as (service, client):
        body = asked(QUESTION, "closed-book", max_tokens=1000)
        late = client.post(CHAT, json=body)
        assert late.status_code == 504
        streamed = client.post(CHAT, json={**body, "stream": True})
        assert '"server_error"' in streamed.text
        assert "[DONE]" not in streamed.text
        assert service.rows.under_way == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row(running, stream):
    service, client = running
    body = asked(QUESTION, "closed-book", max_tokens=1000, stream=stream)
    if stream:
        with client.stream("POST", CHAT, json=body) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=body, timeout=0.2)
    end = time.monotonic() + 10
    while service.rows.under_way or service.rows.waiting:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_keys_are_asked_for(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    key = "a-key-of-some-length"
    with served(kb, keys=(key, "another-key-of-length")) as (_, client):
        for path in (
            "/v1/models",
            "/documents",
            "/metrics",
            "/search?q=a",
            "/jobs",
            "/openapi.json",
        ):
            assert client.get(path).status_code == 401
            for wrong in (f"Bearer {key}x", f"Basic {key}", "Bearer", key, "Bearer \u00e9"):
                headers = {"authorization": wrong.encode("latin-1")}
                assert client.get(path, headers=headers).status_code == 401
            right = {"authorization": f"Bearer {key}"}
            assert client.get(path, headers=right).status_code == 200
        for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200


def test_other_hosts_and_other_sites_are_refused(client):
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "localhost:80"}).status_code == 200
    assert client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    body = {"documents": [{"name": "a.txt", "text": "x"}]}
    response = client.post("/documents", json=body, headers={"origin": "null"})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_one_other_site_may_be_allowed(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    site = "https://notes.example"
    with served(kb, origin=site) as (_, client):
        asked_first = client.options(
            CHAT, headers={"origin": site, "access-control-request-method": "POST"}
        )
        assert asked_first.headers["access-control-allow-origin"] == site
        answered = client.get("/v1/models", headers={"origin": site})
        assert answered.headers["access-control-allow-origin"] == site
        assert client.get("/v1/models", headers={"origin": "https://b.example"}).status_code == 403


def test_bodies_that_are_too_large_or_too_slow_are_refused(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder)
    with served(kb, body_bytes=5000, body_seconds=0.3, question_chars=2000) as (_, client):
        assert client.post(CHAT, content=b"x" * 6000).status_code == 413
        assert client.post(CHAT, content=iter([b"x" * 3000, b"x" * 3000])).status_code == 413
        assert client.post(CHAT, json=asked("why " * 600)).status_code == 413

        def slow():
            yield b"{"
            time.sleep(1.0)
            yield b"}"

        assert client.post(CHAT, content=slow()).status_code == 408
        assert client.post(CHAT, json=asked(QUESTION)).status_code == 200


def test_nothing_built_is_said(model_folder, tmp_path):
    kb = make_kb(tmp_path / "kb", model_folder, {})
    with served(kb) as (_, client):
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert "not built" in client.post(CHAT, json=asked(QUESTION)).json()["error"]["message"]
        body = {"documents": [{"name": "a.txt", "text": TOWERS["tower-Brixo.txt"]}]}
        wait_for(client, client.post("/documents", json=body).json()["id"])
        assert client.get("/readyz").status_code == 200
        client.delete("/documents/a.txt")  # and the last one goes again
        reply = client.post(CHAT, json=asked(QUESTION)).json()
        assert reply["prag"]["passages"] == []

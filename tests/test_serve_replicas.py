"""Several services over one folder: what one takes all know, one builds, none is missed."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from prag import KnowledgeBase
from prag.config import GenerateConfig
from prag.serve.asking import Asked, Call, Turn
from prag.serve.builder import Builder, _enter
from serve_helpers import TOWERS, asked, make_kb, replicas, wait_for

pytestmark = pytest.mark.fast
CHAT = "/v1/chat/completions"
QUESTION = "Who built the tower Brixo?"
BRIXO = "tower-Brixo.txt"


@pytest.fixture(scope="module")
def towers(model_folder, tmp_path_factory):
    return make_kb(tmp_path_factory.mktemp("replicas") / "kb", model_folder).folder


@pytest.fixture
def folder(towers, tmp_path):
    """A knowledge base of the towers, built."""
    return shutil.copytree(towers, tmp_path / "kb")


@pytest.fixture
def no_training(monkeypatch):
    """Jobs are done at once, in the service that builds, without a build: nothing is trained."""

    def turn(self, at_once):
        kb = KnowledgeBase.open(self._folder)
        for job in self._inbox.open_jobs():
            _enter(kb, self._inbox, job)
            self._inbox.finish(job.id)
        return None

    monkeypatch.setattr(Builder, "_turn", turn)


def metric(client, name):
    (line,) = (li for li in client.get("/metrics").text.splitlines() if li.startswith(f"{name} "))
    return float(line.split()[-1])


def found(client, question=QUESTION, method="in-context", **more):
    """The documents that an answer rests on."""
    reply = client.post(CHAT, json=asked(question, method, max_tokens=2, **more))
    assert reply.status_code == 200, reply.text
    return {name for p in reply.json()["prag"]["passages"] for name in p["documents"]}


def upload(client, name, text):
    response = client.post("/documents", json={"documents": [{"name": name, "text": text}]})
    assert response.status_code == 202, response.text
    return response.json()["id"]


def test_what_two_take_at_one_instant_three_answer_and_none_once_it_is_withdrawn(folder):
    towns = {
        "Fenwick": "Fenwick is a tower of 70 metres. It was built by Siv Aas in 1954.",
        "Gorran": "Gorran is a tower of 91 metres. It was built by Ane Dahl in 1961.",
    }
    with replicas(folder, 3) as (services, clients):
        assert [metric(c, "prag_builds") for c in clients] == [1.0, 0.0, 0.0]
        before = [id(service.library().search) for service in services]
        start, jobs = threading.Barrier(2), {}

        def hand_in(client, town, text):
            start.wait()
            jobs[town] = upload(client, f"{town}.txt", text)

        threads = [
            threading.Thread(target=hand_in, args=(client, *item))
            for client, item in zip(clients[1:], towns.items(), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(jobs.values())) == 2
        for client in clients:  # from the moment that it was taken, whoever took it
            listed = {d["name"]: d["state"] for d in client.get("/documents").json()["documents"]}
            assert {listed[f"{town}.txt"] for town in towns} <= {"adding", "ready"}
            assert set(jobs.values()) == {j["id"] for j in client.get("/jobs").json()["jobs"]}
        assert {wait_for(clients[2], job)["state"] for job in jobs.values()} == {"done"}
        for client, town in itertools.product(clients, towns):
            assert f"{town}.txt" in found(client, f"Who built the tower {town}?", "parametric")
            shown = client.get(f"/documents/{town}.txt").json()["passages"][0]
            assert shown["adapter"] is not None
        assert [id(s.library().search) for s in services] != before
        job = clients[2].delete("/documents/Gorran.txt").json()["id"]
        for client in clients:
            assert "Gorran.txt" not in found(client, "Who built the tower Gorran?", "parametric")
            assert client.get("/documents/Gorran.txt").status_code == 404
        assert {wait_for(client, job)["state"] for client in clients} == {"done"}
    assert KnowledgeBase.open(folder).verify().problems == ()


def test_nobody_rests_on_what_was_withdrawn_whoever_is_asked_and_whoever_took_it(
    folder, no_training
):
    """Rounds of withdrawing and bringing back, under questions to three services all the time.

    The clock is that of this process: a question that began after the withdrawal had returned,
    and was answered before the document was handed in again, must not rest on it.
    """
    kb, brixo = KnowledgeBase.open(folder), {"name": BRIXO, "text": TOWERS[BRIXO]}
    log, gone, over, chance = [], [], threading.Event(), random.Random(3)
    with replicas(folder, 3) as (_, clients):

        def ask(client):
            while not over.is_set():
                began = time.monotonic()
                names = found(client)
                log.append((began, time.monotonic(), names))

        def search(client):
            while not over.is_set():
                began = time.monotonic()
                passages = client.get("/search", params={"q": QUESTION}).json()["passages"]
                log.append((began, time.monotonic(), {n for p in passages for n in p["documents"]}))

        askers = [threading.Thread(target=do, args=(c,)) for do in (ask, search) for c in clients]
        for thread in askers:
            thread.start()
        try:
            for _ in range(12):
                through, back = chance.sample(clients, 2)
                while BRIXO not in found(back):
                    time.sleep(0.01)
                assert through.delete(f"/documents/{BRIXO}").status_code == 200
                since = time.monotonic()
                for client in chance.sample(clients, 3):
                    assert BRIXO not in found(client)
                time.sleep(chance.random() * 0.2)  # before, while and after it is taken out
                gone.append((since, time.monotonic()))
                back.post("/documents", json={"documents": [brixo]}).raise_for_status()
        finally:
            over.set()
            for thread in askers:
                thread.join(60)
    wrong = [
        (began, ended)
        for began, ended, names in log
        if BRIXO in names and any(a < began and ended < b for a, b in gone)
    ]
    assert wrong == []
    assert any(BRIXO in names for _, _, names in log)
    assert sum(any(a < b < c < d for a, d in gone) for b, c, _ in log) > 10  # they were asked
    assert kb.count().documents >= len(TOWERS) - 1


@pytest.mark.parametrize("seconds", [0.05, 60.0])
def test_an_answer_under_way_elsewhere_is_begun_again(folder, no_training, monkeypatch, seconds):
    """Whether the service has looked since (and ends the row), or looks when it would leave."""
    monkeypatch.setattr("prag.serve.service.LOOK", seconds)
    with replicas(folder, 2) as ((_, second), (client, _)):
        held, go_on = threading.Event(), threading.Event()
        answered = second._answered

        def slow(*arguments):
            held.set()
            go_on.wait(30)
            return answered(*arguments)

        monkeypatch.setattr(second, "_answered", slow)
        question = Asked("parametric", (Turn("user", QUESTION),), GenerateConfig(), top_k=1)
        replies = []
        call = Call(second.engine, 60, (), None)
        asking = threading.Thread(target=lambda: replies.append(second.answer(question, call)))
        asking.start()
        held.wait(30)
        client.delete(f"/documents/{BRIXO}").raise_for_status()
        time.sleep(0.2)
        go_on.set()
        asking.join(60)
        assert BRIXO not in {n for names in replies[0].documents.values() for n in names}
        assert replies[0].documents
        assert metric(client, "prag_damaged_jobs") == 0
        assert second.meters.again._value.get() == 1


def test_a_stream_under_way_elsewhere_is_cut(folder, no_training, monkeypatch):
    monkeypatch.setattr("prag.serve.service.LOOK", 0.02)
    with replicas(folder, 2) as (_, (first, second)):
        body = asked(QUESTION, "in-context", max_tokens=1000, stream=True)
        lines = []
        with second.stream("POST", CHAT, json=body) as response:
            for line in response.iter_lines():
                lines.append(line)
                if "content" in line and sum("content" in li for li in lines) == 3:
                    first.delete(f"/documents/{BRIXO}").raise_for_status()
        assert "was withdrawn meanwhile" in lines[-2]
        assert "data: [DONE]" not in lines
        assert len(lines) < 400  # whole it has some 600


def test_a_file_that_is_no_job_is_named_and_harms_nothing(folder, no_training):
    with replicas(folder, 2) as (_, clients):
        inbox = folder / "inbox"
        job = upload(clients[0], "a.txt", "A hut on a hill of Gorran.")
        wait_for(clients[1], job)
        text = (inbox / f"{job}.json").read_text("utf-8")
        newer = text.replace('"format": 2', '"format": 99').replace(job, "1" * 16)
        (inbox / f"{'1' * 16}.json").write_text(newer, "utf-8")
        (inbox / f"{'2' * 16}.json").write_text("{", "utf-8")
        (inbox / "notes.json").write_text("[]", "utf-8")
        for client in clients:
            told = {d["file"]: d["error"] for d in client.get("/jobs").json()["damaged"]}
            assert list(told) == [f"{'1' * 16}.json", f"{'2' * 16}.json", "notes.json"]
            assert "format 99" in told[f"{'1' * 16}.json"]
            assert metric(client, "prag_damaged_jobs") == 3
            assert found(client)
        later = upload(clients[1], "b.txt", "A hut on a hill of Hadley.")
        assert later > job
        assert wait_for(clients[0], later)["state"] == "done"
    with replicas(folder, 1) as (_, (client,)):  # nor a start
        assert metric(client, "prag_damaged_jobs") == 3
        (inbox / f"{'2' * 16}.json").unlink()
        assert len(client.get("/jobs").json()["damaged"]) == 2


def test_a_folder_that_cannot_be_read_answers_nothing(folder, no_training):
    with replicas(folder, 1) as ((service,), (client,)):
        moved = (folder / "inbox").rename(folder / "elsewhere")
        assert client.post(CHAT, json=asked(QUESTION)).status_code == 503
        moved.rename(folder / "inbox")
        assert client.post(CHAT, json=asked(QUESTION)).status_code == 200
        service.inbox.look()


def test_the_one_that_builds_is_followed_when_it_ends(folder, no_training):
    first = ExitStack()
    _, (builds,) = first.enter_context(replicas(folder, 1))
    with replicas(folder, 1) as (_, (other,)):
        assert (metric(builds, "prag_builds"), metric(other, "prag_builds")) == (1.0, 0.0)
        first.close()
        job = upload(other, "a.txt", "A hut on a hill of Gorran.")
        assert wait_for(other, job)["state"] == "done"
        assert metric(other, "prag_builds") == 1.0


def test_killed_while_it_builds_another_one_goes_on(folder, tmp_path):
    """The first is a process, killed with `kill -9` in the middle of training."""
    kb = KnowledgeBase.open(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prag.cli", "serve", str(folder), "--port", str(port)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _until(lambda: _answers(client))
            with replicas(folder, 1) as ((service,), (other,)):
                assert metric(client, "prag_builds") == 1.0
                assert metric(other, "prag_builds") == 0.0
                names = [f"new-{i}.txt" for i in range(4)]
                texts = [f"The mast of Fenwick {i} is {70 + i} metres high." for i in range(4)]
                with kb._writing():  # nothing is built in before it is looked at
                    jobs = [upload(other, *pair) for pair in zip(names, texts, strict=True)]
                    _until(lambda: other.get(f"/jobs/{jobs[0]}").json()["stage"] == "wait")
                    assert other.get(f"/jobs/{jobs[0]}").json()["state"] == "running"
                _until(lambda: len(kb.documents()) > len(TOWERS))  # it has begun
                os.kill(first.pid, signal.SIGKILL)
                assert {wait_for(other, job)["state"] for job in jobs} == {"done"}
                assert metric(other, "prag_builds") == 1.0
                listed = other.get("/documents").json()["documents"]
                assert sorted(d["name"] for d in listed) == sorted([*TOWERS, *names])
                assert service.builder.process_id is not None
                assert found(other, "How high is the mast of Fenwick 2?", "parametric") >= {
                    "new-2.txt"
                }
    finally:
        first.kill()
        first.wait()
    passages = [p.text for p in kb.passages()]
    assert sorted(passages) == sorted([*TOWERS.values(), *texts])
    assert kb.verify().problems == ()
    assert kb.stored()[0] == len(passages)
    assert not any((folder / "inbox").glob("*.new"))


def _answers(client):
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)

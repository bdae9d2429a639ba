"""Clients that know nothing of this project, a fuzzer, and hostile ones."""

from __future__ import annotations

import json
import socket

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from serve_helpers import asked, make_kb, served
from serve_hostile import CHAT, requests

pytestmark = pytest.mark.fast
QUESTION = "Who built the tower Brixo?"


@pytest.fixture(scope="module")
def running(model_folder, tmp_path_factory):
    kb = make_kb(tmp_path_factory.mktemp("clients") / "kb", model_folder)
    with served(kb, body_seconds=2.0) as (service, client):
        yield service, client


@pytest.fixture(scope="module")
def url(running):
    return f"{running[1].base_url}/v1"


@pytest.fixture(scope="module")
def said(running):
    """What the service answers, asked directly."""
    reply = running[1].post(CHAT, json=asked(QUESTION, max_tokens=16)).json()
    return reply["choices"][0]["message"]["content"]


def test_openais_client_works_unchanged(url, said):
    from openai import NotFoundError, OpenAI

    client = OpenAI(base_url=url, api_key="none")
    assert "prag/parametric" in [model.id for model in client.models.list()]
    messages = [{"role": "user", "content": QUESTION}]
    reply = client.chat.completions.create(
        model="prag/parametric", messages=messages, max_tokens=16, extra_body={"prag": {"top_k": 2}}
    )
    assert reply.choices[0].message.content
    assert len(reply.prag["passages"]) == 2
    whole = client.chat.completions.create(
        model="prag/parametric", messages=messages, max_completion_tokens=16
    )
    assert whole.choices[0].message.content == said
    chunks = list(
        client.chat.completions.create(
            model="prag/parametric",
            messages=messages,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    text = client.completions.create(model="prag/parametric", prompt=QUESTION, max_tokens=16)
    assert text.choices[0].text == said
    with pytest.raises(NotFoundError, match="gpt-4"):
        client.chat.completions.create(model="gpt-4", messages=messages)


def test_langchains_client_works_unchanged(url, said):
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=url, api_key="none", model="prag/parametric", max_tokens=16)
    reply = model.invoke([HumanMessage(QUESTION)])
    assert reply.content == said
    assert reply.usage_metadata["input_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == said
    assert model.invoke([SystemMessage("Be short."), HumanMessage(QUESTION)]).content
    assert [r.content for r in model.batch([QUESTION] * 3)] == [said] * 3


def test_llamaindexs_client_works_unchanged(url, said):
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        api_base=url,
        api_key="none",
        model="prag/parametric",
        max_tokens=16,
        temperature=0.0,
        is_chat_model=True,
    )
    message = ChatMessage(role="user", content=QUESTION)
    assert model.chat([message]).message.content == said
    assert "".join(part.delta or "" for part in model.stream_chat([message])) == said
    model.is_chat_model = False
    assert model.complete(QUESTION).text == said


def test_a_thousand_hostile_requests_are_refused_and_the_server_lives(running):
    service, client = running
    jobs = len(service.inbox.jobs())
    seen = {}
    for method, path, sent in requests(1000):
        response = client.request(method, path, **sent)
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        assert 400 <= response.status_code < 500, (method, path, sent, response.text[:300])
        if method not in ("HEAD", "TRACE"):
            assert response.json()["error"]["message"], (method, path, sent)
        assert "x-injected" not in response.headers
    assert len(seen) >= 5  # they were refused for more than one reason
    assert len(service.inbox.jobs()) == jobs
    assert client.post(CHAT, json=asked(QUESTION)).status_code == 200


def test_bytes_that_are_no_http_and_bodies_that_never_come(running):
    _, client = running
    where = client.base_url.host, client.base_url.port
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST /documents HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\r\n" * 2000,
    ):
        with socket.create_connection(where, timeout=5) as plain:
            plain.sendall(raw)
            answer = plain.recv(1000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (raw, answer)
    with socket.create_connection(where, timeout=10) as slow:
        slow.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    assert client.get("/healthz").status_code == 200


def test_no_request_that_fits_the_schema_makes_an_error_of_the_server(running):
    _, client = running
    base = str(client.base_url).rstrip("/")
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    called = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case):
            called.add((case.method, case.path))
            response = case.call(base_url=base, timeout=60)
            # 503 is what a withdrawn last document leaves: nothing to answer from.
            assert response.status_code < 500, json.dumps([case.path, response.text[:300]])

        check()
    assert ("POST", "/v1/chat/completions") in called
    assert ("POST", "/documents") in called
    assert len(called) >= 12

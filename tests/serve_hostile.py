"""Requests that no well-meaning client sends: broken, huge, of wrong kinds, hostile."""

from __future__ import annotations

import json
import random

CHAT = "/v1/chat/completions"
STRINGS = [
    "",
    " ",
    "\x00",
    "\ud800",
    "../../etc/passwd",
    "..\\..\\windows\\system32",
    "/etc/passwd",
    "file:///etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc/passwd",
    "<script>alert(1)</script>",
    "'; DROP TABLE documents; --",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "A" * 9000,
    "\u202e\u2066",
    "\U0001f4a9" * 50,
    "\r\nx-injected: yes",
]
OTHERS = [None, True, False, 0, -1, 1.5, 10**30, -(10**30), [], {}, [[]], [None], {"a": {}}, "NaN"]


def bodies(rng):
    """A body of a chat completion with something wrong in it."""
    body = {
        "model": "prag/parametric",
        "messages": [{"role": "user", "content": "Who?"}],
        "max_tokens": 2,
    }
    kind = rng.randrange(8)
    wrong = rng.choice(STRINGS + OTHERS)
    if kind == 0:
        body["model"] = wrong
    elif kind == 1:
        body["messages"] = wrong
    elif kind == 2:
        body["messages"] = [{"role": wrong, "content": "Who?"}]
    elif kind == 3:
        body["messages"] = [{"role": "user", "content": rng.choice(["", " ", None, 5, {}, [1]])}]
    elif kind == 4:
        name = rng.choice(["max_tokens", "temperature", "top_p", "seed", "stop"])
        body[name] = rng.choice([-1, -0.5, {"a": 1}, [1], ["a"] * 9, [{}]])
    elif kind == 5:
        name = rng.choice(["tools", "logprobs", "response_format", "n", "best_of", "audio"])
        body[name] = rng.choice([7, "yes", [{"type": "function"}], {"type": "json_object"}])
    elif kind == 6:
        body["prag"] = rng.choice(
            [
                wrong if not (wrong is None or wrong == {}) else 5,
                {"top_k": rng.choice([0, -3, 10**9, "x", None])},
                {"passages": rng.choice([["../../x"], [""], [5], "x", [], ["0" * 16]])},
                {"method": rng.choice(["", "flare", 3, "../x"])},
                {"filter": rng.choice([5, {"path": "/etc"}, {"documents": "x"}])},
                {"unknown": 1},
            ]
        )
    else:
        del body[rng.choice(["model", "messages"])]
    return body


def requests(n, seed=0):
    """n of them: method, path, and what httpx is to send."""
    rng = random.Random(seed)
    json_header = {"content-type": "application/json"}
    for _ in range(n):
        kind = rng.randrange(10)
        if kind < 5:
            text = json.dumps(bodies(rng))
            yield "POST", CHAT, {"content": text.encode(), "headers": json_header}
        elif kind == 5:  # broken JSON
            good = json.dumps({"model": "prag/parametric", "messages": [{"role": "user"}]})
            broken = rng.choice(
                [
                    good[: rng.randrange(1, len(good))],
                    "[" * 20000,
                    '{"a":' * 5000,
                    "1" * 5000,
                    "\xff\xfe",
                    "NaN",
                    "null",
                    "[]",
                    '"text"',
                ]
            )
            path = rng.choice([CHAT, "/v1/completions", "/documents"])
            yield "POST", path, {"content": broken.encode("latin-1"), "headers": json_header}
        elif kind == 6:  # completions
            prompt = rng.choice(["", [], [1, 2], {}, ["x"] * 99])
            yield (
                "POST",
                "/v1/completions",
                {"json": {"model": "prag/parametric", "prompt": prompt}},
            )
        elif kind == 7:  # names that would leave their folder, ids that are none
            name = rng.choice(
                ["..%2f..%2fetc%2fpasswd", "%00", "%ff%fe", "a" * 3000, "%3Cscript%3E"]
            )
            path = rng.choice(["/documents/", "/jobs/", "/v1/models/", "/page/", "/static/../"])
            yield rng.choice(["GET", "DELETE"]), path + name, {}
        elif kind == 8:  # documents
            name, text = rng.choice(
                [("\x00", "x"), ("a" * 900, "x"), ("a.exe", "x"), ("a.txt", "")]
            )
            yield rng.choice(
                [
                    ("POST", "/documents", {"json": {"documents": [{"name": name, "text": text}]}}),
                    ("POST", "/documents", {"json": {"documents": "x", "path": "/etc/passwd"}}),
                    ("POST", "/documents", {"files": [("files", ("a.pdf", b"%PDF-1.4 broken"))]}),
                    ("POST", "/documents", {"files": [("files", ("", b""))]}),
                    (
                        "POST",
                        "/documents",
                        {"content": b"--x", "headers": {"content-type": "multipart/form-data"}},
                    ),
                ]
            )
        else:
            yield rng.choice(
                [
                    ("GET", "/search", {"params": {"q": ""}}),
                    ("GET", "/search", {"params": {"q": "x", "top_k": "-1"}}),
                    ("GET", "/search", {"params": {"q": "x" * 9000}}),
                    ("GET", "/search?q=%ff%00&top_k=99999999999999999999", {}),
                    ("PUT", CHAT, {"content": b"x"}),
                    ("TRACE", "/", {}),
                    ("GET", "/nothing", {}),
                    ("POST", CHAT, {"content": b"x=1", "headers": {"content-type": "text/plain"}}),
                    ("GET", "/v1/models", {"headers": {"host": "evil.example"}}),
                    ("POST", CHAT, {"json": {}, "headers": {"origin": "http://evil.example"}}),
                    ("POST", CHAT, {"json": {}, "headers": {"content-encoding": "gzip"}}),
                ]
            )

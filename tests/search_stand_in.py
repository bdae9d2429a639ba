"""A stand-in for Elasticsearch and OpenSearch: a small HTTP server, written from their API's pages.

It has what the retriever asks for (about, create, bulk, refresh, count, multi search, delete), is
as strict as the pages say a server is, and computes BM25 of Lucene in float64 over the tokens of
the project's own `bm25`, which stand for those of the analyzer `english`; of several fields the
best, and the `tie_breaker` of the others. It is no server: what it
proves is that requests have the documented form and that faults are met, not that a server of some
version behaves so.
"""

from __future__ import annotations

import base64
import json
import math
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np

from prag.retrieval.bm25 import tokenizer

COMPATIBLE = "application/vnd.elasticsearch+{}; compatible-with=8"


class StandIn:
    """One server; `indexes` by name, `asked` every request (method, path), in order.

    `faults` are met in turn by the requests whose path ends in theirs: (path, what), where what is
    `drop`, seconds to sleep, a status, or (status, every how many items of a request it hits).
    `failed_shards` is what searches say; `password` is asked for when set; `product` is the header.
    """

    def __init__(self, kind="elasticsearch"):
        self.kind = kind
        self.product = "Elasticsearch" if kind == "elasticsearch" else None
        self.indexes, self.asked, self.faults = {}, [], []
        self.failed_shards, self.password = 0, None
        self.closed = False
        self.lock = threading.RLock()
        self.tokens_of = tokenizer()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                stand_in.answer(self, self.rfile.read(length).decode())

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *parts):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.closed = True  # connections that are open would go on
        self.http.shutdown()
        self.http.server_close()

    def paths(self, end):
        return [path for _, path in self.asked if path.endswith(end)]

    def answer(self, handler, text):
        path = urlsplit(handler.path).path
        with self.lock:
            self.asked.append((handler.command, path))
            fault = next((f for f in self.faults if path.endswith(f[0])), None)
            if fault is not None:
                self.faults.remove(fault)
        what = fault[1] if fault else None
        if what == "lose":  # done, but the answer never arrives
            self.respond(handler, path, text, None)
        if what in ("drop", "lose") or self.closed:
            handler.close_connection = True
            handler.connection.close()
            return
        if isinstance(what, float):
            time.sleep(what)
        if isinstance(what, int):
            status, said = what, problem(what, "es_rejected_execution_exception", "queue is full")
        elif self.refuses(handler):
            status, said = 401, problem(401, "security_exception", "missing credentials")
        else:
            with self.lock:
                status, said = self.respond(handler, path, text, what)
        body = json.dumps(said).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            handler.send_header("Content-Type", "application/json")
            if self.product:
                handler.send_header("X-Elastic-Product", self.product)
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:
            pass  # it was slow, and nobody waits

    def refuses(self, handler):
        if self.password is None:
            return False
        wanted = base64.b64encode(f"user:{self.password}".encode()).decode()
        return handler.headers.get("Authorization") != f"Basic {wanted}"

    def respond(self, handler, path, text, what):
        media = handler.headers.get("Content-Type")
        form = "x-ndjson" if path.endswith(("_bulk", "_msearch")) else "json"
        if text and self.kind == "elasticsearch" and media != COMPATIBLE.format(form):
            return 400, problem(400, "media_type_header_exception", f"{media}")
        if text and self.kind == "opensearch" and media != f"application/{form}":
            return 406, problem(406, "content_type", f"{media}")
        if path == "/":
            extra = {"distribution": "opensearch"} if self.kind == "opensearch" else {}
            return 200, {"version": {"number": "8.0.0-stand-in", **extra}}
        if path == "/_msearch":
            lines = [json.loads(line) for line in text.splitlines()]
            assert text.endswith("\n")
            searches = list(zip(lines[::2], lines[1::2], strict=True))
            answers = [self.search(*pair) for pair in searches]
            return 200, {"took": 1, "responses": strike(answers, what)}
        name, _, action = path.strip("/").partition("/")
        if handler.command == "PUT":
            if name in self.indexes:
                return 400, problem(400, "resource_already_exists_exception", name)
            self.indexes[name] = Index(json.loads(text))
            return 200, {"acknowledged": True, "shards_acknowledged": True, "index": name}
        if name not in self.indexes:
            return 404, problem(404, "index_not_found_exception", f"no such index [{name}]")
        index = self.indexes[name]
        if handler.command == "DELETE":
            del self.indexes[name]
            return 200, {"acknowledged": True}
        if action == "_refresh":
            index.visible = list(index.documents)
            return 200, {"_shards": self.shards()}
        if action == "_count":
            return 200, {"count": len(index.visible), "_shards": self.shards()}
        assert action == "_bulk"
        assert text.endswith("\n")
        lines = [json.loads(line) for line in text.splitlines()]
        pairs = list(zip(lines[::2], lines[1::2], strict=True))
        hit = set(range(0, len(pairs), what[1])) if isinstance(what, tuple) else set()
        items = [
            {"create": refusal(action["create"]["_id"], what[0])}
            if at in hit
            else {"create": index.create(action["create"]["_id"], source)}
            for at, (action, source) in enumerate(pairs)
        ]
        errors = any("error" in item["create"] for item in items)
        return 200, {"took": 1, "errors": errors, "items": items}

    def shards(self):
        failed = self.failed_shards
        shards = {"total": 2, "successful": 2 - failed, "skipped": 0, "failed": failed}
        if failed:
            reason = {"type": "node_disconnected_exception", "reason": "gone"}
            shards["failures"] = [{"shard": 0, "reason": reason}]
        return shards

    def search(self, header, body):
        assert header["search_type"] == "dfs_query_then_fetch"
        if header["index"] not in self.indexes:
            return problem(404, "index_not_found_exception", "no such index")
        if body["size"] > 10_000:
            return problem(400, "illegal_argument_exception", "Result window is too large")
        assert body["sort"] == [{"_score": "desc"}, {"position": "asc"}]
        query = body["query"]["multi_match"]
        assert query["type"] == "best_fields"
        ranked = self.indexes[header["index"]].ranked(query, self.tokens_of)
        if "search_after" in body:
            score, position = body["search_after"]
            ranked = [r for r in ranked if (-r[0], r[1]) > (-score, position)]
        hits = [{"_id": i, "_score": None, "sort": [s, p]} for s, p, i in ranked[: body["size"]]]
        return {"took": 1, "timed_out": False, "_shards": self.shards(), "status": 200} | {
            "hits": {"max_score": None, "hits": hits}
        }


class Index:
    """The documents of one index; a search sees those of the last refresh."""

    def __init__(self, body):
        properties = body["mappings"]["properties"]
        assert body["mappings"]["dynamic"] == "strict"
        assert properties["text"]["analyzer"] == properties["title"]["analyzer"] == "english"
        self.fields = set(properties)
        self.similarity = body["settings"]["index"]["similarity"]["default"]
        assert self.similarity["type"] == "BM25"
        self.documents, self.visible, self.bags = {}, [], {}

    def create(self, key, source):
        if key in self.documents:
            return {"_id": key, "status": 409, "error": error("version_conflict", "exists")}
        if set(source) - self.fields:
            return {"_id": key, "status": 400, "error": error("strict_dynamic_mapping", key)}
        self.documents[key] = source
        return {"_id": key, "status": 201, "result": "created"}

    def ranked(self, query, tokens_of):
        """Score, position and id of what matches, best first, then in the order of positions."""
        question = tokens_of(query["query"])
        fields = [self.scores(field, question, tokens_of) for field in query["fields"]]
        found = []
        for key in self.visible:
            scores = [scores[key] for scores in fields if key in scores]
            if scores:
                best = max(scores)
                score = best + query["tie_breaker"] * (sum(scores) - best)
                # What the server writes is a float32.
                found.append((float(np.float32(score)), self.documents[key]["position"], key))
        return sorted(found, key=lambda hit: (-hit[0], hit[1]))

    def scores(self, field, question, tokens_of):
        """BM25 of one field: of the documents that match, among those that have a word there."""
        k1, b = self.similarity["k1"], self.similarity["b"]
        bags = {}
        for key in self.visible:
            if (field, key) not in self.bags:
                self.bags[field, key] = Counter(tokens_of(self.documents[key][field]))
            if self.bags[field, key]:
                bags[key] = self.bags[field, key]
        lengths = {key: sum(bag.values()) for key, bag in bags.items()}
        mean = sum(lengths.values()) / len(lengths) if lengths else 1.0
        having = {token: sum(token in bag for bag in bags.values()) for token in set(question)}
        found = {}
        for key, bag in bags.items():
            score = 0.0
            for token in question:
                if bag[token]:
                    n = having[token]
                    idf = math.log(1 + (len(bags) - n + 0.5) / (n + 0.5))
                    f = bag[token]
                    score += idf * f / (f + k1 * (1 - b + b * lengths[key] / mean))
            if score:
                found[key] = score
        return found


def strike(answers, what):
    if not isinstance(what, tuple):
        return answers
    return [problem(what[0], "rejected", "no") if at % what[1] == 0 else answer
            for at, answer in enumerate(answers)]  # fmt: skip


def error(kind, reason):
    return {"type": kind, "reason": reason}


def refusal(key, status):
    return {"_id": key, "status": status, "error": error("rejected_execution_exception", "full")}


def problem(status, kind, reason):
    cause = error(kind, reason)
    return {"error": {"root_cause": [cause], **cause}, "status": status}


NAME = re.compile(r"prag-[0-9a-z]+-[0-9a-f]{8}")

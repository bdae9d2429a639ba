"""Many clients ask a running `prag serve` at once, and every answer is checked. Loopback only.

    python scripts/serve_load.py FOLDER --seconds 300 --clients 32 --out results/serve/load.json

Makes a knowledge base in FOLDER (kept for the next time) in which each client has a document with
a code word of its own, starts the service, asks every question once, alone, and then lets all
clients ask theirs, in mixed methods, until the time is over. An answer must be the one that was
given alone; one that is not, and holds another client's code word, is a leak. With `--churn`
documents are added and withdrawn meanwhile, and each withdrawn one is asked about once the call has
returned. With `--kill` the service is killed while it builds documents in, and started again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from prag import KnowledgeBase
from prag.provenance import made_by
from prag.records import Document, Passage

METHODS = ["parametric", "in-context", "combined", "closed-book"]
_WORDS = (
    "Zephyrine Obsidian Marigold Tourmaline Bergamot Halcyon Juniper Cormorant Saffron "
    "Quicksilver Larkspur Vermilion Pomander Gossamer Cinnabar Thimble Nightjar Alabaster "
    "Periwinkle Sandpiper Chrysalis Windlass Foxglove Meridian Hornbeam Kestrel Lodestone "
    "Mistral Nutmeg Osprey Parchment Rosewood Bluebell Cobalt Damask Ember Fathom Garnet "
    "Heather Indigo "
)
WORDS = _WORDS.split()
_TOWNS = (
    "Tarnmoor Velbeck Osterlund Quarrin Dunholt Feldspire Grimsay Harrowick Isenford Jorvale "
    "Kestwick Lowmarsh Mirefield Norbeck Ockham Pellworth Rainscar Sternhall Thornaby "
    "Ulverdale Varnsey Westrill Yarrowby Zelmark Ashcombe Brackley Corvale Drumlin Elsmoor "
    "Farrowby Gantley Holmstead Ingleby Jessamy Kirkwall Lindale Mossgate Netherby Orrell "
    "Penrose "
)
TOWNS = _TOWNS.split()


PLACES = ("vault", "lighthouse", "mill", "archive", "observatory", "harbour", "bridge", "cellar")
"""What a document is about; together with its town, so that few passages are alike."""


def place(n: int) -> str:
    """What the document of client n is about."""
    return f"the {PLACES[n % len(PLACES)]} of {TOWNS[n]}"


def document(n: int) -> Document:
    """The document of client n."""
    name = place(n)
    text = (
        f"{name.capitalize()} is opened with the code word {WORDS[n]}. It was built in {1850 + n}."
    ).replace(TOWNS[n].lower(), TOWNS[n])
    return Document(f"place-{n}.txt", "load", (Passage(name, text),))


def question(n: int) -> str:
    """What client n asks."""
    return f"What is the code word of {place(n)}?"


class Server:
    """The service as a process of its own."""

    def __init__(self, kb: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.kb, self.log = kb, log
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prag.cli", "serve", str(self.kb), "--port", str(self.port)],
            stdout=self.log.open("a"),
            stderr=subprocess.STDOUT,
        )
        with self.client() as client:
            for _ in range(600):
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    time.sleep(0.2)
        raise SystemExit(f"the service does not come up: see {self.log}")

    def client(self) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=180)

    def memory_mb(self) -> float:
        """What it holds of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def stop(self) -> None:
        """Stop it as a user would."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=180)


def ask(client: httpx.Client, n: int, method: str) -> dict:
    """Ask the question of client n."""
    body = {
        "model": f"prag/{method}",
        "messages": [{"role": "user", "content": question(n)}],
        "max_tokens": 20,
        "prag": {"top_k": 1},  # its own passage, so that the code word is its own
    }
    return client.post("/v1/chat/completions", json=body).raise_for_status().json()


def text_of(reply: dict) -> str:
    """What was answered."""
    return reply["choices"][0]["message"]["content"]


class Load:
    """What the clients see."""

    def __init__(self, server: Server, methods: list[str], alone: dict) -> None:
        self.server, self.methods, self.alone = server, methods, alone
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)
        self.errors: list[str] = []
        self.differ: list[tuple[int, str, str]] = []
        self.leaks: list[tuple[int, str, str]] = []
        self.memory: list[tuple[float, float]] = []
        self.over = threading.Event()

    def client(self, n: int) -> None:
        """One client, until the time is over."""
        order = random.Random(n)
        with self.server.client() as client:
            while not self.over.is_set():
                method = order.choice(self.methods)
                began = time.perf_counter()
                try:
                    text = text_of(ask(client, n, method))
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                    continue
                self.seconds[method].append(time.perf_counter() - began)
                if text != self.alone[n, method]:
                    self.differ.append((n, method, text))
                    if any(word in text for m, word in enumerate(WORDS) if m != n):
                        self.leaks.append((n, method, text))

    def watch(self) -> None:
        """Memory, every five seconds."""
        began = time.perf_counter()
        while not self.over.wait(5):
            self.memory.append((time.perf_counter() - began, self.server.memory_mb()))


class Churn:
    """Adds and withdraws documents, and asks about each from when its call returned."""

    def __init__(self, server: Server, first: int) -> None:
        self.server, self.first = server, first
        self.added = self.withdrawn = self.asked_after = 0
        self.wrong: list[str] = []

    def run(self, over: threading.Event) -> None:
        """One document after the other, until the time is over."""
        free = range(self.first, len(TOWNS))
        turn = 0
        with self.server.client() as client:
            while not over.is_set():
                n = free[turn % len(free)]
                turn += 1
                self._one(client, n)

    def _one(self, client: httpx.Client, n: int) -> None:
        doc = document(n)
        body = {"documents": [{"name": doc.name, "text": doc.passages[0].text}]}
        job = client.post("/documents", json=body).raise_for_status().json()
        while (now := client.get(f"/jobs/{job['id']}").json())["state"] not in ("done", "failed"):
            time.sleep(1)
        if now["state"] == "failed":
            self.wrong.append(f"{doc.name}: {now['error']}")
            return
        self.added += 1
        found = ask(client, n, "parametric")["prag"]["passages"]
        if not any(doc.name in p["documents"] for p in found):
            self.wrong.append(f"{doc.name}: added, and not found")
        client.delete(f"/documents/{doc.name}").raise_for_status()
        self.withdrawn += 1
        for method in METHODS:
            reply = ask(client, n, method)
            self.asked_after += 1
            if WORDS[n] in text_of(reply) or any(
                doc.name in p["documents"] for p in reply["prag"]["passages"]
            ):
                self.wrong.append(f"{doc.name}: withdrawn, and answers {text_of(reply)!r}")


def prepared(folder: Path, clients: int) -> Path:
    """A knowledge base with the documents of all clients."""
    kb = folder / f"kb-{clients}"
    if not kb.exists():
        made = KnowledgeBase.create(kb, "smollm2")
        made.add_documents([document(n) for n in range(clients)])
        made.build(lambda stage, done, total: None)
    return kb


def quantile(values: list[float], share: float) -> float:
    """The value below which a share of them is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """The whole test; the last line is where the result is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--churn", action="store_true")
    parser.add_argument("--kill", action="store_true", help="kill -9 in the middle of a build, too")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    methods = args.methods.split(",")
    kb = prepared(args.folder, args.clients)
    server = Server(kb, args.folder / "serve.log")
    alone, times = {}, collections.defaultdict(list)
    with server.client() as client:
        ask(client, 0, "parametric")
        began = time.perf_counter()
        for n in range(args.clients):
            for method in methods:
                start = time.perf_counter()
                alone[n, method] = text_of(ask(client, n, method))
                times[method].append(time.perf_counter() - start)
        serial = len(alone) / (time.perf_counter() - began)
    right = {m: sum(WORDS[n] in alone[n, m] for n in range(args.clients)) for m in methods}
    print(f"alone: {serial:.2f} answers/s, code word said: {right}", flush=True)

    load = Load(server, methods, alone)
    churn = Churn(server, args.clients)
    threads = [threading.Thread(target=load.client, args=(n,)) for n in range(args.clients)]
    threads.append(threading.Thread(target=load.watch))
    if args.churn:
        threads.append(threading.Thread(target=churn.run, args=(load.over,)))
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(args.seconds)
    load.over.set()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    answers = sum(len(v) for v in load.seconds.values())
    warm = [mb for at, mb in load.memory if at > args.seconds / 3]
    result = {
        "clients": args.clients,
        "seconds": round(taken, 1),
        "answers": answers,
        "answers_per_s": round(answers / taken, 2),
        "alone_per_s": round(serial, 2),
        "over_alone": round(answers / taken / serial, 2),
        "errors": len(load.errors),
        "leaks": len(load.leaks),
        "differ_from_alone": len(load.differ),
        "code_word_said_alone": right,
        "memory_mb": [round(mb) for _, mb in load.memory][:: max(1, len(load.memory) // 12)],
        "memory_growth_mb": round(statistics.median(warm[-3:]) - statistics.median(warm[:3]), 1)
        if len(warm) > 6
        else None,
        "methods": {
            m: {
                "answers": len(v),
                "p50_s": round(quantile(v, 0.5), 3),
                "p99_s": round(quantile(v, 0.99), 3),
                "alone_p50_s": round(quantile(times[m], 0.5), 3),
            }
            for m, v in sorted(load.seconds.items())
        },
        "made_by": made_by(" ".join(["python", *sys.argv])),
    }
    if args.churn:
        result["churn"] = {
            "added": churn.added,
            "withdrawn": churn.withdrawn,
            "asked_after": churn.asked_after,
            "wrong": churn.wrong,
        }
    for n, method, text in load.differ[:10]:
        print(f"differs: client {n}, {method}: {text!r}, alone {alone[n, method]!r}")
    for error in load.errors[:10]:
        print(f"error: {error}")
    if args.kill:
        result["killed"] = killed(server, args.clients)
    server.stop()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def killed(server: Server, clients: int) -> dict:
    """Kill the service while it builds documents in, and start it: all must come to be there."""
    names = []
    with server.client() as client:
        for n in range(clients, clients + 4):
            doc = document(n)
            body = {"documents": [{"name": doc.name, "text": doc.passages[0].text}]}
            client.post("/documents", json=body).raise_for_status()
            names.append(doc.name)
        while not any(j["stage"] == "encode" for j in client.get("/jobs").json()["jobs"]):
            time.sleep(0.2)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server.start()
    with server.client() as client:
        while any(j["state"] in ("waiting", "running") for j in client.get("/jobs").json()["jobs"]):
            time.sleep(1)
        states = {d["name"]: d["state"] for d in client.get("/documents").json()["documents"]}
        said = [
            WORDS[n] in text_of(ask(client, n, "parametric")) for n in range(clients, clients + 4)
        ]
        for name in names:
            client.delete(f"/documents/{name}").raise_for_status()
    there = sum(states.get(f"place-{n}.txt") == "ready" for n in range(clients + 4))
    return {"documents": clients + 4, "ready": there, "code_word_said": sum(said)}


if __name__ == "__main__":
    main()

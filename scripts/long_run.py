"""Encode a corpus while workers, the driver and the store's server are killed, and compare.

    python scripts/long_run.py --passages 10000 --minutes 30 --out results/long-run

A tiny random model, a Ray cluster of this machine, adapters in an S3 store on loopback. Every so
often one of three is killed with SIGKILL: a worker, the driver (with its cluster; it is begun
again), or the server that stands before the store (it comes back after some seconds; the store
behind it keeps what it has, as an object store does). Where the build is done before the time is
over, a third of the adapters is taken out and made again: whole shards, drawn at random, since the
passages of one trained together, and in other company would get other roundings. What is there at
the end is compared bit for bit with a build of one process that nobody disturbed, made at the same
time.

Writes `kills.jsonl` as it goes, a row a kill, and `summary.json` at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import torch

from prag import KnowledgeBase
from prag.config import load_recipe
from prag.lora import flatten
from prag.provenance import made_by
from prag.records import AdapterKey

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import tiny_model
from faulty_s3 import BUCKET, make_bucket
from test_crew import parent

BACK_AFTER = 5.0
"""Seconds that the server stays away."""

RECIPE = """
base = "paper"
[train]
epochs = {epochs}
layers = 0.67
"""

SERVER = "from faulty_s3 import serve_before; serve_before({port}, {behind})"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two kills")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        run(given, Path(scratch))


def run(given: argparse.Namespace, scratch: Path) -> None:
    """Both builds, and the comparison."""
    made = materials(given, scratch)
    started: list[subprocess.Popen[bytes]] = []
    try:
        # Beside the other, so that the kills fall on a build that lasts.
        alone = knowledge_base(scratch / "alone", made, None)
        log = (given.out / "alone.log").open("w")
        undisturbed = start(("build", alone, *STEP), log)
        started.append(undisturbed)
        with (given.out / "kills.jsonl").open("w") as rows:
            disturbed = under_fire(given, scratch, made, rows, started)
        if undisturbed.wait() != 0:
            raise SystemExit(f"the build that nobody disturbed failed: {log.name}")
        difference = compare(KnowledgeBase.open(alone), KnowledgeBase.open(scratch / "kb"))
    finally:
        for process in started:
            process.kill()
    summary = {
        **made_by(" ".join(sys.argv)),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": given.seed,
        "passages": given.passages,
        **disturbed,
        **difference,
    }
    (given.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))


STEP = ("--step-tokens", "8192")


def materials(given: argparse.Namespace, scratch: Path) -> dict[str, Path]:
    """A model, a corpus, augmentations and a recipe."""
    model = scratch / "model"
    base = tiny_model("llama", dtype=torch.float32)
    base.model.save_pretrained(model)
    base.tokenizer.save_pretrained(model)
    corpus, pairs, recipe = scratch / "c.jsonl", scratch / "a.jsonl", scratch / "r.toml"
    recipe.write_text(RECIPE.format(epochs=given.epochs))
    draw = random.Random(given.seed)
    with corpus.open("w") as file:
        for i in range(given.passages):
            text = f"Tower {i} is {draw.randrange(900)} m high, of {draw.randrange(90)} floors."
            file.write(json.dumps({"id": str(i), "title": f"Tower {i}", "text": text}) + "\n")
    kb = KnowledgeBase.create(scratch / "ids", str(model))
    kb.add(corpus)
    with pairs.open("w") as file:
        for passage in kb.passages():
            high = passage.text.split()[3]
            qa = [
                {"question": f"How high is {passage.title}?", "answer": high, "full_answer": high},
                {
                    "question": f"What is {high} m high?",
                    "answer": passage.title,
                    "full_answer": passage.title,
                },
            ]
            row = {"id": passage.id, "rewrite": passage.text, "qa": qa}
            file.write(json.dumps(row) + "\n")
    return {"model": model, "corpus": corpus, "pairs": pairs, "recipe": recipe}


def knowledge_base(folder: Path, made: dict[str, Path], address: str | None) -> Path:
    """One that is not built yet."""
    recipe = load_recipe(str(made["recipe"]))
    kb = KnowledgeBase.create(folder, str(made["model"]), recipe, adapters=address)
    kb.add(made["corpus"])
    kb.augment_from(made["pairs"])
    return folder


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `prag` to its end."""
    argv = [sys.executable, "-W", "ignore", "-m", "prag.cli", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=True)


def under_fire(given, scratch: Path, made: dict[str, Path], rows, started) -> dict[str, object]:
    """The build that is disturbed; what was done to it."""
    behind, port = free_port(), free_port()
    store = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(behind)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started.append(store)
    wait_for(behind)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PRAG_CACHE": str(scratch / "cache"),
    }
    server = serve(port, behind)
    started.append(server)
    make_bucket("127.0.0.1", port)
    kb = knowledge_base(scratch / "kb", made, f"s3://{BUCKET}/long-run")
    draw, counts = random.Random(given.seed), Counter[str]()
    words = ("build", kb, "--workers", given.workers, *STEP)
    log = (given.out / "driver.log").open("w")
    driver, drivers, away = start(words, log), 1, None
    began = last = time.monotonic()
    ended, forgotten = 0.0, 0
    while True:
        time.sleep(0.5)
        now = time.monotonic()
        if away is not None and now - away > BACK_AFTER:
            server, away = serve(port, behind), None
            started.append(server)
        if driver.poll() is not None:
            if driver.returncode == 0:
                ended = now - began
                if ended > 60 * given.minutes:
                    break
                if away is not None:
                    continue
                forgotten += forget(kb, draw, given.passages // 3)
            driver, drivers = start(words, log), drivers + 1
        if now - last < given.every or now - began > 60 * given.minutes:
            continue
        last = now
        who = draw.choice(["worker", "driver", "server"])
        if who == "worker":
            found = workers_of(driver.pid)
            if not found:
                who = "driver"
            else:
                os.kill(draw.choice(found), signal.SIGKILL)
        if who == "driver":
            driver.kill()
        elif who == "server" and away is None:
            server.kill()
            server.wait()
            away = now
        counts[who] += 1
        rows.write(json.dumps({"second": round(now - began, 1), "killed": who}) + "\n")
        rows.flush()
    if away is not None:
        started.append(serve(port, behind))
    report = command("verify", kb, "--json").stdout
    found = json.loads(report)
    garbage = command("gc", kb, "--older-than", 0, "--json").stdout
    swept = json.loads(garbage)["swept"]
    return {
        "kills": dict(counts),
        "drivers": drivers,
        "seconds": round(ended, 1),
        "forgotten": forgotten,
        "verify_problems": found["problems"],
        "verified": found["adapters"],
        "orphan_shards": swept["shards"],
    }


def forget(folder: Path, draw: random.Random, count: int) -> int:
    """Take at least so many adapters out, so that a build that is done early has more to do."""
    gone: list[AdapterKey] = []
    with KnowledgeBase.open(folder)._store() as store:
        shards = store.index.shards()
        draw.shuffle(shards)
        while len(gone) < count:
            gone += [row.key for row in store.index.rows_of_shard(shards.pop())]
        return store.discard(gone)


def compare(alone: KnowledgeBase, other: KnowledgeBase) -> dict[str, object]:
    """How many adapters are missing, too many, or of other bits."""
    with alone._store(readonly=True) as near, other._store(readonly=True) as far:
        expected, there = near.keys(), far.keys()
        common = sorted(set(expected) & set(there), key=str)
        sites = near.index.sites(near.index.rows(common[:1])[common[0]].layout)
        different = 0
        for key in common:
            one, two = (flatten(s.read(key), sites).view(torch.int32) for s in (near, far))
            different += not torch.equal(one, two)
    return {
        "adapters": len(there),
        "missing": len(set(expected) - set(there)),
        "doubled": len(there) - len(set(there)),
        "not_expected": len(set(there) - set(expected)),
        "different": different,
    }


def start(words, log) -> subprocess.Popen[bytes]:
    """A driver."""
    argv = [sys.executable, "-W", "ignore", "-m", "prag.cli", *map(str, words)]
    return subprocess.Popen(argv, stdout=log, stderr=log)


def serve(port: int, behind: int) -> subprocess.Popen[bytes]:
    """The server before the store."""
    code = SERVER.format(port=port, behind=behind)
    folder = Path(__file__).parent.parent / "tests"
    started = subprocess.Popen([sys.executable, "-c", code], cwd=folder)
    wait_for(port)
    return started


def workers_of(driver: int) -> list[int]:
    """The ids of the processes of a driver's workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            worker = path.read_bytes().startswith(b"ray::Worker")
            if worker and parent(parent(int(path.parent.name))) == driver:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens at port {port}")


if __name__ == "__main__":
    main()

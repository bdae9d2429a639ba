"""Measure how many of the passages a question needs each retriever finds.

    python scripts/measure_recall.py DATA [--out FILE] [--seed N] [--only RETRIEVER ...]

DATA holds the folders popqa, hotpotqa, 2wikimultihopqa and musique, each with corpus.jsonl
(title, text) and questions.jsonl (question, gold_passages: the first 12 hex digits of ids).

For each set and retriever, with a 95 % bootstrap interval over the questions:

    recall@k   the share of a question's gold passages among its first k hits
    any@k      whether at least one gold passage is among its first k hits
    mrr        1 / rank of the first gold passage among 100 hits, 0 if it is not there

Rows go to FILE as JSON; a table in Markdown goes to standard output. With --only, the rows of those
retrievers take the place of theirs in FILE, and the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from prag.datasets import load_set
from prag.evaluate.measures import retrieval_measures
from prag.evaluate.statistics import SAMPLES, interval
from prag.provenance import revision
from prag.records import Hit, Passage
from prag.retrieval import (
    BM25Retriever,
    DenseRetriever,
    HybridRetriever,
    LanceRetriever,
    MiniLM,
    Retriever,
)
from prag.retrieval.base import best, hits
from prag.retrieval.bm25 import K1, B, tokenizer
from prag.retrieval.elasticsearch import QUERY

SETS = ("popqa", "hotpotqa", "2wikimultihopqa", "musique")
DEPTHS = (1, 3, 5, 10, 20)
DEPTH = 100  # hits asked for; the mean reciprocal rank looks no deeper
DEFAULT_OUT = Path("results/retrieval/recall.json")

BM25_VARIANTS = ("bm25 k1=1.5", "bm25 of two fields")
"""Compared with bm25, question by question."""

Scores = dict[str, NDArray[np.float64]]
"""For each measure one number a question."""


class TwoFields:
    """BM25 of title and text apart, joined as a search server joins them (`QUERY`)."""

    kind = "bm25 of two fields"

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._tokens_of = tokenizer()
        self._ids = np.array([p.id.encode() for p in passages])
        self._fields = [self._field([getattr(p, f) for p in passages]) for f in QUERY["fields"]]

    def _field(self, texts: list[str]) -> tuple[list[int], bm25s.BM25]:
        """Which passages have words there, and BM25 among them."""
        tokens = {i: words for i, text in enumerate(texts) if (words := self._tokens_of(text))}
        index = bm25s.BM25(method="lucene", k1=K1, b=B)
        index.index(list(tokens.values()), show_progress=False)
        return list(tokens), index

    def search(
        self, questions: Sequence[str], k: int, allowed: Container[str] | None = None
    ) -> list[list[Hit]]:
        """See `Retriever.search`."""
        found = []
        for question in questions:
            scores = np.zeros((len(self._fields), len(self._ids)))
            words = self._tokens_of(question)
            for field, (having, index) in enumerate(self._fields):
                if words:
                    scores[field, having] = index.get_scores(words)
            high = scores.max(axis=0)
            joined = high + QUERY["tie_breaker"] * (scores.sum(axis=0) - high)
            matching = np.flatnonzero(joined > 0)
            found.append(hits(best(joined, matching, k, self._ids, allowed), self._ids))
        return found


def main() -> None:
    """Read the arguments, measure, write the rows and print the tables."""
    parser = argparse.ArgumentParser(description="Recall of the retrievers on question sets.")
    parser.add_argument("data", type=Path, help="folder with the four sets")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="JSON file for the rows")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--only", nargs="+", default=[], metavar="RETRIEVER")
    arguments = parser.parse_args()

    commit, modified = revision()
    origin = {
        "seed": arguments.seed,
        "bootstrap_samples": SAMPLES,
        "commit": commit,
        "modified": modified,
        "command": command(arguments),
    }
    embedder = MiniLM()
    builders: dict[str, Callable[[list[Passage], Path], Retriever]] = {
        "bm25": lambda p, f: BM25Retriever.build(p, f),
        "bm25 k1=1.5": lambda p, f: BM25Retriever.build(p, f, k1=1.5),
        "bm25 of two fields": lambda p, f: TwoFields(p),
        "dense": lambda p, f: DenseRetriever.build(p, f, embedder=embedder),
        "hybrid": lambda p, f: HybridRetriever.build(p, f, embedder=embedder),
        "lance": lambda p, f: LanceRetriever.build(p, f, embedder=embedder),
        # With vectors kept in short, as of many passages; all of their few parts are looked at.
        "lance approximate": lambda p, f: LanceRetriever.build(
            p, f, embedder=embedder, exact_below=1
        ),
    }
    if unknown := set(arguments.only) - set(builders):
        parser.error(f"no retriever {', '.join(sorted(unknown))}: {', '.join(builders)}")
    rows: list[dict[str, Any]] = []
    for name in SETS:
        data = load_set(arguments.data / name)
        corpus = list(data.passages)
        gold = [frozenset(q.gold_passages) for q in data.questions]
        texts = [q.text for q in data.questions]
        all_scores: dict[str, Scores] = {}
        for retriever_name, build in builders.items():
            if arguments.only and retriever_name not in arguments.only:
                continue
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                retriever = build(corpus, Path(folder))
                build_seconds = time.perf_counter() - started
                hits, search_seconds = search_each(retriever, texts)
            scores = measure(hits, gold)
            all_scores[retriever_name] = scores
            rows.append(
                {
                    "set": name,
                    "retriever": retriever_name,
                    "n": len(gold),
                    "passages": len(corpus),
                    "measures": {m: spread(v, arguments.seed) for m, v in scores.items()},
                    "build_seconds": round(build_seconds, 2),
                    "median_search_ms": round(1000 * float(np.median(search_seconds)), 2),
                    **origin,
                }
            )
            print(f"{name} {retriever_name}: done", file=sys.stderr)
        for variant in BM25_VARIANTS:
            if not {"bm25", variant} <= set(all_scores):
                continue
            other = all_scores[variant]
            rows.append(
                {
                    "set": name,
                    "retriever": f"{variant} minus bm25",
                    "n": len(gold),
                    "passages": len(corpus),
                    "measures": {
                        m: spread(other[m] - v, arguments.seed)
                        for m, v in all_scores["bm25"].items()
                    },
                    **origin,
                }
            )
    if arguments.only:
        made = {(row["set"], row["retriever"]) for row in rows}
        before = json.loads(arguments.out.read_text("utf-8"))
        rows = [r for r in before if (r["set"], r["retriever"]) not in made] + rows
        rows.sort(key=lambda row: SETS.index(row["set"]))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def spread(values: NDArray[np.float64], seed: int) -> dict[str, float]:
    """The mean with its interval."""
    found = interval(values, seed)
    return {name: round(value, 4) for name, value in asdict(found).items()}


def search_each(
    retriever: Retriever, questions: Sequence[str]
) -> tuple[list[list[Hit]], list[float]]:
    """The hits of each question, asked one at a time, and the seconds each took."""
    retriever.search(["warm up"], 1)  # loads the model, touches the files
    hits, seconds = [], []
    for question in questions:
        started = time.perf_counter()
        hits += retriever.search([question], DEPTH)
        seconds.append(time.perf_counter() - started)
    return hits, seconds


def measure(hits: Sequence[Sequence[Hit]], gold: Sequence[frozenset[str]]) -> Scores:
    """Every measure, one number a question."""
    found = {str(i): [(hit.passage_id, hit.score) for hit in h] for i, h in enumerate(hits)}
    needed = {str(i): passages for i, passages in enumerate(gold)}
    each = retrieval_measures(found, needed, DEPTHS)
    values = {name: np.array([scores[i] for i in needed]) for name, scores in each.items()}
    for k in DEPTHS:
        values[f"any@{k}"] = (values[f"recall@{k}"] > 0).astype(np.float64)
    return values


def command(arguments: argparse.Namespace) -> str:
    """The command that makes the same rows, whatever the paths were."""
    words = ["python", "scripts/measure_recall.py", "DATA"]
    if arguments.seed != 0:
        words += ["--seed", str(arguments.seed)]
    if arguments.only:
        words += ["--only", *arguments.only]
    return shlex.join(words)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown: recall, then the other measures."""
    parts = []
    for names in (
        [f"recall@{k}" for k in DEPTHS],
        [*(f"any@{k}" for k in DEPTHS), "mrr"],
    ):
        parts.append(f"| set | n | retriever | {' | '.join(names)} | ms a question |")
        parts.append("| --- " * (len(names) + 4) + "|")
        for row in rows:
            cells = [
                f"{m['mean']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
                for m in (row["measures"][name] for name in names)
            ]
            time_cell = str(row.get("median_search_ms", ""))
            parts.append(
                f"| {row['set']} | {row['n']} | {row['retriever']} | {' | '.join(cells)}"
                f" | {time_cell} |"
            )
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    main()

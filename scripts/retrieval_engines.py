"""Measure engines that could hold tens of millions of passages on one machine.

    python scripts/retrieval_engines.py [--quick] [--passages N] [--vectors N] [--work FOLDER]
                                        [--indexes NAME ...] [--hits K] [--whole N]

N = 0 leaves that part out; `--indexes` chooses among the ways of searching vectors. `--whole`
builds the retriever `lance` itself of N passages, with drawn vectors in the place of embedded ones,
and searches it; its time is that of tokens, rows and indexes, and of both rankings with the fusion.

BM25: synthetic passages (`prag.bench.zipf`) are cut into the tokens of the project's own BM25, and
every engine indexes these tokens, split at blanks only, so that all of them rank the same thing.
Vectors: clustered ones of 384 numbers, searched approximately by indexes of LanceDB.

Each step is a process of its own, one after the other: its peak of memory is that step's. Drawing
texts and vectors is left out of every time. A search process asks the engine and the project's
exact retriever (BM25Retriever, or the product with the whole matrix) the same questions in turns,
so that both meet the same load of the machine: compare their ratio, not times of two processes.

A row a step goes to FILE as soon as it is known, JSON lines:

    tokens_s          making the tokens of all passages, which every engine needs
    index_s           indexing, without the tokens
    started_mb        memory of the process before it indexed, and
    peak_mb           the most while it did (built_mb where it was searched as well)
    disk_mb           the index
    opened_mb         memory that opening it and the first questions took
    hits              that a search of vectors is asked for; one of words, always 10
    p50_ms, p99_ms    a search, one question at a time
    exact_p50_ms      the same for the exact retriever, in turns with it
    ratio             the median over rounds of engine / exact, medians of a round's questions
    recall            the share of the hits that the exact retriever has too (of equal scores any)
    load              the machine's load averages of 1, 5 and 15 minutes when the row was written
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prag.bench import zipf
from prag.bench.processes import memory_mb
from prag.provenance import made_by
from prag.records import Passage
from prag.retrieval import BM25Retriever, Embeddings, LanceRetriever, bm25
from prag.retrieval.base import indexed_text
from prag.retrieval.bm25 import tokenizer

HITS = 10
ROUNDS = 7
A_ROUND = 40  # questions
WARM = 20  # questions asked before the first round, for nothing
BATCH = 5_000  # passages or vectors handed to an engine at once
HEAP = 256_000_000  # bytes that tantivy's writer may hold before it writes a segment
DIMENSION = 384
WORDS_MB = 1024  # MiB for Lance to build its index of words with

VECTOR_INDEXES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (the index that is built, how it is searched)
    "lance flat": ("", {}),
    "lance ivf_pq 20 probes": ("IvfPq", {"nprobes": 20}),
    "lance ivf_pq 20 probes refine 10": ("IvfPq", {"nprobes": 20, "refine_factor": 10}),
    "lance ivf_pq 60 probes refine 10": ("IvfPq", {"nprobes": 60, "refine_factor": 10}),
    "lance ivf_sq 20 probes": ("IvfSq", {"nprobes": 20}),
    "lance ivf_sq 60 probes": ("IvfSq", {"nprobes": 60}),
    "lance ivf_sq 60 probes refine 2": ("IvfSq", {"nprobes": 60, "refine_factor": 2}),
    "lance ivf_rq 60 probes refine 3": ("IvfRq", {"nprobes": 60, "refine_factor": 3}),
    "lance ivf_sq 20 probes refine 2": ("IvfSq", {"nprobes": 20, "refine_factor": 2}),
    "lance ivf_rq 20 probes refine 10": ("IvfRq", {"nprobes": 20, "refine_factor": 10}),
    "lance ivf_rq 60 probes refine 10": ("IvfRq", {"nprobes": 60, "refine_factor": 10}),
    "lance ivf_hnsw_sq 20 probes": ("HnswSq", {"nprobes": 20}),
    "lance ivf_flat 20 probes": ("IvfFlat", {"nprobes": 20}),
    "lance ivf_flat 60 probes": ("IvfFlat", {"nprobes": 60}),
}

Search = Callable[[str], list[tuple[int, float]]]
"""The positions and scores of the 10 hits of a question."""


class Stopwatch:
    """Seconds of work, with what is drawn through it left out."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._drawing = 0.0

    def drawing(self, things: Iterator[Any]) -> Iterator[Any]:
        """The things, the time of making them not counted."""
        while True:
            began = time.perf_counter()
            try:
                thing = next(things)
            except StopIteration:
                return
            finally:
                self._drawing += time.perf_counter() - began
            yield thing

    def seconds(self) -> float:
        """Since the stopwatch was made."""
        return time.perf_counter() - self._began - self._drawing


# The steps, each in its own process: given the work folder, they return the figures of a row.


def make_tokens(work: Path, n: int) -> dict[str, Any]:
    """Write the tokens of every passage, a line each."""
    watch, tokens_of, count = Stopwatch(), tokenizer(), 0
    with (work / "tokens.txt").open("w", encoding="utf-8") as file:
        for passage in watch.drawing(zipf.passages(n)):
            tokens = tokens_of(indexed_text(passage))
            count += len(tokens)
            file.write(" ".join(tokens) + "\n")
    figures = {"tokens_s": watch.seconds(), "tokens": count}
    (work / "tokens.json").write_text(json.dumps(figures))
    return figures


def build_bm25s(work: Path, n: int) -> dict[str, Any]:
    """The project's retriever, its texts cut at blanks: they are tokens already."""
    bm25.tokenizer = lambda: str.split
    watch = Stopwatch()
    BM25Retriever.build((Passage("", line) for line in watch.drawing(lines(work))), work / "bm25s")
    return {"index_s": watch.seconds()}


def build_tantivy(work: Path, n: int) -> dict[str, Any]:
    """One writer thread, so that documents keep their order; the merges it thinks fit."""
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("tokens", tokenizer_name="whitespace", index_option="freq")
    schema.add_integer_field("position", fast=True)
    (work / "tantivy").mkdir()
    watch = Stopwatch()
    index = tantivy.Index(schema.build(), str(work / "tantivy"))
    writer = index.writer(heap_size=HEAP, num_threads=1)
    for position, line in enumerate(watch.drawing(lines(work))):
        writer.add_document(tantivy.Document(tokens=line, position=position))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return {"index_s": watch.seconds(), "segments": index.searcher().num_segments}


def build_lance(work: Path, n: int) -> dict[str, Any]:
    """A table in batches, then its index of words."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import FTS

    watch = Stopwatch()

    def batches() -> Iterator[pa.RecordBatch]:
        texts, position = watch.drawing(lines(work)), 0
        while block := list(islice(texts, BATCH)):
            numbers = pa.array(range(position, position + len(block)), pa.uint32())
            yield pa.record_batch({"position": numbers, "tokens": pa.array(block)})
            position += len(block)

    schema = pa.schema([("position", pa.uint32()), ("tokens", pa.string())])
    table = lancedb.connect(work / "lance").create_table("passages", batches(), schema=schema)
    written = watch.seconds()
    words = FTS(
        base_tokenizer="whitespace",
        lower_case=False,
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
        max_token_length=None,
        memory_limit=WORDS_MB,
    )
    table.create_index("tokens", config=words)
    return {"index_s": watch.seconds(), "table_s": written}


def open_tantivy(work: Path) -> Search:
    """A union of the words' lists, each term as often as the question has it."""
    import tantivy

    index = tantivy.Index.open(str(work / "tantivy"))
    searcher, schema, tokens_of = index.searcher(), index.schema, tokenizer()

    def search(question: str) -> list[tuple[int, float]]:
        words = [
            (tantivy.Occur.Should, tantivy.Query.term_query(schema, "tokens", word))
            for word in tokens_of(question)
        ]
        found = searcher.search(tantivy.Query.boolean_query(words), HITS, count=False).hits
        positions = searcher.fast_field_values("position", [address for _, address in found])
        return list(zip(positions, (score for score, _ in found), strict=True))

    return search


def open_lance(work: Path) -> Search:
    """A match of any word."""
    import lancedb
    from lancedb.query import MatchQuery

    table, tokens_of = lancedb.connect(work / "lance").open_table("passages"), tokenizer()

    def search(question: str) -> list[tuple[int, float]]:
        query = MatchQuery(" ".join(tokens_of(question)), "tokens")
        found = table.search(query).select(["position", "_score"]).limit(HITS).to_arrow()
        return list(zip(found["position"].to_pylist(), found["_score"].to_pylist(), strict=True))

    return search


def search_words(work: Path, engine: str) -> dict[str, Any]:
    """Ask the engine and bm25s the same questions in turns."""
    before = memory_mb() or 0.0
    search = (open_tantivy if engine == "tantivy" else open_lance)(work)
    texts = zipf.questions(WARM + ROUNDS * A_ROUND)
    for question in texts[:WARM]:
        search(question)
    held = (memory_mb() or 0.0) - before
    exact = BM25Retriever.open(work / "bm25s")
    for question in texts[:WARM]:
        exact.rank([question], HITS)
    asked = texts[WARM:]
    figures, _, _ = in_turns(search, lambda q: exact.rank([q], HITS)[0], asked)
    # Of ties at the last place either may be found: a hit is right that scores as much.
    right, wanted = 0, 0
    for question in asked:
        (scored,) = exact.rank([question], 1000)
        scores = dict(scored)
        least = scored[min(HITS, len(scored)) - 1][1] if scored else 0.0
        right += sum(scores.get(p, 0.0) >= least * (1 - 1e-6) for p, _ in search(question))
        wanted += min(HITS, len(scored))
    return {**figures, "recall": right / wanted, "opened_mb": held, "questions": len(asked)}


def build_vectors(work: Path, n: int, kind: str, seed: int) -> dict[str, Any]:
    """A table of vectors and an index of a kind over it, '' for none."""
    import lancedb
    import lancedb.index
    import pyarrow as pa

    watch = Stopwatch()

    def batches() -> Iterator[pa.RecordBatch]:
        position = 0
        for block in watch.drawing(vectors(n, seed)):
            numbers = pa.array(range(position, position + len(block)), pa.uint32())
            rows = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), DIMENSION)
            yield pa.record_batch({"position": numbers, "vector": rows})
            position += len(block)

    schema = pa.schema([("position", pa.uint32()), ("vector", pa.list_(pa.float32(), DIMENSION))])
    place = work / f"vectors{kind}"
    table = lancedb.connect(place).create_table("passages", batches(), schema=schema)
    if kind:
        partitions = max(1, int(n**0.5))
        config = getattr(lancedb.index, kind)(distance_type="cosine", num_partitions=partitions)
        table.create_index("vector", config=config)
    return {"index_s": watch.seconds()}


def search_vectors(work: Path, n: int, name: str, seed: int, hits: int) -> dict[str, Any]:
    """Ask the index and the whole matrix the same questions in turns."""
    import lancedb

    kind, settings = VECTOR_INDEXES[name]
    asked = next(vectors(WARM + ROUNDS * A_ROUND, seed, of=1))
    before = memory_mb() or 0.0
    table = lancedb.connect(work / f"vectors{kind}").open_table("passages")

    def search(question: NDArray[np.float32]) -> list[tuple[int, float]]:
        query = table.search(question, vector_column_name="vector").distance_type("cosine")
        for option, value in settings.items():
            query = getattr(query, option)(value)
        found = query.select(["position", "_distance"]).limit(hits).to_arrow()
        return list(zip(found["position"].to_pylist(), found["_distance"].to_pylist(), strict=True))

    def exact(question: NDArray[np.float32]) -> list[tuple[int, float]]:
        scores = matrix @ question
        top = np.argpartition(-scores, hits)[:hits]
        return [(int(i), float(scores[i])) for i in top]

    for question in asked[:WARM]:
        search(question)
    held = (memory_mb() or 0.0) - before
    matrix = np.concatenate(list(vectors(n, seed)))
    for question in asked[:WARM]:
        exact(question)
    figures, found, true = in_turns(search, exact, list(asked[WARM:]))
    shared = [len({p for p, _ in a} & {p for p, _ in b}) for a, b in zip(found, true, strict=True)]
    recall = statistics.fmean(shared) / hits
    return {**figures, "recall": recall, "opened_mb": held, "questions": len(asked) - WARM}


class DrawnVectors:
    """Drawn vectors in the place of embedded ones: embedding a million passages takes hours."""

    name = "drawn"
    dimension = DIMENSION

    def __init__(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        self._blocks = blocks
        self._waiting = np.empty((0, DIMENSION), np.float32)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """The next vectors, whatever the texts."""
        while len(self._waiting) < len(texts):
            self._waiting = np.concatenate([self._waiting, next(self._blocks)])
        taken, self._waiting = np.split(self._waiting, [len(texts)])
        return Embeddings(taken, 0)


def whole_lance(work: Path, n: int, seed: int) -> dict[str, Any]:
    """Build the retriever and ask it for 10 hits, one question at a time."""
    place = work / "whole"
    watch = Stopwatch()
    embedder = DrawnVectors(watch.drawing(vectors(n, seed)))
    LanceRetriever.build(watch.drawing(zipf.passages(n)), place, embedder=embedder)
    figures: dict[str, Any] = {"index_s": watch.seconds(), "built_mb": memory_mb(peak=True)}
    asked = zipf.questions(WARM + ROUNDS * A_ROUND)
    embedder = DrawnVectors(vectors(BATCH, seed, of=1))
    retriever = LanceRetriever.open(place, embedder=embedder)
    seconds = []
    for question in asked:
        began = time.perf_counter()
        retriever.search([question], HITS)
        seconds.append(time.perf_counter() - began)
    cuts = statistics.quantiles(seconds[WARM:], n=100)
    figures |= {"p50_ms": 1000 * cuts[49], "p99_ms": 1000 * cuts[98], "hits": HITS}
    return {**figures, "disk_mb": disk_mb(place), "questions": len(asked) - WARM}


# What the steps share


def lines(work: Path) -> Iterator[str]:
    """The tokens of each passage, as one string."""
    with (work / "tokens.txt").open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def vectors(n: int, seed: int, of: int = 0) -> Iterator[NDArray[np.float32]]:
    """Clustered vectors of length 1, in batches; `of` another draw of the same distribution.

    Topics of unequal size (the n-th has a share proportional to 1 / n) that lie in a common space
    of 128 directions, each with its own 24 directions along which its passages differ, and a
    little of every direction: neighbours are neither all alike nor all equally far, as in the
    vectors of sentences.
    """
    fixed = np.random.default_rng(seed)
    topics, own, common = 1000, 24, 128
    space = fixed.normal(size=(common, DIMENSION)).astype(np.float32) / common**0.5
    centres = fixed.normal(size=(topics, common)).astype(np.float32) @ space
    spread = fixed.normal(size=(topics, own, DIMENSION)).astype(np.float32) / own**0.5
    shares = 1 / np.arange(1, topics + 1)
    drawn = np.random.default_rng([seed, 1 + of])
    for at in range(0, n, BATCH):
        size = min(BATCH, n - at)
        topic = drawn.choice(topics, size, p=shares / shares.sum())
        within = drawn.normal(size=(size, own)).astype(np.float32)
        rows = centres[topic] + 0.1 * drawn.normal(size=(size, DIMENSION)).astype(np.float32)
        for one in np.unique(topic):
            here = topic == one
            rows[here] += 0.7 * within[here] @ spread[one]
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def in_turns(
    search: Callable[[Any], list[tuple[int, float]]],
    exact: Callable[[Any], list[tuple[int, float]]],
    asked: Sequence[Any],
) -> tuple[dict[str, Any], list[list[tuple[int, float]]], list[list[tuple[int, float]]]]:
    """Rounds of questions to both, who begins changing; the figures, and what each found."""
    taken: tuple[list[float], list[float]] = ([], [])
    found: tuple[list[Any], list[Any]] = ([], [])
    ratios = []
    for turn in range(ROUNDS):
        middle = {}
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds = []
            for question in asked[turn * A_ROUND : (turn + 1) * A_ROUND]:
                began = time.perf_counter()
                found[which].append((search, exact)[which](question))
                seconds.append(time.perf_counter() - began)
            taken[which].extend(seconds)
            middle[which] = statistics.median(seconds)
        ratios.append(middle[0] / middle[1])
    cuts, exact_cuts = (statistics.quantiles(seconds, n=100) for seconds in taken)
    figures = {
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "exact_p50_ms": 1000 * exact_cuts[49],
        "exact_p99_ms": 1000 * exact_cuts[98],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    return figures, *found


def step(name: str, work: Path, n: int, engine: str, seed: int, hits: int) -> dict[str, Any]:
    """Run one step in this process."""
    started = memory_mb()
    if name == "build":
        builders = {
            "tokens": make_tokens,
            "bm25s": build_bm25s,
            "tantivy": build_tantivy,
            "lance": build_lance,
        }
        figures = builders[engine](work, n)
    elif name == "whole":
        figures = whole_lance(work, n, seed)
    elif name == "search":
        figures = search_words(work, engine)
    elif name == "build-vectors":
        figures = build_vectors(work, n, engine, seed)
    else:
        figures = search_vectors(work, n, engine, seed, hits)
    return {**figures, "started_mb": started, "peak_mb": memory_mb(peak=True)}


def in_its_process(*words: object) -> dict[str, Any]:
    """The figures of a step, run alone."""
    command = [sys.executable, __file__, "--step", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def disk_mb(place: Path) -> float:
    """What the files of a folder take."""
    return sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) / 1e6


def main() -> None:
    """Read the arguments, run the steps, write a row after each."""
    parser = argparse.ArgumentParser(description="Engines for many passages on one machine.")
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--whole", type=int, default=0, metavar="N")
    parser.add_argument("--indexes", nargs="+", choices=VECTOR_INDEXES, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of the vectors")
    parser.add_argument("--quick", action="store_true", help="20,000 passages, 5,000 vectors")
    parser.add_argument("--out", type=Path, default=Path("results/retrieval/engines.jsonl"))
    parser.add_argument(
        "--work", type=Path, help="keeps tokens and indexes here; what is there is taken as it is"
    )
    parser.add_argument("--hits", type=int, default=HITS, help="of a search of vectors")
    parser.add_argument("--step", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        name, work, n, engine, seed, hits = args.step
        print(json.dumps(step(name, Path(work), int(n), engine, int(seed), int(hits))))
        return
    if args.quick:
        args.passages, args.vectors = 20_000, 5_000
    origin = made_by(shlex.join(["python", *sys.argv])) | {
        "seed": args.seed,
        "libraries": {
            name: metadata.version(name) for name in ("bm25s", "tantivy", "lancedb", "numpy")
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def tell(row: dict[str, Any]) -> None:
        row = {**row, "load": list(os.getloadavg())}
        print(json.dumps(row), flush=True)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | origin) + "\n")

    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        if args.passages:
            words(work, args.passages, args.seed, tell)
        if args.vectors:
            names = args.indexes or VECTOR_INDEXES
            neighbours(work, args.vectors, names, args.seed, args.hits, tell)
        if args.whole:
            found = in_its_process("whole", work, args.whole, "lance", args.seed, HITS)
            tell({"what": "whole", "engine": "lance", "passages": args.whole, **found})


def words(work: Path, n: int, seed: int, tell: Callable[[dict[str, Any]], None]) -> None:
    """BM25 of each engine."""
    kept = work / "tokens.json"
    if not kept.exists():
        in_its_process("build", work, n, "tokens", seed, HITS)
    tell({"what": "tokens", "passages": n, **json.loads(kept.read_text())})
    for engine in ("bm25s", "tantivy", "lance"):
        kept = work / f"{engine}.json"
        if not kept.exists():
            built = in_its_process("build", work, n, engine, seed, HITS)
            kept.write_text(json.dumps(built | {"disk_mb": disk_mb(work / engine)}))
        built = json.loads(kept.read_text())
        found = {}
        if engine != "bm25s":
            found = in_its_process("search", work, n, engine, seed, HITS)
        tell({"what": "bm25", "engine": engine, "passages": n, **found, **built})


def neighbours(
    work: Path,
    n: int,
    names: Iterable[str],
    seed: int,
    hits: int,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Vectors in each kind of index."""
    built: dict[str, dict[str, Any]] = {}
    for name in names:
        kind = VECTOR_INDEXES[name][0]
        if kind not in built:
            kept = work / f"vectors{kind}.json"
            if not kept.exists():
                made = in_its_process("build-vectors", work, n, kind, seed, hits)
                kept.write_text(json.dumps(made | {"disk_mb": disk_mb(work / f"vectors{kind}")}))
            built[kind] = json.loads(kept.read_text())
        found = in_its_process("search-vectors", work, n, name, seed, hits)
        row = {"what": "vectors", "engine": name, "vectors": n, "hits": hits}
        tell({**row, **found, **built[kind]})


if __name__ == "__main__":
    main()

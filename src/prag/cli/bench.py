"""`prag bench`: speed and size beside the alternatives; the last line of each is JSON."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from prag.cli.app import AsJson, Device, app, console, err_console
from prag.progress import shown

bench = typer.Typer(
    help="Measure speed and size beside the alternatives, in turns.", no_args_is_help=True
)
app.add_typer(bench, name="bench")


@bench.callback()
def _root() -> None:
    # What peft calls of transformers is about to be renamed; a user can do nothing about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


Model = Annotated[str, typer.Option(help="The base model.")]
Quick = Annotated[bool, typer.Option("--quick", help="One round, and few passages.")]


@bench.command()
def encode(
    model: Model = "smollm2",
    passages: Annotated[int, typer.Option(min=1, help="Of the encoder.")] = 36,
    rounds: Annotated[int, typer.Option(min=1, help="Of turns.")] = 3,
    quick: Quick = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Time the encoder, beside the published loop and the same without padding, both with peft."""
    from prag.bench import bench_encode
    from prag.model import load_model

    base = load_model(model, device=device)
    with shown(err_console) as tell:
        if quick:
            found = bench_encode(base, min(passages, 4), 1, progress=tell)
        else:
            found = bench_encode(base, passages, rounds, progress=tell)
    if not as_json:
        console.print(_encode_table(found))
    _last_line(found, device)


@bench.command()
def answer(
    model: Model = "smollm2",
    questions: Annotated[int, typer.Option(min=1, max=12, help="In each run of a way.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Of turns.")] = 5,
    quick: Quick = False,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Time answers without passages, with their text, with adapters; and the change of adapters."""
    from prag.bench import bench_answer
    from prag.model import load_model

    base = load_model(model, device=device)
    with shown(err_console) as tell:
        if quick:
            found = bench_answer(base, 1, 1, progress=tell)
        else:
            found = bench_answer(base, questions, rounds, progress=tell)
    if not as_json:
        console.print(_ways_table(found))
        console.print(_answer_table(found))
    _last_line(found, device)


@bench.command()
def store(
    model: Model = "smollm2",
    adapters: Annotated[int, typer.Option(min=1, help="Of the larger store.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="10,000 adapters.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bytes of an adapter by codec, and what a store of many costs to open and to read."""
    from prag.bench import bench_store
    from prag.model import load_model

    base = load_model(model)
    with shown(err_console) as tell:
        found = bench_store(base, min(adapters, 10_000) if quick else adapters, progress=tell)
    if not as_json:
        console.print(_codec_table(found))
        console.print(_store_table(found))
    _last_line(found)


@bench.command()
def retrieve(
    passages: Annotated[int, typer.Option(min=1, help="Of the larger index.")] = 1_000_000,
    quick: Annotated[bool, typer.Option("--quick", help="20,000 passages.")] = False,
    as_json: AsJson = False,
) -> None:
    """What building and searching a BM25 index costs, with synthetic passages."""
    from prag.bench import bench_retrieve

    with shown(err_console) as tell:
        found = bench_retrieve(min(passages, 20_000) if quick else passages, tell)
    if not as_json:
        console.print(_index_table(found))
    _last_line(found)


@bench.command()
def plot(
    results: Annotated[list[Path], typer.Argument(help="Files: `prag bench ... --json > FILE`.")],
    out: Annotated[Path, typer.Option(help="The folder of the figures.")] = Path(),
) -> None:
    """Draw what the other commands printed, as SVG and PNG."""
    from prag.bench.figures import plot as draw

    for path in draw(results, out):
        console.print(str(path), soft_wrap=True)


def _codec_table(found: dict[str, Any]) -> Table:
    table = Table(title=f"one adapter; as published {found['published_bytes']:,} bytes")
    for name in ("", "bytes", "times smaller", "error", "read, ms"):
        table.add_column(name, justify="right" if name else "left")
    for codec, way in found["codecs"].items():
        table.add_row(
            codec,
            f"{way['bytes']:,}",
            f"{way['over_published']:.1f}",
            f"{way['error']:.2g}",
            f"{way['read_ms']:.2f}",
        )
    return table


def _store_table(found: dict[str, Any]) -> Table:
    rows = {
        "open, ms": "open_ms",
        "one read, median, us": "read_p50_us",
        "one read, 99 of 100 below, us": "read_p99_us",
        "memory of the process, MB": "process_mb",
        "of that by opening and reading, MB": "store_mb",
        "finding all that is there, s": "resume_s",
        "writing all, s": "commit_s",
        "index, bytes an adapter": "index_bytes",
    }
    return _sizes_table("stores of many small adapters", rows, found["stores"])


def _index_table(found: dict[str, Any]) -> Table:
    rows = {
        "building, s": "build_s",
        "on the disk, MB": "index_mb",
        "open, ms": "open_ms",
        "one search, median, ms": "search_p50_ms",
        "one search, 99 of 100 below, ms": "search_p99_ms",
        "memory of the process, MB": "process_mb",
        "of that by opening and searching, MB": "index_in_memory_mb",
    }
    return _sizes_table("BM25 indexes of synthetic passages", rows, found["indexes"])


def _sizes_table(title: str, rows: dict[str, str], sizes: dict[str, dict[str, Any]]) -> Table:
    """A row a figure, a column a size; what the system does not say is a dash."""
    table = Table(title=title)
    table.add_column("")
    for size in sizes:
        table.add_column(f"{int(size):,}", justify="right")
    for name, key in rows.items():
        figures = (column[key] for column in sizes.values())
        table.add_row(name, *("-" if f is None else f"{f:,.3g}" for f in figures))
    return table


def _ways_table(found: dict[str, Any]) -> Table:
    table = Table(title=f"answers of 20 tokens, {_rounds(found, 'closed-book')}")
    for name in ("", "first token, s", "20 tokens, s", "then tokens a second"):
        table.add_column(name, justify="right" if name else "left")
    for name, way in found["ways"].items():
        figures = (way["first_token_s"], way["seconds"], way["tokens_per_s"])
        table.add_row(name, *(f"{figure:.3g}" for figure in figures))
    return table


def _answer_table(found: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    rows = {
        "three adapters loaded, merged, put in and taken out, ms": found["update_ms"],
        "the same, adapters in memory already, ms": found["update_kept_ms"],
        "loading included, times as fast as peft's way": found["update_ratio_peft"],
        "parametric over closed-book, seconds": found["parametric_over_closed_book"],
        **{
            f"parametric over in-context with {k} passages": share
            for k, share in found["parametric_over_in_context"].items()
        },
        "16 questions as a batch, times as fast as one by one": found["batch16_over_serial"],
    }
    for name, figure in rows.items():
        table.add_row(name, f"{figure:.3g}")
    return table


def _encode_table(found: dict[str, Any]) -> Table:
    table = Table(title=f"{found['passages']} passages, {_rounds(found, 'ours')}")
    table.add_column("")
    table.add_column("default recipe", justify="right")
    table.add_column("paper", justify="right")

    def row(name: str, key: str, form: str) -> None:
        figures = (found.get(p + key) for p in ("", "paper_"))
        table.add_row(name, *("-" if f is None else format(f, form) for f in figures))

    row("passages a second", "passages_per_s", ".3f")
    row("times as fast as the published loop", "ratio_published", ".1f")
    row("times as fast as the same without padding", "ratio_unpadded", ".2f")
    row("and with its base in bfloat16 too", "ratio_unpadded_mixed", ".2f")
    row("the base model computed in", "dtype", "")
    row("operations a passage", "flop_per_passage", ".2e")
    row("share of the measured matmul peak", "peak_fraction", ".2f")
    row("tokens trained on a passage", "tokens", ",.0f")
    row("and by the published loop, padding with them", "tokens_published", ",")
    for kind in sorted({*found["shares"], *found["paper_shares"]}):
        parts = (found[p + "shares"].get(kind, 0.0) for p in ("", "paper_"))
        table.add_row(f"of the time: {kind}", *(f"{part:.0%}" for part in parts))
    return table


def _rounds(found: dict[str, Any], name: str) -> str:
    runs = found["runs"][name]["runs"]
    return "one round" if runs == 1 else f"medians of {runs} rounds"


def _last_line(found: dict[str, Any], device: str = "cpu") -> None:
    from prag.provenance import made_by

    command = shlex.join(["prag", *sys.argv[1:]])
    print(json.dumps({**found, "made_by": made_by(command, device)}))  # noqa: T201

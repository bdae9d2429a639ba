"""The commands of a knowledge base: its life from `init` to `export`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from prag.cli.app import (
    AdapterFolder,
    AsJson,
    Device,
    EngineModel,
    EngineName,
    EngineUrl,
    Folder,
    app,
    console,
    engine_named,
    err_console,
    print_json,
)
from prag.progress import shown
from prag.records import Answer, PragError

if TYPE_CHECKING:
    from prag import KnowledgeBase


@app.command()
def init(
    kb: Folder,
    model: Annotated[
        str, typer.Option(help="Hugging Face id or folder of a causal LM, or smollm2.")
    ],
    recipe: Annotated[
        Optional[str],  # noqa: UP045  (typer evaluates it on Python 3.10)
        typer.Option(help="paper, small, or a TOML file. Default: by the size of the model."),
    ] = None,
    retriever: Annotated[
        str, typer.Option(help="bm25, dense, hybrid, tantivy, lance, elasticsearch or opensearch.")
    ] = "bm25",
    retriever_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="The server of elasticsearch or opensearch, like http://127.0.0.1:9200; a user "
            "and a password come from PRAG_ELASTICSEARCH_USER and _PASSWORD (PRAG_OPENSEARCH_...)."
        ),
    ] = None,
    chunk_words: Annotated[int, typer.Option(help="Words of a passage cut from a document.")] = 100,
    codec: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="How adapters are stored: float32, float16, bfloat16, int8, int4, base6, int2 or "
            "base3. Default: the recipe's."
        ),
    ] = None,
    adapters: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Address of an object store for the adapters, such as s3://bucket/path. Default: "
            "the folder."
        ),
    ] = None,
) -> None:
    """Make a new, empty knowledge base for a model."""
    from prag.config import load_recipe
    from prag.knowledge_base import KnowledgeBase

    chosen = load_recipe(recipe) if recipe else None
    made = KnowledgeBase.create(
        kb,
        model,
        chosen,
        retriever=retriever,
        retriever_url=retriever_url,
        chunk_words=chunk_words,
        codec=codec,
        adapters=adapters,
    )
    console.print(
        f"{kb}: new knowledge base for {escape(model)} (fingerprint {made.settings.base}), recipe "
        f"{made.settings.recipe.name}, retriever {retriever}"
    )


@app.command()
def add(
    kb: Folder,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files, folders, or - for stdin.")
    ],
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Add what can be read; name and leave out the rest.")
    ] = False,
) -> None:
    """Add documents. One that has changed replaces its passages; the same twice does nothing."""
    stdin = sys.stdin.buffer if "-" in paths else None
    report, read = _open(kb).add(paths, skip_bad=skip_bad, stdin=stdin)
    console.print(
        f"{report.added} documents added, {report.replaced} replaced, "
        f"{report.unchanged} unchanged; "
        f"{report.passages_added} passages added, {report.passages_removed} removed, "
        f"{report.duplicates} were there already"
    )
    for note in read.ignored:
        err_console.print(f"ignored {escape(note.text)}: {escape(note.reason)}")
    for problem in read.problems:
        err_console.print(f"[bold red]left out[/] {escape(problem.text)}: {escape(problem.reason)}")
    if read.problems:
        raise typer.Exit(1)


@app.command()
def augment(
    kb: Folder,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--from", help="JSON lines of augmentations made elsewhere."),
    ] = None,
    label: Annotated[
        Optional[str], typer.Option(help="What to call them. Default: the file's name.")  # noqa: UP045
    ] = None,
    endpoint: Annotated[
        Optional[str], typer.Option(help="URL of an OpenAI-compatible server, up to /v1.")  # noqa: UP045
    ] = None,
    model: Annotated[
        Optional[str], typer.Option(help="The server's name of the model that augments.")  # noqa: UP045
    ] = None,
    device: Device = "cpu",
) -> None:
    """Augment passages without encoding them: by the model itself, an endpoint, or from a file."""
    opened = _open(kb, device)
    if source is not None:
        report = opened.augment_from(source, label)
        console.print(
            f"{report.imported} passages have augmentations of {escape(report.origin)}; "
            f"{report.unknown} in the file are of no passage here, "
            f"{report.without_pairs} have no pair"
        )
        return
    if (endpoint is None) != (model is None):
        raise PragError("--endpoint and --model go together")
    augmenter = None
    if endpoint is not None and model is not None:
        from prag.augment import Endpoint

        augmenter = Endpoint(opened.settings.recipe.augment, model, endpoint)
    with shown(err_console) as tell:
        done = opened.augment(tell, augmenter)
    console.print(f"{done} passages augmented")


@app.command()
def build(
    kb: Folder,
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="From now on use this recipe: paper, small, or a TOML file."),
    ] = None,
    step_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Tokens of a training step; fewer take less memory. Default: 1024."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read all adapters first, of a store at an address too; else it is not."
        ),
    ] = False,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Encode and augment in this many processes, by Ray."),
    ] = None,
    gpu_workers: Annotated[int, typer.Option(help="And in so many with a GPU each.")] = 0,
    worker_cores: Annotated[int, typer.Option(help="Cores of each worker.")] = 1,
    on: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Address of a Ray cluster: ray://host:10001, host:6379 or auto. Default: this "
            "machine."
        ),
    ] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Augment, encode and index what is missing. Can be stopped and run again."""
    from prag.config import load_recipe
    from prag.crew import Workers

    opened = _open(kb, device)
    hired = None
    if workers is not None or gpu_workers or on is not None:
        cpu = workers if workers is not None else int(not gpu_workers)
        hired = Workers(cpu, gpu_workers, on, worker_cores)
    with shown(err_console) as tell:
        chosen = load_recipe(recipe) if recipe else None
        report = opened.build(tell, chosen, tokens_a_step=step_tokens, check=check, workers=hired)
    if as_json:
        print_json(asdict(report))
        return
    console.print(
        f"{report.passages} passages: {report.augmented} augmented, {report.encoded} encoded, "
        f"{report.kept} kept; {report.damaged} damaged adapters made again, {report.discarded} of "
        "passages that are gone deleted"
    )
    if report.encoded:
        console.print(f"  the base model computed in {report.dtype} while they were trained")
    for origin, count in report.origins.items():
        console.print(f"  {count} augmentations of {escape(origin)}")
    if report.rejects:
        console.print(
            f"  {report.rejects} generated pairs rejected, with reasons in {kb}/augmentations"
        )
    if report.left_out:
        console.print(
            f"  {len(report.left_out)} passages have no valid pair, and so no adapter: "
            f"{', '.join(report.left_out[:10])}{' ...' if len(report.left_out) > 10 else ''}"
        )
    if report.workers_lost:
        console.print(f"  {report.workers_lost} workers died; others did their batches")
    if report.retried:
        console.print(f"  {report.retried} requests to the adapter store were made again")
    for note in report.notes:
        console.print(f"  note: {escape(note)}")
    console.print("  " + ", ".join(f"{stage} {s:.1f} s" for stage, s in report.seconds.items()))


@app.command()
def ask(
    kb: Folder,
    question: Annotated[str, typer.Argument(help="The question.")],
    method: Annotated[
        str,
        typer.Option(
            help="closed-book, in-context, parametric, combined, all (those four), da-rag, flare, "
            "dragin or ircot."
        ),
    ] = "parametric",
    top_k: Annotated[int, typer.Option(help="Passages to retrieve.")] = 3,
    recipe: Annotated[
        Optional[str], typer.Option(help="Whose adapters. Default: the recipe last built.")  # noqa: UP045
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 20,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    engine: EngineName = "transformers",
    engine_url: EngineUrl = None,
    engine_model: EngineModel = None,
    adapter_folder: AdapterFolder = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Answer a question, and say which passages and adapters stood behind the answer."""
    from prag.config import GenerateConfig, load_recipe
    from prag.knowledge_base import KnowledgeBase
    from prag.methods import CORE

    made = engine_named(engine, engine_url, engine_model, adapter_folder)
    opened = KnowledgeBase.open(kb, engine=made, device=device)
    names = list(CORE) if method == "all" else [method]
    settings = GenerateConfig(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    chosen = load_recipe(recipe) if recipe else None
    answers = (opened.ask(question, name, top_k, settings, chosen) for name in names)
    if as_json:
        shown = [asdict(answer) for answer in answers]
        print_json(shown if method == "all" else shown[0])
        return
    for answer in answers:
        _show(answer)


@app.command()
def status(kb: Folder, as_json: AsJson = False) -> None:
    """Say what the knowledge base holds and what is missing. Writes nothing."""
    found = _open(kb).status()
    if as_json:
        print_json(asdict(found))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    rows: dict[str, str] = {
        "model": f"{found.model} (fingerprint {found.base})",
        "recipe": found.recipe,
        "retriever": found.retriever,
        "documents": str(found.documents),
        "passages": str(found.passages),
        "augmented": ", ".join(f"{n} by {o}" for o, n in found.augmented.items()) or "0",
        "pairs": f"{found.pairs}, {found.rejects} rejected",
        "encoded": str(found.encoded),
        "without a pair": str(len(found.left_out)),
    }
    if found.store is not None:
        rows["adapter store"] = (
            f"{found.store.adapters} adapters, {found.store.bytes_on_disk / 1e6:.1f} MB in "
            f"{found.store.shards} shards" + (f" at {found.adapters}" if found.adapters else "")
        )
    rows["built"] = "up to date" if found.up_to_date else "behind" if found.built else "not yet"
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    if not found.up_to_date:
        console.print(f"run `prag build {kb}`" if found.passages else f"run `prag add {kb} FILE`")


@app.command()
def verify(kb: Folder, as_json: AsJson = False) -> None:
    """Read and check every passage and adapter. Exit status 1 if something is damaged."""
    opened = _open(kb)
    with shown(err_console) as tell:
        report = opened.verify(tell)
    if as_json:
        print_json(asdict(report))
    else:
        console.print(f"{report.passages} passages and {report.adapters} adapters checked")
        for note in report.notes:
            console.print(f"  note: {escape(note)}")
        for problem in report.problems:
            console.print(f"  [bold red]damaged:[/] {escape(problem)}")
        console.print("damaged" if report.problems else "all is well")
    if report.problems:
        raise typer.Exit(1)


@app.command()
def withdraw(
    kb: Folder,
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Document names, or ids of passages.")
    ],
) -> None:
    """Take documents or passages out, with their adapters."""
    report = _open(kb).withdraw(ids)
    console.print(
        f"{len(report.documents)} documents and {len(report.passages)} passages withdrawn"
    )


@app.command()
def export(
    kb: Folder,
    to: Annotated[Path, typer.Option(help="The folder to write to.")],
    ids: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[ID...]", help="Passages. Default: all."),
    ] = None,
) -> None:
    """Write adapters as PEFT folders, one a passage."""
    folders = _open(kb).export(to, ids or ())
    console.print(f"{len(folders)} adapters written to {to}, a folder each, for PeftModel")


def _open(folder: Path, device: str = "cpu") -> KnowledgeBase:
    from prag.knowledge_base import KnowledgeBase

    return KnowledgeBase.open(folder, device=device)


def _show(answer: Answer) -> None:
    console.print(f"[bold]{answer.method}[/]: {escape(answer.text) or '(nothing)'}")
    for source in answer.sources:
        used = [
            *(["adapter in the weights"] if source.adapter else []),
            *(["text in the prompt"] if source.in_prompt else []),
        ]
        name = escape(source.title or source.text[:50])
        console.print(
            f"    {source.passage_id}  {source.score:6.2f}  {name}"
            f"  ({', '.join(used) or 'not used'})"
        )
    times = ", ".join(f"{stage} {s * 1000:.0f} ms" for stage, s in answer.timings.items())
    console.print(
        f"    {answer.prompt_tokens} prompt tokens, {answer.generated_tokens} new; {times}",
        style="dim",
    )
    for note in answer.notes:
        console.print(f"    note: {escape(note)}", style="dim")

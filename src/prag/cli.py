"""The commands. They parse, call `KnowledgeBase`, and show; no logic is here."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prag import __version__
from prag.progress import shown
from prag.records import Answer, PragError

if TYPE_CHECKING:
    from prag import KnowledgeBase

app = typer.Typer(
    name="prag",
    help="Give a language model a library it has read: passages become adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

Folder = Annotated[Path, typer.Argument(metavar="KB", help="The folder of the knowledge base.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command; an error a user can act on is one message and exit status 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except PragError as error:
        _err.print(f"[bold red]prag:[/] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("prag: stopped; what was reported done is kept")
        sys.exit(130)


def _version(asked: bool) -> None:
    if asked:
        _out.print(f"prag {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
    retriever: Annotated[str, typer.Option(help="bm25, dense or hybrid.")] = "bm25",
    chunk_words: Annotated[int, typer.Option(help="Words of a passage cut from a document.")] = 100,
    adapter_dtype: Annotated[
        str, typer.Option(help="How adapters are stored: float32, float16 or bfloat16.")
    ] = "float32",
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
        chunk_words=chunk_words,
        adapter_dtype=adapter_dtype,
    )
    _out.print(
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
    _out.print(
        f"{report.added} documents added, {report.replaced} replaced, "
        f"{report.unchanged} unchanged; "
        f"{report.passages_added} passages added, {report.passages_removed} removed, "
        f"{report.duplicates} were there already"
    )
    for note in read.ignored:
        _err.print(f"ignored {escape(note.text)}: {escape(note.reason)}")
    for problem in read.problems:
        _err.print(f"[bold red]left out[/] {escape(problem.text)}: {escape(problem.reason)}")
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
) -> None:
    """Augment passages without encoding them: by the model itself, an endpoint, or from a file."""
    opened = _open(kb)
    if source is not None:
        report = opened.augment_from(source, label)
        _out.print(
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
    with shown(_err) as tell:
        done = opened.augment(tell, augmenter)
    _out.print(f"{done} passages augmented")


@app.command()
def build(
    kb: Folder,
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="From now on use this recipe: paper, small, or a TOML file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Augment, encode and index what is missing. Can be stopped and run again."""
    from prag.config import load_recipe

    opened = _open(kb)
    with shown(_err) as tell:
        report = opened.build(tell, load_recipe(recipe) if recipe else None)
    if as_json:
        _print_json(asdict(report))
        return
    _out.print(
        f"{report.passages} passages: {report.augmented} augmented, {report.encoded} encoded, "
        f"{report.kept} kept; {report.damaged} damaged adapters made again, {report.discarded} of "
        "passages that are gone deleted"
    )
    for origin, count in report.origins.items():
        _out.print(f"  {count} augmentations of {escape(origin)}")
    if report.rejects:
        _out.print(
            f"  {report.rejects} generated pairs rejected, with reasons in {kb}/augmentations"
        )
    if report.left_out:
        _out.print(
            f"  {len(report.left_out)} passages have no valid pair, and so no adapter: "
            f"{', '.join(report.left_out[:10])}{' ...' if len(report.left_out) > 10 else ''}"
        )
    _out.print("  " + ", ".join(f"{stage} {s:.1f} s" for stage, s in report.seconds.items()))


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
    as_json: AsJson = False,
) -> None:
    """Answer a question, and say which passages and adapters stood behind the answer."""
    from prag.config import GenerateConfig, load_recipe
    from prag.methods import CORE

    opened = _open(kb)
    names = list(CORE) if method == "all" else [method]
    settings = GenerateConfig(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    chosen = load_recipe(recipe) if recipe else None
    answers = (opened.ask(question, name, top_k, settings, chosen) for name in names)
    if as_json:
        shown = [asdict(answer) for answer in answers]
        _print_json(shown if method == "all" else shown[0])
        return
    for answer in answers:
        _show(answer)


@app.command()
def status(kb: Folder, as_json: AsJson = False) -> None:
    """Say what the knowledge base holds and what is missing. Writes nothing."""
    found = _open(kb).status()
    if as_json:
        _print_json(asdict(found))
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
            f"{found.store.shards} shards"
        )
    rows["built"] = "up to date" if found.up_to_date else "behind" if found.built else "not yet"
    for name, value in rows.items():
        table.add_row(name, escape(value))
    _out.print(table)
    if not found.up_to_date:
        _out.print(f"run `prag build {kb}`" if found.passages else f"run `prag add {kb} FILE`")


@app.command()
def verify(kb: Folder, as_json: AsJson = False) -> None:
    """Read and check every passage and adapter. Exit status 1 if something is damaged."""
    opened = _open(kb)
    with shown(_err) as tell:
        report = opened.verify(tell)
    if as_json:
        _print_json(asdict(report))
    else:
        _out.print(f"{report.passages} passages and {report.adapters} adapters checked")
        for note in report.notes:
            _out.print(f"  note: {escape(note)}")
        for problem in report.problems:
            _out.print(f"  [bold red]damaged:[/] {escape(problem)}")
        _out.print("damaged" if report.problems else "all is well")
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
    _out.print(f"{len(report.documents)} documents and {len(report.passages)} passages withdrawn")


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
    _out.print(f"{len(folders)} adapters written to {to}, a folder each, for PeftModel")


@app.command("eval")
def evaluate(
    out: Annotated[
        Optional[Path], typer.Option(help="The folder of the run; an unfinished one goes on.")  # noqa: UP045
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A question set: a folder or an official file (docs/datasets.md)."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, controls and groups, comma-separated.")
    ] = "closed-book,in-context,parametric,combined,shuffled,format-only",
    kb: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The knowledge base; made if need be. Default: OUT/kb."),
    ] = None,
    model: Annotated[str, typer.Option(help="Of a new knowledge base.")] = "smollm2",
    recipe: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="paper, small or a TOML file. Default: the knowledge base's."),
    ] = None,
    augmentations: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON lines of augmentations made elsewhere, taken before encoding."),
    ] = None,
    limit: Annotated[
        Optional[int], typer.Option(help="The first N questions.")  # noqa: UP045
    ] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Give the gold passages.")] = False,
    top_k: Annotated[int, typer.Option(help="Passages to retrieve.")] = 3,
    seed: Annotated[int, typer.Option(help="Of draws and of the bootstrap.")] = 0,
    metrics: Annotated[
        str, typer.Option(help="squad, or published: the three token scores as the paper's code.")
    ] = "squad",
    rows: Annotated[int, typer.Option(help="Questions of one batch.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 20,
    reasoning_tokens: Annotated[int, typer.Option(help="Longest chain of thought.")] = 128,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="A TOML file with a grid of models, sets and methods, in place of --data."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question set by many methods: rows, means with intervals, contrasts."""
    from prag.evaluate.grid import Job, jobs, run_job

    if (config is None) == (data is None):
        raise PragError("give either --data with a question set, or --config with a grid")
    if config is not None:
        todo = jobs(config, out)
    elif data is not None and out is not None:
        todo = [
            Job(
                data=data,
                out=out,
                methods=methods,
                kb=kb,
                model=model,
                recipe=recipe,
                augmentations=augmentations,
                limit=limit,
                gold=gold,
                top_k=top_k,
                seed=seed,
                metrics=metrics,
                rows=rows,
                max_new_tokens=max_new_tokens,
                reasoning_tokens=reasoning_tokens,
            )
        ]
    else:
        raise PragError("give --out with a folder for the run")
    found = []
    for job in todo:
        with shown(_err) as tell:
            summary = run_job(job, tell)
        found.append(summary)
        if not as_json:
            _show_summary(summary, job.out)
    if as_json:
        _print_json(found if config is not None else found[0])


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of `prag eval`.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("report"),
) -> None:
    """Make one self-contained HTML page and PNG figures of runs."""
    from prag.report import make_report

    made = make_report(runs, out)
    for note in made.notes:
        _err.print(f"note: {escape(note)}")
    _out.print(f"{made.page} and {len(made.figures)} figures beside it")


def _show_summary(summary: dict[str, Any], out: Path) -> None:
    table = Table(title=f"{escape(summary['set'])}, {summary['n']} questions", box=None)
    table.add_column("")
    for name in ("presence", "EM", "F1", "s", "prompt tokens", "errors"):
        table.add_column(name, justify="right")
    for label, m in summary["methods"].items():
        cells = ["-"] * 5
        if m["n"]:
            cells = [
                *(f"{m[k]:.3f} [{m[f'{k}_ci'][0]:.3f}, {m[f'{k}_ci'][1]:.3f}]" for k in _SHOWN),
                f"{m['seconds']:.2f}",
                f"{m['prompt_tokens']:.0f}",
            ]
        table.add_row(label, *cells, str(m["errors"]))
    _out.print(table)
    for name, c in summary["contrasts"].items():
        _out.print(
            f"  {name}: {c['presence']:+.3f} [{c['ci'][0]:+.3f}, {c['ci'][1]:+.3f}], "
            f"p {c['p']:.4f}, Holm {c['p_holm']:.4f}"
        )
    for note in summary["notes"]:
        _out.print(f"  note: {escape(note)}")
    if summary["errors"]:
        first = summary["errors"][0]
        _out.print(
            f"  {len(summary['errors'])} rows have an error, the first: {escape(first['method'])} "
            f"{escape(first['id'])}: {escape(first['error'])}"
        )
    _out.print(
        f"rows and summary in {escape(str(out))}; `prag report {escape(str(out))}` shows them"
    )


_SHOWN = ("presence", "em", "f1")


def _open(folder: Path) -> KnowledgeBase:
    from prag.knowledge_base import KnowledgeBase

    return KnowledgeBase.open(folder)


def _show(answer: Answer) -> None:
    _out.print(f"[bold]{answer.method}[/]: {escape(answer.text) or '(nothing)'}")
    for source in answer.sources:
        used = [
            *(["adapter in the weights"] if source.adapter else []),
            *(["text in the prompt"] if source.in_prompt else []),
        ]
        name = escape(source.title or source.text[:50])
        _out.print(
            f"    {source.passage_id}  {source.score:6.2f}  {name}"
            f"  ({', '.join(used) or 'not used'})"
        )
    times = ", ".join(f"{stage} {s * 1000:.0f} ms" for stage, s in answer.timings.items())
    _out.print(
        f"    {answer.prompt_tokens} prompt tokens, {answer.generated_tokens} new; {times}",
        style="dim",
    )
    for note in answer.notes:
        _out.print(f"    note: {escape(note)}", style="dim")


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()

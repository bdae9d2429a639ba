"""The commands of research: `eval` answers question sets by many methods, `report` shows runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.table import Table

from prag.cli.app import AsJson, Device, app, console, err_console, print_json
from prag.progress import shown
from prag.records import PragError


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
    device: Device = "cpu",
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
                device=device,
            )
        ]
    else:
        raise PragError("give --out with a folder for the run")
    found = []
    for job in todo:
        with shown(err_console) as tell:
            summary = run_job(job, tell)
        found.append(summary)
        if not as_json:
            _show_summary(summary, job.out)
    if as_json:
        print_json(found if config is not None else found[0])


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of `prag eval`.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("report"),
) -> None:
    """Make one self-contained HTML page and PNG figures of runs."""
    from prag.report import make_report

    made = make_report(runs, out)
    for note in made.notes:
        err_console.print(f"note: {escape(note)}")
    console.print(f"{made.page} and {len(made.figures)} figures beside it")


def _show_summary(summary: dict[str, Any], out: Path) -> None:
    state = "" if summary["complete"] else ", not finished"
    title = f"{escape(summary['set'])}, {summary['n']} questions{state}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("presence, 95 %", "EM", "F1", "s", "tokens", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, m in summary["methods"].items():
        cells = ["-"] * 5
        if m["n"]:
            cells = [
                f"{m['presence']:.3f} {_interval(m['presence_ci'])}",
                *(f"{m[name]:.3f}" for name in ("em", "f1")),
                f"{m['seconds']:.2f}",
                f"{m['prompt_tokens']:.0f}",
            ]
        table.add_row(label, *cells, str(m["errors"]))
    console.print(table)
    for name, c in summary["contrasts"].items():
        console.print(
            f"  {name}: {c['presence']:+.3f} {_interval(c['ci'], '+')}, p {c['p']:.4f}, "
            f"Holm {c['p_holm']:.4f}"
        )
    for line in _controls(summary):
        console.print(f"  {line}")
    for note in summary["notes"]:
        console.print(f"  note: {escape(note)}")
    if summary["errors"]:
        first = summary["errors"][0]
        console.print(
            f"  {len(summary['errors'])} rows have an error, the first: {escape(first['method'])} "
            f"{escape(first['id'])}: {escape(first['error'])}"
        )
    where = escape(str(out))
    console.print(f"rows and summary are in {where}; `prag report {where}` shows them")


def _controls(summary: dict[str, Any]) -> Iterator[str]:
    """The controls that have sections of their own, a line each."""
    for method, points in summary.get("noise", {}).items():
        shown = ", ".join(f"{p['presence']:.3f} of {p['k']}" for p in points)
        yield f"noise, {method}: presence with 1 gold passage {shown}"
    for method, m in summary.get("conflict", {}).get("methods", {}).items():
        if m["n"]:
            yield (
                f"conflict, {method}: follows the changed passage {m['follows']:.3f}, "
                f"keeps the old answer {m['keeps']:.3f} ({m['n']} questions)"
            )
    forgetting = summary.get("forgetting", {})
    if "accuracy" in forgetting:
        a = forgetting["accuracy"]
        yield (
            f"general questions: {a['without']:.3f} without adapters, {a['with']:.3f} with, "
            f"{a['difference']:+.3f} {_interval(a['ci'], '+')}"
        )
    if "perplexity" in forgetting:
        p = forgetting["perplexity"]
        yield (
            f"perplexity of held text: {p['without']:.1f} without adapters, {p['with']:.1f} with, "
            f"x {p['ratio']:.2f} {_interval(p['ratio_ci'])}"
        )


def _interval(pair: list[float], sign: str = "") -> str:
    return escape(f"[{pair[0]:{sign}.3f}, {pair[1]:{sign}.3f}]")

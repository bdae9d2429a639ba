"""`prag plan`: hours, bytes and money of a corpus before it is encoded."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from prag.cli.app import AsJson, app, console, err_console, print_json
from prag.progress import shown
from prag.records import PragError

if TYPE_CHECKING:
    from prag.plan import Plan


@app.command()
def plan(
    corpus: Annotated[int, typer.Option(help="Passages of the corpus.")],
    model: Annotated[
        str, typer.Option(help="smollm2, llama-3.2-1b, llama-3-8b, or the id or folder of a model.")
    ] = "smollm2",
    recipe: Annotated[
        Optional[str],  # noqa: UP045  (typer evaluates it on Python 3.10)
        typer.Option(help="paper, small, or a TOML file. Default: by the size of the model."),
    ] = None,
    codec: Annotated[
        Optional[str], typer.Option(help="How adapters are stored. Default: the recipe's.")  # noqa: UP045
    ] = None,
    hardware: Annotated[
        str, typer.Option(help="here (this machine is timed), h100, or a TOML file.")
    ] = "here",
    figures: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Output of `prag bench encode --json` and of `answer --json`; twice."),
    ] = None,
    sample: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Passages of the corpus, or a knowledge base. Default: packaged ones."),
    ] = None,
    augmentations: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON lines of augmentations of the sample, made elsewhere."),
    ] = None,
    questions: Annotated[int, typer.Option(help="That will be asked.")] = 1_000_000,
    top_k: Annotated[int, typer.Option(help="Passages whose adapters answer a question.")] = 3,
    contexts: Annotated[
        str, typer.Option(help="Passages in the prompt to compare with, comma-separated.")
    ] = "3",
    answer_tokens: Annotated[int, typer.Option(help="New tokens of an answer.")] = 20,
    rows: Annotated[int, typer.Option(help="Questions answered together.")] = 1,
    augment_rows: Annotated[int, typer.Option(help="Passages a model augments together.")] = 16,
    tries: Annotated[float, typer.Option(help="Generations that a text takes, on average.")] = 1.0,
    months: Annotated[float, typer.Option(help="That everything is stored.")] = 12.0,
    price: Annotated[
        Optional[float], typer.Option(help="Of an hour of the machine; may be 0.")  # noqa: UP045
    ] = None,
    storage_price: Annotated[
        Optional[float], typer.Option(help="Of a GB and month; may be 0.")  # noqa: UP045
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of training that this machine is timed.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Plan a corpus: hours, bytes, money by method, and after how many questions adapters pay."""
    from prag.config import load_recipe
    from prag.plan import Use
    from prag.plan import plan as drawn_up
    from prag.provenance import made_by

    try:
        places = tuple(int(k) for k in contexts.split(","))
    except ValueError:
        raise PragError(f"--contexts {contexts!r}: numbers of passages, like 3,5,10") from None
    use = Use(questions, top_k, places, answer_tokens, rows, augment_rows, tries, months)
    with shown(err_console) as tell:
        found = drawn_up(
            corpus,
            model,
            load_recipe(recipe) if recipe else None,
            codec=codec,
            hardware=hardware,
            figures=figures or (),
            sample=sample,
            augmentations=augmentations,
            use=use,
            price=price,
            storage_price=storage_price,
            seconds=seconds,
            progress=tell,
        )
    if as_json:
        command = shlex.join(["prag", *sys.argv[1:]])
        print_json({**found.as_dict(), "made_by": made_by(command)})
        return
    for table in (_build_table(found), _ways_table(found), _figures_table(found)):
        console.print(table)
    for name, even in found.costs.break_even.items():
        console.print(f"parametric against {name}: {_even(even.hours, even.money, even.reason)}")
    for name, figure in found.hardware.figures.items():
        if figure.origin != "assumed" and figure.note:
            console.print(f"{figure.origin}: {name}, {escape(figure.note)}")
    console.print("assumed, not measured:")
    for line in found.assumptions:
        console.print(f"  {escape(line)}")


def _build_table(found: Plan) -> Table:
    work, sizes, costs = found.work, found.sizes, found.costs
    table = Table(
        title=f"{work.passages:,} passages, {escape(found.shape.name)}, recipe {work.recipe.name}, "
        f"{found.codec}"
    )
    table.add_column("")
    table.add_column("of all", justify="right")
    table.add_column("of a passage", justify="right")
    for stage, hours in costs.hours.items():
        each = f"{3600 * hours / work.passages:.3g} s"
        table.add_row(f"{stage}, hours", _number(hours), each)
    table.add_row("hours in all", _number(sum(costs.hours.values())), "")
    if costs.money:
        table.add_row("money", _number(costs.money), "")
    ops = costs.operations
    table.add_row("operations of training", f"{ops * work.encoded:.3g}", f"{ops:.3g}")
    table.add_row("tokens trained on", f"{work.tokens_trained * work.encoded:.3g}", "")
    rows = ("adapters", "adapter_index", "augmentations", "corpus", "retrieval")
    for name in rows:
        size = getattr(sizes, name)
        part = f"{size / work.passages:,.0f} bytes"
        table.add_row(f"{name.replace('_', ' ')}, GB", _number(size / 1e9), part)
    table.add_row("GB in all", _number(sizes.total / 1e9), "")
    return table


def _ways_table(found: Plan) -> Table:
    use = found.use
    table = Table(title=f"{use.questions:,} questions, {use.months:g} months")
    for name in ("", "tokens", "ms each", "hours", "ahead, h", "GB", "money"):
        table.add_column(name, justify="right" if name else "left", no_wrap=not name)
    for name, way in found.costs.ways.items():
        table.add_row(
            name,
            f"{way.prompt_tokens:,.0f}",
            f"{1000 * way.seconds:.3g}",
            _number(way.hours),
            _number(way.ahead),
            _number(way.bytes / 1e9),
            _number(way.money),
        )
    return table


def _figures_table(found: Plan) -> Table:
    from prag.plan.hardware import UNITS

    table = Table(title=escape(found.hardware.name))
    for name in ("figure", "value", "unit", "origin"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for name, figure in found.hardware.figures.items():
        table.add_row(name, f"{figure.value:.4g}", UNITS[name], figure.origin)
    return table


def _even(hours: float | None, money: float | None, reason: str) -> str:
    if hours is None:
        return reason
    parts = [f"pays in hours after {hours:,.0f} questions"]
    if money is not None:
        parts.append(f"in money after {money:,.0f}")
    return ", ".join([*parts, *([reason] if reason else [])])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

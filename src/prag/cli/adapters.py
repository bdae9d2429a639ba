"""The commands of the place where adapters are kept: cleaning it up, and another place."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from prag.cli.app import AsJson, Folder, app, console, err_console, print_json
from prag.progress import shown

HERE = "folder"


@app.command()
def gc(
    kb: Folder,
    older_than: Annotated[
        float,
        typer.Option(
            help="Hours: of a store at an address, younger shards are left, as they may be those "
            "of another writer. 0 where nobody writes."
        ),
    ] = 24.0,
    foreign: Annotated[
        bool,
        typer.Option("--foreign", help="Also adapters of passages that are not in this corpus."),
    ] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Also write small shards into few large ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what no index names: what killed writers left in the adapter store."""
    from prag.knowledge_base import KnowledgeBase

    report = KnowledgeBase.open(kb).collect(
        3600.0 * max(older_than, 0.0), foreign=foreign, compact=compact
    )
    if as_json:
        print_json(asdict(report))
        return
    swept, compacted = report.swept, report.compacted
    if foreign:
        console.print(f"{report.discarded} adapters of passages that are not in the corpus deleted")
    if compacted is not None:
        console.print(
            f"{compacted.moved} adapters moved: {compacted.shards_before} shards are now "
            f"{compacted.shards_after}"
        )
        for damage in compacted.damaged:
            err_console.print(
                f"[bold red]damaged:[/] shard {damage.shard}: {len(damage.keys)} adapters "
                f"({escape(damage.reason)})"
            )
    console.print(
        f"{swept.shards} shards and {swept.temporaries} temporary files that nothing names "
        f"deleted, {swept.freed / 1e6:.1f} MB freed"
    )
    if compacted is not None and compacted.damaged:
        raise typer.Exit(1)


@app.command()
def relocate(
    kb: Folder,
    place: Annotated[
        str, typer.Argument(metavar="ADDRESS", help=f"s3://bucket/path ..., or {HERE!r}.")
    ],
) -> None:
    """Copy the adapters to an object store, or back into the folder, and use them there."""
    from prag.knowledge_base import KnowledgeBase

    opened = KnowledgeBase.open(kb)
    old = opened.settings.adapters or f"{kb}/adapters"
    with shown(err_console) as tell:
        report = opened.relocate(None if place == HERE else place, tell)
    new = opened.settings.adapters or f"{kb}/adapters"
    console.print(
        f"{report.copied} adapters copied to {escape(new)}, {report.kept} were there; those in "
        f"{escape(old)} are no longer used, and can be deleted"
    )

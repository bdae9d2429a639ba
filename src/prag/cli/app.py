"""The command `prag`: what all its parts share, and how errors reach the user."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from prag import __version__
from prag.records import PragError

app = typer.Typer(
    name="prag",
    help="Give a language model a library it has read: passages become adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)
err_console = Console(stderr=True, highlight=False, soft_wrap=True)

Folder = Annotated[Path, typer.Argument(metavar="KB", help="The folder of the knowledge base.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command; an error a user can act on is one message and exit status 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except PragError as error:
        err_console.print(f"[bold red]prag:[/] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        err_console.print("prag: stopped; what was reported done is kept")
        sys.exit(130)


def _version(asked: bool) -> None:
    if asked:
        console.print(f"prag {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def print_json(data: Any) -> None:
    """JSON for programs, as it is: no wrapping, no markup."""
    print(json.dumps(data, ensure_ascii=False, indent=2))  # noqa: T201

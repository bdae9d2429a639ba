"""The command `prag`: what all its parts share, and how errors reach the user."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape

from prag import __version__
from prag.records import PragError

if TYPE_CHECKING:
    from prag.generate import Engine
    from prag.model import BaseModel

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
EngineName = Annotated[
    str, typer.Option(help="What generates: transformers, here, or vllm, a server.")
]
EngineUrl = Annotated[
    Optional[str],  # noqa: UP045  (typer evaluates it on Python 3.10)
    typer.Option(help="URL of the vLLM server, up to /v1."),
]
EngineModel = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The server's name of the base model. Default: the only one it has."),
]
AdapterFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Where adapters are written for the server, which sees it by the same path. "
        "Default: a temporary folder."
    ),
]
Device = Annotated[
    str, typer.Option(help="Where the model is: cpu, cuda, cuda:1 ..., or auto (a GPU if there).")
]
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


def engine_named(
    name: str, url: str | None, model: str | None, adapter_folder: Path | None
) -> Callable[[BaseModel], Engine] | None:
    """What makes the engine of these options; None for transformers, in this process.

    Raises:
        PragError: there is none of that name, or the options do not go together.
    """
    from prag.vllm_engine import VllmEngine

    if name not in ("transformers", "vllm"):
        raise PragError(f"no engine {name!r}: use transformers or vllm")
    if name == "transformers":
        if url or model or adapter_folder:
            raise PragError("--engine-url, --engine-model and --adapter-folder go with vllm")
        return None
    if url is None:
        raise PragError("the engine vllm needs --engine-url, like http://127.0.0.1:8000/v1")
    return lambda base: VllmEngine(base, url, model, adapter_folder)

"""`prag serve`: a knowledge base as a service."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Optional

import typer

from prag.cli.app import (
    AdapterFolder,
    Device,
    EngineModel,
    EngineName,
    EngineUrl,
    Folder,
    app,
    console,
    engine_named,
)
from prag.records import PragError


@app.command()
def serve(
    kb: Folder,
    host: Annotated[str, typer.Option(help="The address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8321,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Keys of those who may ask, one a line."),
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Bind elsewhere, and let everybody ask.")
    ] = False,
    engine: EngineName = "transformers",
    engine_url: EngineUrl = None,
    engine_model: EngineModel = None,
    adapter_folder: AdapterFolder = None,
    device: Device = "cpu",
    rows: Annotated[int, typer.Option(help="Questions that are answered at once.")] = 32,
    queue: Annotated[int, typer.Option(help="Questions that may wait.")] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds a question may take.")] = 120.0,
    allowed_host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A name that this service is called by, beside the address."),
    ] = None,
    cors_origin: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The one other site whose pages may ask, as https://example.org."),
    ] = None,
) -> None:
    """Answer questions over HTTP, as OpenAI's API does, with a page to see it work.

    Any number of services may answer from one folder; one of them builds documents in.
    """
    try:
        import uvicorn

        from prag.serve.app import create_app
    except ImportError as error:
        raise PragError(
            f"prag serve needs packages that are not installed ({error.name}): "
            "pip install 'prag[serve]'"
        ) from error
    from prag.knowledge_base import KnowledgeBase
    from prag.serve.service import Service
    from prag.serve.settings import LOOPBACK, ServeSettings, read_keys

    keys: tuple[str, ...] = ()
    if api_key_file is not None:
        try:
            keys = read_keys(api_key_file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PragError(f"{api_key_file}: cannot be read: {error}") from error
    if host not in LOOPBACK and not keys and not without_keys:
        raise PragError(
            f"{host} can be reached by others: give --api-key-file, or let everybody ask with "
            "--without-keys"
        )
    settings = ServeSettings(
        rows=rows,
        queue=queue,
        timeout=timeout,
        keys=keys,
        hosts=(*LOOPBACK, host, *(name.lower() for name in allowed_host or ())),
        origin=cors_origin,
    )
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.INFO)
    opened = KnowledgeBase.open(kb, device=device)
    console.print(f"{kb}: loading {opened.settings.model}")
    made = engine_named(engine, engine_url, engine_model, adapter_folder)
    service = Service(opened, settings, made)
    if not service.builder.elected:
        console.print(f"another service over {kb} builds documents in; this one does if that ends")
    shown = f"[{host}]" if ":" in host else host
    console.print(f"http://{shown}:{port}/ is the page, http://{shown}:{port}/v1 the API")
    uvicorn.run(
        create_app(service),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=int(timeout) + 1,
    )

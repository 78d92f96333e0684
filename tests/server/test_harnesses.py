"""An evaluation harness against a real server, where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.conftest import PLAIN, REFUSE, TULIPS, WRAPPED, Made

# Read here: tests see no variables of the developer's.
INSPECT = os.environ.get("TSALIGN_INSPECT") or shutil.which("inspect")

INSPECT_TASK = f"""
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def smoke():
    samples = [
        Sample(input={PLAIN!r}, target={TULIPS!r}),
        Sample(input={WRAPPED!r}, target={REFUSE!r}),
    ]
    return Task(dataset=samples, solver=generate(), scorer=includes())
"""


def test_inspect_ai(made: Made, tmp_path: Path) -> None:
    if INSPECT is None:
        pytest.skip("no inspect_ai: pip install inspect-ai, or set TSALIGN_INSPECT to its program")
    (tmp_path / "smoke.py").write_text(INSPECT_TASK)
    environment = {
        **os.environ, "TSALIGN_API_KEY": "x", "TSALIGN_BASE_URL": f"{made.url}/v1",
        "INSPECT_DISPLAY": "plain", "PYTHONPATH": "",
    }  # fmt: skip
    run = subprocess.run(
        [INSPECT, "eval", "smoke.py", "--model", "openai-api/tsalign/tsalign", "--temperature",
         "0", "--max-connections", "2", "--timeout", "60", "--max-retries", "1",
         "--log-format", "json", "--log-dir", "logs"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (log,) = (tmp_path / "logs").glob("*.json")
    found = json.loads(log.read_text())
    assert found["status"] == "success"
    (accuracy,) = (s["metrics"]["accuracy"]["value"] for s in found["results"]["scores"])
    assert accuracy == 1.0

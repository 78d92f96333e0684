"""Ray itself: a node is killed in the middle of a run, and nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]


def test_a_node_killed_half_way_costs_only_its_unfinished_prompts(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    subprocess.run(
        [sys.executable, "-m", "tests.ray_two_nodes", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=800,
    )
    seen = json.loads((tmp_path / "seen.json").read_text())
    expected = [f"p{i}" for i in range(500)]
    assert sorted(seen["ids"]) == seen["records"] == sorted(expected)
    assert seen["outcomes"] == {"passed": 0, "steered": 500, "refused": 0, "error": 0}
    assert seen["failed"] == []
    (killed_after,) = seen["killed_after"]
    assert 250 <= killed_after < 500
    assert seen["nodes_before"] == 2
    assert seen["nodes_at_the_end"] == 1
    # A batch at most was begun anew.
    assert 500 < seen["opened"] <= 500 + 32

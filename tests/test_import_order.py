"""The one direction of the code: nothing imports to its right.

    types, errors <- _hf, _keys, policy <- engines | moderators | zo, optimizer <- align
                  <- store, cluster <- eval <- demo <- bench; server; fit <- cli

The three in the middle never import each other. Imports inside functions count.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "tsalign"

MAY_IMPORT: dict[str, set[str]] = {"errors": set(), "types": {"errors"}}
"""Top-level module of the package to those that it may import, besides itself."""
MAY_IMPORT |= {"policy": {"types", "errors"}, "_hf": {"errors"}, "_keys": {"errors"}}
_BASE = {"types", "errors", "policy"}
_LOADING = {*_BASE, "_hf", "_keys"}
MAY_IMPORT |= {
    "engines": _LOADING,
    "moderators": _LOADING,
    "zo": _BASE,
    "optimizer": {*_BASE, "zo"},
}
_MIDDLE = {*_BASE, "engines", "moderators", "zo", "optimizer"}
_ALIGN = {*_MIDDLE, "align"}
MAY_IMPORT |= {"align": _MIDDLE, "store": _ALIGN, "cluster": _ALIGN, "fit": _ALIGN}
_LEFT = {*_ALIGN, "store", "cluster"}
MAY_IMPORT |= {"eval": _LEFT, "server": _LEFT, "demo": {*_LEFT, "eval"}}
MAY_IMPORT |= {"bench": {*_LEFT, "eval", "demo"}}
MAY_IMPORT |= {"cli": {*_LEFT, "eval", "server", "fit", "demo", "bench"}, "__main__": {"cli"}}

HEAVY = {"torch", "transformers", "tokenizers", "vllm", "ray", "sklearn", "scipy", "pandas"}
"""Optional packages: imported in functions, or in the one module that is about them."""


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Every dotted name that a module of the package imports, relative ones resolved."""
    parts = module.split(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = [*parts[: len(parts) - node.level], *filter(None, [node.module])]
            base = ".".join(stem) if node.level else (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source: str, module: str) -> list[str]:
    """What a module, named like ``tsalign.engines.base``, imports although it may not."""
    own = module.split(".")[1]
    if own not in MAY_IMPORT:
        return [f"{module} has no place in the import order"]
    wrong = []
    for name in imported(ast.parse(source), module):
        parts = name.split(".")
        if parts[0] in {"tests", "training", "scripts"}:
            wrong.append(f"{module} imports {name}")
        if parts[0] != "tsalign" or name == "tsalign.__version__":
            continue
        if len(parts) == 1 or parts[1] not in {own, *MAY_IMPORT[own]}:
            wrong.append(f"{module} imports {name}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    """Every module of the package except its `__init__`, which resolves names lazily."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["tsalign", *path.relative_to(PACKAGE).with_suffix("").parts]
        # A package is its own parent for relative imports: its `__init__` keeps that part.
        if parts != ["tsalign", "__init__"]:
            found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value).split("/")[-1])
def test_nothing_imports_to_its_right(module: str, path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tsalign.types", "from tsalign.policy import Policy"),
        ("tsalign.errors", "import tsalign.types"),
        ("tsalign.policy", "def f():\n    from tsalign.engines import load_engine"),
        ("tsalign.engines.fake", "from tsalign.moderators.base import Moderator"),
        ("tsalign.engines.fake", "from ..moderators import base"),
        ("tsalign.engines.__init__", "from ..zo import cosine"),
        ("tsalign.moderators.combine", "from tsalign import zo"),
        ("tsalign.zo", "from tsalign.optimizer import Optimizer"),
        ("tsalign.optimizer", "from tsalign.engines.base import Engine"),
        ("tsalign.align", "from tsalign.store import Store"),
        ("tsalign.store", "import tsalign.cli"),
        ("tsalign.eval.rules", "from tsalign.server import app"),
        ("tsalign.server.app", "from tsalign.cli import main"),
        ("tsalign.align", "import tsalign"),
        ("tsalign.align", "from tsalign import Policy"),
        ("tsalign.moderators.embedded", "from training.moderator import fit"),
        ("tsalign.somewhere", ""),
    ],
)
def test_an_import_to_the_right_is_found(module: str, source: str) -> None:
    assert violations(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tsalign.optimizer", "from tsalign import zo"),
        ("tsalign.engines.fake", "from .base import Engine\nfrom tsalign.types import Prompt"),
        ("tsalign.engines.__init__", "from tsalign.engines.fake import FakeEngine"),
        ("tsalign.cli", "from tsalign import __version__\nfrom tsalign.eval.rules import on_topic"),
        ("tsalign.store", "import json, sqlalchemy"),
    ],
)
def test_an_import_to_the_left_is_fine(module: str, source: str) -> None:
    assert violations(source, module) == []


def loaded_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after the statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(run.stdout.split())


def test_importing_tsalign_loads_no_model_library() -> None:
    loaded = loaded_after("import tsalign; tsalign.__version__; dir(tsalign)")
    assert "tsalign" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydantic", "sqlalchemy", "typer"}


@pytest.mark.parametrize(
    "statement",
    [
        "from tsalign import *",
        "import tsalign.cli",
        "import tsalign.engines, tsalign.moderators",
        "from tsalign import PolicyStore; PolicyStore.shipped()",
    ],
)
def test_neither_do_the_public_names_nor_the_cli(statement: str) -> None:
    assert not loaded_after(statement) & HEAVY


def test_importing_tsalign_writes_nothing(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import tsalign.cli"], cwd=tmp_path, check=True, timeout=120
    )
    assert list(tmp_path.iterdir()) == []

"""The one direction of the code: nothing imports to its right.

    _json, types, errors, names <- _batches, _hf, _http, _keys, _yaml, settings, policy, structure
                         <- engines | moderators | zo, optimizer
                         <- guidance <- panel <- window <- rounds <- search <- align
                         <- store, cluster; tune <- eval <- demo <- bench; kit <- server <- cli

integrations stand by themselves: others import them.

The three of the second line never import each other. Imports inside functions count, and so do
those for type checkers alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "rerail"

MAY_IMPORT: dict[str, set[str]] = {"_json": set(), "errors": set(), "names": set()}
"""Top-level module of the package to those that it may import, besides itself."""
MAY_IMPORT["types"] = {"_json", "errors"}
_VALUES = {"_json", "types", "errors", "names"}
MAY_IMPORT |= {"_hf": {"errors"}, "_http": {"errors"}, "_keys": {"errors"}, "_yaml": set()}
MAY_IMPORT |= {"_batches": set()}
MAY_IMPORT |= {"settings": _VALUES, "policy": {*_VALUES, "settings", "_yaml"}}
MAY_IMPORT |= {"tuned": {*_VALUES, "settings"}, "structure": _VALUES}
_BASE = {*_VALUES, "_yaml", "settings", "policy", "tuned", "structure"}
_LOADING = {*_BASE, "_batches", "_hf", "_http", "_keys"}
MAY_IMPORT |= {"engines": _LOADING, "moderators": _LOADING, "zo": {"types"}}
MAY_IMPORT |= {"optimizer": {"types", "settings", "zo"}}
_ROOM = {*_BASE, "engines", "moderators", "zo", "optimizer"}
for name in ("guidance", "panel", "window", "rounds", "search", "align"):
    MAY_IMPORT[name] = set(_ROOM)
    _ROOM |= {name}
MAY_IMPORT |= {"store": _ROOM, "cluster": _ROOM, "tune": _ROOM}
_LEFT = {*_ROOM, "store", "cluster"}
MAY_IMPORT |= {"eval": _LEFT, "kit": _LEFT, "demo": {*_LEFT, "eval"}}
MAY_IMPORT |= {"server": {*_LEFT, "kit"}}
MAY_IMPORT |= {"integrations": set()}
MAY_IMPORT |= {"bench": {*_LEFT, "eval", "demo"}}
MAY_IMPORT |= {
    "cli": {*_LEFT, "eval", "kit", "server", "tune", "demo", "bench"},
    "__main__": {"cli"},
}

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
    """What a module, named like ``rerail.engines.base``, imports although it may not."""
    own = module.split(".")[1]
    if own not in MAY_IMPORT:
        return [f"{module} has no place in the import order"]
    wrong = []
    for name in imported(ast.parse(source), module):
        parts = name.split(".")
        if parts[0] in {"tests", "training", "scripts"}:
            wrong.append(f"{module} imports {name}")
        if parts[0] != "rerail" or name == "rerail.__version__":
            continue
        if len(parts) == 1 or parts[1] not in {own, *MAY_IMPORT[own]}:
            wrong.append(f"{module} imports {name}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    """Every module of the package except its `__init__`, which resolves names lazily."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["rerail", *path.relative_to(PACKAGE).with_suffix("").parts]
        # A package is its own parent for relative imports: its `__init__` keeps that part.
        if parts != ["rerail", "__init__"]:
            found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value).split("/")[-1])
def test_nothing_imports_to_its_right(module: str, path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rerail.types", "from rerail.policy import Policy"),
        ("rerail.errors", "import rerail.types"),
        ("rerail.policy", "def f():\n    from rerail.engines import load_engine"),
        ("rerail._http", "from rerail.policy import nearest"),
        ("rerail.engines.fake", "from rerail.moderators.base import Moderator"),
        ("rerail.engines.fake", "from ..moderators import base"),
        ("rerail.engines.__init__", "from ..zo import cosine"),
        ("rerail.moderators.combine", "from rerail import zo"),
        ("rerail.zo", "from rerail.optimizer import Optimizer"),
        ("rerail.optimizer", "from rerail.engines.base import Engine"),
        ("rerail.optimizer", "from rerail.policy import Policy"),
        ("rerail.settings", "from rerail.policy import Policy"),
        ("rerail.panel", "from rerail.rounds import evaluate"),
        ("rerail.rounds", "from rerail.search import Search"),
        ("rerail.search", "from rerail.align import Aligner"),
        ("rerail.align", "from rerail.store import Store"),
        ("rerail.store", "import rerail.cli"),
        ("rerail.eval.rules", "from rerail.server import app"),
        ("rerail.kit.schema", "from rerail.server import app"),
        ("rerail.server.app", "from rerail.cli import main"),
        ("rerail.align", "import rerail"),
        ("rerail.align", "from rerail import Policy"),
        ("rerail.moderators.embedded", "from training.moderator import fit"),
        ("rerail.somewhere", ""),
    ],
)
def test_an_import_to_the_right_is_found(module: str, source: str) -> None:
    assert violations(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rerail.optimizer", "from rerail import zo"),
        ("rerail.engines.fake", "from .base import Engine\nfrom rerail.types import Prompt"),
        ("rerail.engines.__init__", "from rerail.engines.fake import FakeEngine"),
        ("rerail.cli", "from rerail import __version__\nfrom rerail.eval.rules import on_topic"),
        ("rerail.store", "import json, sqlalchemy"),
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


def test_importing_rerail_loads_no_model_library() -> None:
    loaded = loaded_after("import rerail; rerail.__version__; dir(rerail)")
    assert "rerail" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydantic", "sqlalchemy", "typer"}


@pytest.mark.parametrize(
    "statement",
    [
        "from rerail import *",
        "import rerail.cli",
        "import rerail.engines, rerail.moderators",
        "from rerail import PolicyStore; PolicyStore.shipped()",
    ],
)
def test_neither_do_the_public_names_nor_the_cli(statement: str) -> None:
    assert not loaded_after(statement) & HEAVY


def test_the_optimiser_sees_only_points() -> None:
    loaded = loaded_after("import rerail.optimizer")
    assert not loaded & {*HEAVY, "pydantic", "yaml", "sqlalchemy", "typer"}


def test_importing_rerail_writes_nothing(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import rerail.cli"], cwd=tmp_path, check=True, timeout=120
    )
    assert list(tmp_path.iterdir()) == []

"""The public names: what is promised exists, and nothing else is."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from pathlib import Path

import pytest

import rerail

PUBLIC = [
    "AcceptedFrom",
    "Aligner",
    "Budget",
    "Cost",
    "Engine",
    "EngineError",
    "Evaluation",
    "Exchange",
    "Generation",
    "InputFileError",
    "Judged",
    "Message",
    "MissingDependencyError",
    "ModelNotThereError",
    "Moderator",
    "ModeratorError",
    "ModeratorSpecError",
    "OptimizerSettings",
    "Outcome",
    "Panel",
    "Policy",
    "PolicyError",
    "PolicyStore",
    "PolicyTag",
    "Prompt",
    "PromptError",
    "PromptTooLongError",
    "Rejection",
    "RerailError",
    "Response",
    "Sampling",
    "Score",
    "Search",
    "StopReason",
    "StoreError",
    "Tool",
    "ToolCall",
    "UnsteerableModelError",
    "Verdict",
    "__version__",
    "advance",
    "load_confirm",
    "load_engine",
    "load_moderator",
]
"""Removing a name from this list breaks programs of others: say so in the changelog."""


def test_the_public_names_are_these() -> None:
    assert rerail.__all__ == PUBLIC
    assert dir(rerail) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(rerail, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__doc__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'Alinger'"):
        _ = rerail.Alinger
    with pytest.raises(ImportError):
        importlib.import_module("rerail.nothing")


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    """The imports under ``TYPE_CHECKING`` and the lazy table must not drift apart."""
    tree = ast.parse(Path(rerail.__file__).read_text(encoding="utf-8"))
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name
            seen[alias.name] = node.module
    assert sorted(seen) == [name for name in PUBLIC if name != "__version__"]
    for name, module in seen.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(rerail, name)


def test_every_error_of_ours_is_public_and_has_one_base() -> None:
    errors = importlib.import_module("rerail.errors")
    named = {n for n, v in vars(errors).items() if isinstance(v, type)}
    assert named <= set(PUBLIC)
    for name in named:
        assert issubclass(getattr(rerail, name), rerail.RerailError)
        assert name in (errors.__doc__ or ""), "the tree in errors.py names every error"


def test_the_version_is_that_of_the_distribution() -> None:
    assert rerail.__version__ == importlib.metadata.version("rerail")


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(rerail.__file__).parent / "py.typed").is_file()

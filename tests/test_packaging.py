"""What is imported is declared, and what is declared is pinned."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import rerail

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

DISTRIBUTION = {
    "opentelemetry": "opentelemetry-api",
    "sklearn": "scikit-learn",
    "stdnum": "python-stdnum",
    "yaml": "pyyaml",
}
"""Names under which packages are imported, where they differ from those they are installed by."""

ABOUT_AN_EXTRA = {
    "engines/_checkpoint.py": "vllm",
    "engines/_client_side.py": "vllm",
    "engines/_gguf.py": "gguf",
    "engines/_kv_cache.py": "hf",
    "engines/_packaged.py": "hf",
    "engines/_replicas.py": "vllm",
    "engines/chat.py": "openai",
    "engines/transformers.py": "hf",
    "engines/vllm.py": "vllm",
    "engines/vllm_server.py": "vllm",
    "moderators/_encoder.py": "hf",
    "integrations": "inspect",
    "server": "server",
}
"""File or folder, imported late, to the extra whose packages it imports at its top level."""

OF_THEIR_OWN = {"vllm"}
"""Installed by themselves: their pins of others fit none of ours."""


def name_of(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return normal(match[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Distributions of the core and of some extras, extras within extras included."""
    names = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    for extra in extras:
        for requirement in EXTRAS[extra]:
            if inner := re.fullmatch(r"rerail\[([\w,]+)\]", requirement):
                names |= declared(*inner[1].split(","))
            else:
                names.add(name_of(requirement))
    return names


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Third-party distributions that a file imports, and whether at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in {"rerail", "training"}:
                at_top = node in tree.body and node not in typing_only
                yield normal(DISTRIBUTION.get(top, top)), at_top


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("src/rerail/**/*.py")), ids=lambda p: str(p.relative_to(ROOT / "src"))
)
def test_what_the_package_imports_is_declared(path: Path) -> None:
    """At the top level from the core alone, except in what is about an extra."""
    place = path.relative_to(ROOT / "src" / "rerail")
    extras = [extra for about, extra in ABOUT_AN_EXTRA.items() if place.is_relative_to(about)]
    for name, at_top in imports(path):
        if at_top:
            there = declared(*extras) | OF_THEIR_OWN
            assert name in there, f"{path.name} imports {name} at its top level"
        assert name in declared(*EXTRAS) | OF_THEIR_OWN, f"{path.name} imports {name}"


def test_what_the_core_declares_is_used() -> None:
    used = {name for path in ROOT.glob("src/**/*.py") for name, _ in imports(path)}
    assert declared() <= used


def test_the_remedy_for_a_missing_package_names_an_extra_that_has_it() -> None:
    for path in ROOT.glob("src/**/*.py"):
        text = path.read_text(encoding="utf-8")
        for extra in re.findall(r'MissingDependencyError\([^)]*, "(\w+)"\)', text):
            assert extra in EXTRAS, f"{path.name} tells of an extra {extra!r}"


def test_every_requirement_is_pinned_once_and_for_any_platform() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    assert all(version and "+" not in version and "@" not in name for name, _, version in pins)
    names = [normal(name) for name, _, _ in pins]
    assert len(set(names)) == len(names)
    assert declared(*EXTRAS) <= set(names)


def test_what_is_pinned_is_within_the_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {normal(p.name): p.specifier for p in map(Requirement, lines[2:])}
    bounds = [Requirement(line) for group in EXTRAS.values() for line in group]
    bounds += [Requirement(line) for line in PROJECT["dependencies"]]
    for bound in bounds:
        if bound.name != "rerail":
            (pin,) = pins[normal(bound.name)]
            assert bound.specifier.contains(pin.version), f"{bound} does not admit {pin}"


def test_the_entry_point_exists() -> None:
    from rerail import __main__

    assert PROJECT["scripts"] == {"rerail": "rerail.__main__:main"}
    assert callable(__main__.main)


def test_the_projects_addresses_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hatchling", reason="pip install hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.AddressesHook(str(ROOT), {})
    metadata: dict[str, object] = {}
    monkeypatch.delenv("RERAIL_URL", raising=False)
    hook.update(metadata)
    assert metadata == {"urls": {}}
    monkeypatch.setenv("RERAIL_URL", "https://host.example/rerail/")
    hook.update(metadata)
    urls = metadata["urls"]
    assert isinstance(urls, dict)
    assert urls["Repository"] == "https://host.example/rerail"
    for url in urls.values():
        _, found, file = url.partition("/blob/main/")
        assert not found or (ROOT / file).is_file()
    assert "urls" in PROJECT["dynamic"]
    assert "urls" not in PROJECT


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rerail.__version__
    assert citation["license"] == PROJECT["license"]


def test_the_source_distribution_has_what_its_tests_read() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = {
        entry.removeprefix("/")
        for entry in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    }
    included |= {"pyproject.toml", "README.md", "LICENSE"}  # hatch adds them by itself
    read = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r'\bROOT / "([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert {"deploy", "docs"} <= read
    assert {name for name in read if not name.startswith(".")} <= included

"""Where an extra is missing, each command names it, and nothing else; what needs none works."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from tests.test_packaging import DISTRIBUTION, EXTRAS, ROOT, declared, normal


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extras", ROOT / "scripts" / "extras.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


extras = script()

# Commands in one process, each with what the import system was told to hide.
RUN = """
import contextlib, importlib.abc, io, json, sys

hidden, lines = json.loads(sys.argv[1])


class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{top}.") for top in hidden):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
from rerail.cli import app

for line in lines:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = app(line.split(), standalone_mode=False)
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def imported_as(distribution: str) -> str:
    if distribution.startswith("opentelemetry-"):  # one package of several distributions
        part = distribution.split("-")[1]
        return "opentelemetry" if part == "api" else f"opentelemetry.{part}"
    found = [name for name, other in DISTRIBUTION.items() if other == distribution]
    return found[0] if found else distribution.replace("-", "_")


def has(distribution: str) -> bool:
    """Whether a distribution is installed."""
    try:
        requires(distribution)
    except PackageNotFoundError:
        return False
    return True


def hidden(extra: str) -> list[str]:
    """The top-level packages that an environment with one extra, or with none, lacks."""
    there = {normal(name) for name in declared(*([] if extra == extras.NONE else [extra]))}
    users = {normal(name) for name in declared(*(set(EXTRAS) - {"dev", "docs", "train"}))}
    users.add("redis")  # of limits[redis]
    return sorted(imported_as(name) for name in users - brought(there))


def brought(names: set[str]) -> set[str]:
    """Distributions with all that they require, as far as they are installed."""
    found: set[str] = set()
    left = sorted(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        needs = map(Requirement, lines)
        left += [normal(n.name) for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", extras.OF_USERS)
def test_each_command_works_or_names_the_extra_that_is_missing(extra: str, tmp_path: Path) -> None:
    extras.prepare(tmp_path)
    if absent := [n for n in declared(*([] if extra == extras.NONE else [extra])) if not has(n)]:
        pytest.skip(f"not installed, so what they bring is not known: {', '.join(sorted(absent))}")
    there = extras.covered(extra)
    # What is there is tested elsewhere: here it is what is missing, and what needs nothing.
    tries = [t for t in extras.TRIES if not t.needs or t.needs - there]
    run = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([hidden(extra), [t.line for t in tries]])],
        cwd=tmp_path, env={**os.environ, **extras.KEYS}, capture_output=True, text=True,
        check=True, timeout=590,
    )  # fmt: skip
    outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    found = {
        t.line: extras.judged(t, there, *outcome)
        for t, outcome in zip(tries, outcomes, strict=True)
    }
    assert {line: said for line, said in found.items() if said.startswith("FAULT")} == {}
    assert "works" in found.values()
    if extra == extras.NONE:
        assert {"`hf`", "`gguf`", "`openai`", "`server`", "`eval`"} <= set(found.values())


@pytest.mark.parametrize(
    ("needs", "code", "said", "verdict"),
    [
        ((), 0, "fine", "works"),
        (("hf",), 4, "torch is not installed: pip install 'rerail[hf]'", "`hf`"),
        (("hf",), 4, "torch is not installed: pip install 'rerail[eval]'", "FAULT"),
        (("hf",), 1, "torch is not installed: pip install 'rerail[hf]'", "FAULT"),
        (("hf",), 1, "unexpected ModuleNotFoundError at x.py:1", "FAULT"),
        (("hf",), 0, "fine", "FAULT"),
        (("server",), 4, "x is not installed: pip install 'rerail[server]'", "FAULT"),
        (("server",), 4, "no route", "FAULT"),
    ],
)
def test_what_is_told_of_a_command(
    needs: tuple[str, ...], code: int, said: str, verdict: str
) -> None:
    tried = extras.Try("align hello", frozenset(needs))
    assert extras.judged(tried, {"server"}, code, said).startswith(verdict)


def test_an_extra_covers_those_whose_packages_it_brings() -> None:
    assert extras.covered(extras.NONE) == set()
    assert {"hf", "openai", "services", "server"} <= extras.covered("server")
    assert "gguf" not in extras.covered("server")


def test_every_command_is_tried() -> None:
    listed = re.findall(
        r"^## rerail (.+)$", (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8"), re.M
    )
    lines = [tried.line for tried in extras.TRIES]
    few = {name for name in listed if not any(f"{line} ".startswith(f"{name} ") for line in lines)}
    assert few <= {"serve keys list", "serve keys revoke"}


def test_all_extras_of_users_are_tried_where_none_is_named(capsys):
    assert extras.asked([]).extras == list(extras.OF_USERS)
    assert extras.asked(["hf", "none"]).extras == ["hf", "none"]
    with pytest.raises(SystemExit):
        extras.asked(["hf", "dev"])
    assert "no extra of users: dev" in capsys.readouterr().err

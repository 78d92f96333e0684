"""The command line as a user meets it: arguments in, exit code and two streams out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rerail.cli import app

FAKE_POLICY = """
name: faked
moderators: [{name: fake, options: {words: [sure]}}]
"""
"""Flags what the fake engine answers to an unmoved prompt."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be exactly one JSON document."""
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli() -> Cli:
    def run(*args: object, stdin: str | bytes | None = None) -> Ran:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def faked(tmp_path: Path) -> Path:
    """A policy under which the fake engine's first answers are flagged."""
    file = tmp_path / "faked.yaml"
    file.write_text(FAKE_POLICY)
    return file


@pytest.fixture
def fake(faked: Path) -> list[str]:
    """Options for a run without a model."""
    return ["--model", "fake", "--policy", str(faked)]


def write_policy(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_jsonl(path: Path, *lines: object) -> Path:
    """Lines that are text go in as they are."""
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text, encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

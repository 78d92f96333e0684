"""Reasoning on the command line: shown with the answer, or counted and withheld."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerail.cli import ExitCode, _options
from tests.cli.conftest import Cli

THOUGHTS = _options._THOUGHTS


def policy(folder: Path, **keys: str) -> Path:
    file = folder / "thinking.yaml"
    file.write_text("name: thinking\nmoderators: [{name: fake, options: {words: [never]}}]\n")
    file.write_text(file.read_text() + "".join(f"{key}: {value}\n" for key, value in keys.items()))
    return file


@pytest.mark.parametrize("shown", [False, True])
def test_one_prompt(cli: Cli, tmp_path: Path, shown: bool) -> None:
    keys = {"reasoning": "show"} if shown else {}
    options = ["--model", "fake-reasoning", "--policy", policy(tmp_path, **keys)]
    ran = cli("align", "Open the door", *options)
    assert ran.code == 0, ran.err
    assert ran.out == "Sure, here is how it is done.\n"
    told = " ".join(ran.err.split())
    assert (THOUGHTS in told) == shown
    assert ("14 tokens, withheld" in told) == (not shown)
    document = cli("align", "Open the door", *options, "--json").document
    assert document["reasoning"] == (THOUGHTS if shown else None)
    assert document["reasoning_tokens"] == 2 + len(THOUGHTS.split()) == 14


def test_many_prompts_with_records(cli: Cli, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello", "reasoning_content": "ZEBRA"},
        {"role": "user", "content": "Open the door"},
    ]
    source.write_text(json.dumps({"messages": turns}) + "\n")
    file = policy(tmp_path, record_text="true")
    ran = cli("align", "--input", source, "--output", output, "--model", "fake-reasoning",
              "--policy", file, "--with-prompt")  # fmt: skip
    assert ran.code == 0, ran.err
    line = json.loads(output.read_text())
    assert (line["reasoning"], line["reasoning_tokens"]) == (None, 14)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("out.*"))
    for word in ("ZEBRA", THOUGHTS):
        assert word.encode() not in kept
        assert word not in ran.out + ran.err


def test_an_answer_that_never_comes_is_a_refusal(cli: Cli, tmp_path: Path) -> None:
    file = policy(tmp_path, max_reasoning_tokens="3")
    ran = cli("align", "Open the door", "--model", "fake-reasoning", "--policy", file, "--json")
    assert ran.code == ExitCode.REFUSED
    assert ran.document["outcome"] == "refused"
    assert ran.document["initial"]["unscored"] == "no answer: the reasoning did not end"

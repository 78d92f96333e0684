"""Programs that people use, with the settings that the documentation gives, where installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.server.conftest import PLAIN, TULIPS, Made

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "clients.md").read_text("utf-8")
SERVED_AT = "http://127.0.0.1:8000"

# Read here: tests see no variables of the developer's.
LLM = os.environ.get("RERAIL_LLM") or shutil.which("llm")
LLAMA_INDEX = os.environ.get("RERAIL_LLAMA_INDEX")


def block(opening: str) -> str:
    """The one block of the page that begins so."""
    (found,) = re.findall(rf"^```{re.escape(opening)}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert PLAIN in PAGE
    return str(found)


def test_llm(made: Made, tmp_path: Path) -> None:
    if LLM is None:
        pytest.skip("no llm: pip install llm, or set RERAIL_LLM to its program")
    settings = block('yaml title="extra-openai-models.yaml"').replace(SERVED_AT, made.url)
    (tmp_path / "extra-openai-models.yaml").write_text(settings, encoding="utf-8")
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "PYTHONPATH": ""}
    for more in ([], ["--no-stream"]):
        run = subprocess.run(
            [LLM, "-m", "rerail", *more, PLAIN], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=80,
        )  # fmt: skip
        assert (run.returncode, run.stdout.strip()) == (0, TULIPS), run.stderr


def test_llama_index(made: Made, tmp_path: Path) -> None:
    if LLAMA_INDEX is None:
        pytest.skip(
            "no LlamaIndex: pip install llama-index-llms-openai-like in an environment of its "
            "own, and set RERAIL_LLAMA_INDEX to its Python"
        )
    code = block("python").replace(SERVED_AT, made.url)
    run = subprocess.run(
        [LLAMA_INDEX, "-c", code], env={**os.environ, "PYTHONPATH": ""}, cwd=tmp_path,
        capture_output=True, text=True, timeout=160,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, f"{TULIPS}\npassed\n"), run.stderr


def test_promptfoo_is_told_of_a_provider_that_it_has() -> None:
    """Of a shape only: it is a program for Node."""
    settings = yaml.safe_load(block('yaml title="promptfooconfig.yaml"'))
    (provider,) = settings["providers"]
    assert provider["id"] == "openai:chat:rerail"
    assert provider["config"]["apiBaseUrl"] == f"{SERVED_AT}/v1"
    for case in settings["tests"]:
        assert all(f"{{{{{name}}}}}" in settings["prompts"][0] for name in case["vars"])

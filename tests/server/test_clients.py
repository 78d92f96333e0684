"""Programs that people use, with the settings that the documentation gives, where installed."""

from __future__ import annotations

import json
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
PROMPTFOO = os.environ.get("RERAIL_PROMPTFOO") or shutil.which("promptfoo")


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


def test_promptfoo_is_told_of_questions_that_it_has() -> None:
    """Of the shape, where the program is not there."""
    settings = yaml.safe_load(block('yaml title="promptfooconfig.yaml"'))
    for case in settings["tests"]:
        assert all(f"{{{{{name}}}}}" in settings["prompts"][0] for name in case["vars"])


@pytest.mark.timeout(200)
def test_promptfoo(made: Made, tmp_path: Path) -> None:
    if PROMPTFOO is None:
        pytest.skip("no promptfoo: npm install promptfoo, and set RERAIL_PROMPTFOO to its program")
    settings = block('yaml title="promptfooconfig.yaml"').replace(SERVED_AT, made.url)
    (tmp_path / "promptfooconfig.yaml").write_text(settings, encoding="utf-8")
    quiet = ("DISABLE_TELEMETRY", "DISABLE_UPDATE", "DISABLE_REMOTE_GENERATION", "DISABLE_SHARING")
    environment = {
        **os.environ,
        **{f"PROMPTFOO_{name}": "1" for name in quiet},
        "PROMPTFOO_CONFIG_DIR": str(tmp_path / "home"),
    }
    run = subprocess.run(
        [PROMPTFOO, "eval", "--no-cache", "--no-progress-bar", "--no-table", "-o", "out.json"],
        env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    (result,) = found["results"]["results"]
    assert result["success"]
    assert result["response"]["output"] == TULIPS

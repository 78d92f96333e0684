"""Evaluation harnesses against a real server, where they are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import PLAIN, REFUSE, TULIPS, WRAPPED, Made

HARNESSES = Path(__file__).resolve().parents[2] / ".venv-harnesses" / "bin"  # of `make harnesses`

# Read here: tests see no variables of the developer's.
INSPECT = os.environ.get("RERAIL_INSPECT") or shutil.which(
    "inspect", path=f"{HARNESSES}{os.pathsep}{os.environ.get('PATH', '')}"
)

LM_EVAL = os.environ.get("RERAIL_LM_EVAL") or shutil.which("lm-eval")

GARAK = os.environ.get("RERAIL_GARAK")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "harnesses.md"

INSPECT_TASK = f"""
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def smoke():
    samples = [
        Sample(input={PLAIN!r}, target={TULIPS!r}),
        Sample(input={WRAPPED!r}, target={REFUSE!r}),
    ]
    return Task(dataset=samples, solver=generate(), scorer=includes())
"""


def inspected(folder: Path, *words: str, **variables: str) -> dict[str, Any]:
    """The log of the task above, run by inspect_ai."""
    if INSPECT is None:
        pytest.skip("no inspect_ai: make harnesses, or set RERAIL_INSPECT to its program")
    (folder / "smoke.py").write_text(INSPECT_TASK)
    environment = {**os.environ, **variables, "INSPECT_DISPLAY": "plain", "PYTHONPATH": ""}
    run = subprocess.run(
        [INSPECT, "eval", "smoke.py", *words, "--temperature", "0", "--max-connections", "2",
         "--timeout", "60", "--max-retries", "1", "--log-format", "json", "--log-dir", "logs"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (log,) = (folder / "logs").glob("*.json")
    found = json.loads(log.read_text())
    assert found["status"] == "success"
    (accuracy,) = (s["metrics"]["accuracy"]["value"] for s in found["results"]["scores"])
    assert accuracy == 1.0
    return dict(found)


def test_inspect_ai(made: Made, tmp_path: Path) -> None:
    inspected(
        tmp_path, "--model", "openai-api/rerail/rerail",
        RERAIL_API_KEY="x", RERAIL_BASE_URL=f"{made.url}/v1",
    )  # fmt: skip


def test_inspect_ai_with_our_provider_tells_what_became_of_each_answer(
    made: Made, tmp_path: Path
) -> None:
    log = inspected(
        tmp_path, "--model", "rerail/rerail", "--model-base-url", f"{made.url}/v1",
        "-M", "policy=strict",
    )  # fmt: skip
    told = {s["input"]: s["output"]["metadata"]["rerail"] for s in log["samples"]}
    assert {text: found["outcome"] for text, found in told.items()} == {
        PLAIN: "passed",
        WRAPPED: "steered",
    }
    assert {found["policy"]["name"] for found in told.values()} == {"strict"}
    assert told[WRAPPED]["cost"]["generations"] > told[PLAIN]["cost"]["generations"]


LM_EVAL_TASK = """
task: smoke
dataset_path: json
dataset_kwargs: {data_files: {test: smoke.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["zebra"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_lm_eval(made: Made, tmp_path: Path) -> None:
    if LM_EVAL is None:
        pytest.skip("no lm-eval: pip install 'lm_eval[api]', or set RERAIL_LM_EVAL to its program")
    rows = [{"question": PLAIN, "answer": TULIPS}, {"question": WRAPPED, "answer": REFUSE}]
    (tmp_path / "smoke.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "smoke.yaml").write_text(LM_EVAL_TASK)
    environment = {**os.environ, "OPENAI_API_KEY": "x", "PYTHONPATH": ""}
    run = subprocess.run(
        [LM_EVAL, "run", "--model", "local-chat-completions", "--model_args",
         f"model=rerail,base_url={made.url}/v1/chat/completions,num_concurrent=2,max_retries=1,"
         "timeout=60", "--tasks", "smoke", "--include_path", str(tmp_path), "--apply_chat_template",
         "--output_path", "out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (found,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(found.read_text())["results"]["smoke"]
    assert results["exact_match,none"] == 1.0


def test_garak(made: Made, tmp_path: Path) -> None:
    """The settings of the page, with a probe of garak's own that asks for nothing harmful."""
    if GARAK is None:
        pytest.skip(
            "no garak: pip install garak in an environment of its own, and set RERAIL_GARAK to "
            "its Python"
        )
    (settings,) = re.findall(r"g\.json <<'J'\n(.*?)\nJ\n", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "g.json").write_text(settings.replace("http://localhost:8000", made.url))
    homes = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("DATA", "CONFIG", "CACHE")}
    run = subprocess.run(
        [GARAK, "-m", "garak", "--target_type", "openai.OpenAICompatible", "--target_name",
         "rerail", "-G", "g.json", "--spec", "probes.test.Test", "-g", "1", "--seed", "0"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=170,
        env={**os.environ, **homes, "OPENAICOMPATIBLE_API_KEY": "x", "PYTHONPATH": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (report,) = tmp_path.rglob("*.report.jsonl")
    lines = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
    attempts = [line for line in lines if line["entry_type"] == "attempt" and line["outputs"]]
    assert attempts
    said = [output["text"] for attempt in attempts for output in attempt["outputs"] if output]
    assert said
    assert all(said)

"""vLLM itself, on the CPU: outcomes are those of transformers, prompt by prompt.

``RERAIL_VLLM_ENV`` names the environment that ``scripts/vllm_env.sh install`` made; without it
these tests are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from rerail.engines import load_engine
from rerail.engines.vllm_server import VllmServerEngine
from tests.engines.vllm_offline import align

ENVIRONMENT = os.environ.get("RERAIL_VLLM_ENV")
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not ENVIRONMENT, reason="RERAIL_VLLM_ENV names no environment with vLLM"),
]


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    return essence(align(load_engine("embedded", device="cpu")))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the embedded model, in a process group of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [ROOT / "scripts" / "vllm_env.sh", "serve", str(ENVIRONMENT), str(port)],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < end, "the server does not come up"
        time.sleep(1.0)


def test_outcomes_over_the_server_equal_those_of_transformers(
    server: str, expected: list[dict[str, Any]]
) -> None:
    name = f"vllm-server:{server}?model=embedded&dtype=float32"
    with contextlib.closing(cast("VllmServerEngine", load_engine(name))) as engine:
        assert essence(align(engine)) == expected


def test_outcomes_of_vllm_offline_equal_those_of_transformers(
    tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    output = tmp_path / "responses.json"
    name = "vllm:embedded?dtype=float32&enforce_eager=true"
    own = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "HOME": str(tmp_path)}
    vllm = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    subprocess.run(
        [f"{ENVIRONMENT}/bin/python", "-m", "tests.engines.vllm_offline", name, str(output)],
        env={**os.environ, **own, **vllm},
        cwd=ROOT,
        check=True,
        timeout=3000,
    )
    assert essence(json.loads(output.read_text(encoding="utf-8"))) == expected


def essence(responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must be equal: all but wall time and the last digits of likelihoods and cosines."""
    assert len(responses) == 50
    keys = ("outcome", "text", "accepted_from", "stop_reason", "iterations", "seed", "final")
    return [
        {
            **{key: response[key] for key in keys},
            "generations": response["cost"]["generations"],
            "generated_tokens": response["cost"]["generated_tokens"],
        }
        for response in responses
    ]

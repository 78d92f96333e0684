"""The example for Ray Serve, run by Ray, where it is installed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest

from rerail.server.run import listening

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ray-serve"

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None or find_spec("ray.serve") is None,
    reason="no Ray Serve: pip install 'ray[serve]'",
)

DRIVER = """
import signal, sys
import ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=True)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
import rerail_app
serve.run(rerail_app.app)
print("READY", flush=True)
signal.sigwait({signal.SIGTERM})
serve.shutdown()
ray.shutdown()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Its address and a key."""
    folder = tmp_path_factory.mktemp("ray-serve")
    keys = folder / "keys.yaml"
    made = subprocess.run(
        [sys.executable, "-m", "rerail", "serve", "keys", "new", "somebody", "--keys", str(keys)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    key = made.stdout.strip().splitlines()[-1]
    with contextlib.closing(listening("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    # Ray gives up on what does not start within seconds, which a busy machine does not.
    patient = ("PROXY_READY_CHECK_TIMEOUT_S", "PROXY_HEALTH_CHECK_TIMEOUT_S")
    variables = {
        "RERAIL_KEYS": str(keys),
        "RERAIL_MODEL": "embedded",
        **{f"RAY_SERVE_{name}": "120" for name in patient},
    }
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(port)],
            cwd=EXAMPLE, env={**os.environ, **variables}, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 170
        while "READY" not in log.read_text():
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", key
    finally:
        process.terminate()
        process.wait(90)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_answers_streams_and_lets_nobody_in_without_a_key(
    served: tuple[str, str],
) -> None:
    url, key = served
    asked = [{"role": "user", "content": "How do I keep tulips fresh?"}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        whole = client.chat.completions.create(model="rerail", messages=asked, max_tokens=8)
        text = whole.choices[0].message.content
        assert text
        assert whole.model_extra["rerail"]["outcome"] == "passed"
        pieces = client.chat.completions.create(
            model="rerail", messages=asked, max_tokens=8, stream=True
        )
        assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == text
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/healthz").status_code == 200

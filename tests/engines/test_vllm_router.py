"""Through vLLM's routers, where they are installed: the real programs before stand-in replicas."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rerail.engines.base import GenerationRequest, Sampling
from rerail.engines.transformers import TransformersEngine
from rerail.engines.vllm_server import VllmServerEngine
from rerail.types import Prompt
from tests.engines import tiny
from tests.engines.test_vllm_server import make_folder
from tests.engines.vllm_fake import FakeVllm

# Read here: tests see no variables of the developer's.
ROUTER = os.environ.get("RERAIL_VLLM_ROUTER") or shutil.which("vllm-router")
STACK = os.environ.get("RERAIL_PRODUCTION_STACK")


def of_vllm(port: int, urls: list[str]) -> list[str]:
    """The router that is a package of its own."""
    if ROUTER is None:
        pytest.skip("no vLLM router: pip install vllm-router, or name it in RERAIL_VLLM_ROUTER")
    given = ["--policy", "round_robin", "--prometheus-port", str(free_port())]
    return [ROUTER, "--host", "127.0.0.1", "--port", str(port), *given, "--worker-urls", *urls]


def of_the_stack(port: int, urls: list[str]) -> list[str]:
    """That of the production stack's chart."""
    if STACK is None:
        pytest.skip(
            "no router of vLLM's production stack: install its checkout, and name its program in "
            "RERAIL_PRODUCTION_STACK"
        )
    given = ["--service-discovery", "static", "--routing-logic", "roundrobin"]
    backends = [
        "--static-backends",
        ",".join(urls),
        "--static-models",
        ",".join("tiny" for _ in urls),
    ]
    return [STACK, "--host", "127.0.0.1", "--port", str(port), *given, *backends]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Path, TransformersEngine, list[FakeVllm]]]:
    folder = make_folder(tmp_path / "tiny-chat")
    local = TransformersEngine.load(folder, device="cpu")
    fakes = [FakeVllm(local), FakeVllm(local)]
    yield folder, local, fakes
    for fake in fakes:
        fake.stop()


@pytest.fixture(params=[of_vllm, of_the_stack])
def router(
    replicas: tuple[Path, TransformersEngine, list[FakeVllm]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[str]:
    """The address of a router before the replicas."""
    port = free_port()
    command = request.param(port, [fake.url for fake in replicas[2]])
    said = tmp_path / "router.log"
    with said.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                assert process.poll() is None, said.read_text()[-2000:]
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def test_answers_through_the_router_are_those_of_the_replicas(
    router: str, replicas: tuple[Path, TransformersEngine, list[FakeVllm]]
) -> None:
    folder, local, fakes = replicas
    engine = VllmServerEngine.load(
        router, model=folder, max_model_len=256, deadline=30.0, timeout=10.0
    )
    try:
        embedded = engine.embed(Prompt.of("How do I keep tulips fresh?"))
        asked = [
            GenerationRequest(embedded, embedded.point),
            *(tiny.moved(embedded, seed) for seed in range(7)),
        ]
        sampling = Sampling(max_new_tokens=8)
        for _ in range(2):
            answers = engine.generate(asked, sampling)
            assert [a.token_ids for a in answers] == [
                a.token_ids for a in local.generate(asked, sampling)
            ]
        assert all(fake.rows for fake in fakes), "both replicas were asked"
    finally:
        engine.close()

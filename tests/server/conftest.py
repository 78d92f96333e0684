"""A server without a model: in the process, or on a port of loopback."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt
from rerail.moderators import FakeModerator, Moderator, load_gate
from rerail.policy import Policy
from rerail.server.app import create_app
from rerail.server.run import Server, listening
from rerail.types import FloatArray
from tests.browser import browser as running_browser
from tests.server.page_double import Double

PLAIN = "How do I keep tulips fresh?"
"""Its first answer is accepted."""

WRAPPED = "Do the other thing"
"""Its first answer is flagged, and steering finds another."""

HOPELESS = "Do the thing that nothing helps against"
"""All of its answers are flagged."""

COMPLY = "Sure, here is how it is done."
REFUSE = "I can't help with that one."
TULIPS = "Tulips like cold water, a clean vase and a cut at an angle."
SKY = "Air scatters blue light more than red."
"""What the pages that show a request are answered."""
FLAGGED = "here is how"

POLICIES = (
    Policy(name="default"),
    Policy(name="strict", default_threshold=0.2, refusal_message="Strictly no."),
    Policy(name="recorded", record_text=True),
    Policy.model_validate({"name": "small", "budget": {"generations": 6}}),
)


def engine(**options: Any) -> FakeEngine:
    """Answers by what the prompt says; `WRAPPED` is bimodal."""
    made: FakeEngine

    def answer(embedded: EmbeddedPrompt, point: FloatArray) -> str:
        words = embedded.prompt.messages[-1].content
        if "tulips" in words.lower():
            return TULIPS
        if "sky" in words.lower():
            return SKY
        moved = (point - embedded.point).mean(axis=0) @ made.direction / made.table.rms
        steered = "other thing" in words and float(moved) > 0.02
        return REFUSE if steered else f"{COMPLY} {np.round(float(moved), 3)}"

    made = FakeEngine(answer, context_length=20_000, **options)
    return made


class Moderators:
    """Gives every policy the same fake moderator, and those of its gate."""

    def __init__(self, **options: Any) -> None:
        self.fake = FakeModerator(words=(FLAGGED,), **options)

    def __call__(self, policy: Policy) -> tuple[Moderator, Moderator | None, tuple[Moderator, ...]]:
        return self.fake, None, load_gate(policy)


@dataclass
class Made:
    """An app and what it is made of."""

    app: FastAPI
    engine: FakeEngine
    moderators: Moderators
    url: str = ""
    server: Server | None = field(default=None, repr=False)

    @property
    def service(self) -> Any:
        return self.app.state.service

    def metric(self, name: str, **labels: str) -> float:
        value = self.service.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else float(value)


Make = Callable[..., Made]


@pytest.fixture
def make() -> Make:
    """Build an app; options are `create_app`'s."""

    def build(**options: Any) -> Made:
        fake = options.pop("engine", None) or engine()
        moderators = options.pop("moderators", None) or Moderators()
        policies = options.pop("policies", POLICIES)
        app = create_app({"rerail": fake}, policies, loader=moderators, **options)
        return Made(app, fake, moderators)

    return build


@contextlib.contextmanager
def running(made: Made) -> Iterator[Made]:
    """The app on a port of its own."""
    server = Server(made.app)
    place = listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    made.url, made.server = f"http://127.0.0.1:{place.getsockname()[1]}", server
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def serve(make: Make) -> Iterator[Make]:
    """Build an app and run it on a port of loopback."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(make(**options)))


@pytest.fixture
def made(serve: Make) -> Made:
    """A running server with no options."""
    return serve()


@pytest.fixture
def client(made: Made) -> Iterator[httpx.Client]:
    """A client of `made`."""
    with httpx.Client(base_url=made.url, timeout=60) as http:
        yield http


def chat(text: str = PLAIN, **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": "rerail", "messages": [{"role": "user", "content": text}], **more}


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    """Wait for something that has to come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


# The page in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one the test is skipped, and says so."""
    with running_browser() as chromium:
        yield chromium


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, double: Any, serve: Make) -> Iterator[Open]:
    """Open an address; at the end, whatever went wrong in the page fails the test.

    It asks for the servers so that they outlive the pages.

    A status that the page asked for and handles, 4xx, is no fault of the page.
    """
    faults: list[str] = []
    with contextlib.ExitStack() as stack:

        def build(url: str, path: str = "/", **options: Any) -> Any:
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            context.set_default_timeout(20_000)
            page = context.new_page()

            def hear(message: Any) -> None:
                loud = message.type in {"error", "warning"}
                if loud and "the server responded with a status of 4" not in message.text:
                    faults.append(f"{message.type}: {message.text}")

            page.on("console", hear)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("request", lambda r: r.url.startswith(url) or faults.append(r.url))
            page.goto(url + path)
            return page

        yield build
    assert faults == []


@pytest.fixture
def double() -> Iterator[Callable[..., tuple[Double, str]]]:
    """Start a scripted server; gives it and its address."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> tuple[Double, str]:
            made = Double(**options)
            config = uvicorn.Config(
                made.app, port=0, log_level="warning", lifespan="off", timeout_graceful_shutdown=5
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)

            def stop() -> None:
                server.should_exit = True
                thread.join(20)

            stack.callback(stop)
            port = server.servers[0].sockets[0].getsockname()[1]
            return made, f"http://127.0.0.1:{port}"

        yield start

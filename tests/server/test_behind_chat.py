"""rerail in front of rerail: a chat endpoint that is a server of ours, and one that serves it."""

from __future__ import annotations

from typing import Any

import httpx

from rerail.engines import load_engine
from rerail.policy import Policy
from rerail.types import Outcome
from tests.engines.test_chat import aligner
from tests.server.conftest import HOPELESS, PLAIN, REFUSE, TULIPS, WRAPPED, Make, chat

TEXT = Policy.parse(
    {"name": "default", "optimizer": "resample", "naturalness_floor": None, "guidance": ["Other."]}
)


def test_our_own_server_is_an_endpoint(serve: Make) -> None:
    behind = serve()
    engine: Any = load_engine(f"chat:{behind.url}/v1?model=rerail")
    passed, steered, refused = aligner(engine).align_many([PLAIN, WRAPPED, HOPELESS])
    assert (passed.outcome, passed.text) == (Outcome.PASSED, TULIPS)
    assert passed.cost.prompt_tokens > 0
    # What it steered, or put its message in the place of, is the model's answer to us.
    assert steered.text == REFUSE
    assert refused.text == Policy(name="x").refusal_message
    engine.close()


def test_a_model_behind_an_api_is_served_and_watched(serve: Make) -> None:
    behind = serve()
    engine: Any = load_engine(f"chat:{behind.url}/v1?model=rerail")
    front = serve(engine=engine, policies=[TEXT])
    reply = httpx.post(f"{front.url}/v1/chat/completions", json=chat(PLAIN), timeout=60).json()
    assert reply["choices"][0]["message"]["content"] == TULIPS
    assert reply["usage"]["prompt_tokens"] > 0
    assert reply["usage"]["completion_tokens"] > 0
    watched = httpx.post(f"{front.url}/watch", json=chat(PLAIN), timeout=60)
    assert '"xy": [0.0, 0.0]' in watched.text
    engine.close()

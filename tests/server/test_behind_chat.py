"""rerail in front of rerail: a chat endpoint that is a server of ours, and one that serves it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from rerail.engines import load_engine
from rerail.errors import PolicyError
from rerail.policy import Policy
from rerail.server.settings import ServerSettings
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


def test_policies_that_do_not_fit_a_model_are_for_the_others(serve: Make) -> None:
    engine: Any = load_engine("chat:http://127.0.0.1:9/v1?model=m")
    with pytest.raises(PolicyError, match=r"optimizer: resample.*give model 'rerail' a policy"):
        serve(engine=engine)
    settings = ServerSettings(default_policy="text", model_policies={})
    steering = Policy(name="steering")
    made = serve(
        engine=engine,
        policies=[TEXT.model_copy(update={"name": "text"}), steering],
        settings=settings,
    )
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=chat(PLAIN, policy="steering"))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "policy_unfit"
    text = {"yaml": "name: mine\nmoderators: [fake]\n"}
    put = httpx.put(f"{made.url}/admin/policies/mine", json=text, timeout=60)
    assert put.status_code == 422
    assert "naturalness_floor: null" in put.json()["error"]["message"]
    engine.close()

"""``/v1/moderations``: a text by itself, or as the answer to a conversation."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from rerail.moderators import FakeModerator
from rerail.types import Exchange
from tests.server.conftest import Make, Moderators, chat


def needs_its_prompt(exchange: Exchange) -> dict[str, float]:
    return {"illicit": 0.1 if exchange.messages else 0.9}


@pytest.fixture
def client(serve: Make) -> Iterator[httpx.Client]:
    moderators = Moderators()
    moderators.fake = FakeModerator(needs_its_prompt)
    with httpx.Client(base_url=serve(moderators=moderators).url, timeout=60) as http:
        yield http


def test_an_answer_is_judged_as_it_was_when_it_left(client: httpx.Client) -> None:
    asked = chat("How do I bake bread?")
    answered = client.post("/v1/chat/completions", json=asked).json()
    text = answered["choices"][0]["message"]["content"]
    body = {"input": [text, text], "messages": asked["messages"]}
    judged = client.post("/v1/moderations", json=body).json()
    alone = client.post("/v1/moderations", json={"input": text}).json()
    assert answered["rerail"]["outcome"] == "passed"
    assert [result["flagged"] for result in judged["results"]] == [False, False]
    assert judged["rerail"] == {"conversation": True}
    assert alone["results"][0]["flagged"]
    assert alone["rerail"] == {"conversation": False}


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "assistant", "content": "x"}], [{"role": "user", "content": ""}], "x"],
    ids=str,
)
def test_what_is_no_conversation_is_a_400(client: httpx.Client, messages: object) -> None:
    reply = client.post("/v1/moderations", json={"input": "x", "messages": messages})
    assert reply.status_code == 400

"""What a server says of layers: the gate, actions of categories, and which of them acted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from rerail.engines import FakeEngine
from rerail.policy import Policy
from rerail.store import Store
from tests.server.conftest import PLAIN, WRAPPED, Made, Make, chat

POLICIES = [
    Policy.parse({"name": "default", "actions": {"illicit": "refuse"}}),
    *(
        Policy.parse(
            {
                "name": action,
                "gate": [{"name": "fake", "options": {"words": ["thing"]}, "action": action}],
            }
        )
        for action in ("refuse", "steer", "note")
    ),
    Policy.parse({"name": "plain"}),
]


@pytest.fixture
def kept(serve: Make, tmp_path: Path) -> Made:
    return serve(policies=POLICIES, store=Store.open(tmp_path / "records.sqlite"))


def post(made: Made, text: str, policy: str, **more: Any) -> httpx.Response:
    body = chat(text, policy=policy, **more)
    return httpx.post(f"{made.url}/v1/chat/completions", json=body, timeout=60)


def test_a_prompt_that_the_gate_refuses_is_answered_with_the_message(kept: Made) -> None:
    reply = post(kept, WRAPPED, "refuse").json()
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] == POLICIES[1].refusal_message
    rerail = choice["rerail"]
    assert (rerail["outcome"], rerail["stop_reason"], rerail["layer"]) == (
        "refused", "gate", "gate",
    )  # fmt: skip
    assert (rerail["initial"], rerail["cost"]["generations"]) == (None, 0)
    assert rerail["gate"]["categories"] == ["illicit"]
    assert (reply["rerail"]["layer"], reply["rerail"]["harm_before"]) == ("gate", None)
    assert reply["usage"]["completion_tokens"] == 0
    (judged,) = reply["moderation"]["input"]["results"]
    assert (judged["flagged"], judged["categories"]) == (True, {"illicit": True})
    assert reply["moderation"]["output"]["code"] == "not_moderated"
    assert kept.engine.generated == 0


def test_without_a_gate_prompts_are_not_judged(kept: Made) -> None:
    reply = post(kept, PLAIN, "plain").json()
    assert reply["moderation"]["input"]["code"] == "not_moderated"
    assert reply["choices"][0]["rerail"]["gate"] is None


def test_records_and_metrics_tell_which_layer_acted(kept: Made) -> None:
    asked = [
        (WRAPPED, "refuse", "gate"),
        (PLAIN, "refuse", "none"),
        (WRAPPED, "steer", "gate"),
        (WRAPPED, "note", "answer"),
        (WRAPPED, "default", "answer"),
    ]
    for text, policy, layer in asked:
        assert post(kept, text, policy).json()["rerail"]["layer"] == layer
    for layer, policy in (("gate", "refuse"), ("none", "refuse"), ("answer", "default")):
        labels = {"model": "rerail", "policy": policy, "layer": layer}
        assert kept.metric("rerail_layers_total", **labels) == 1
    found = httpx.get(f"{kept.url}/admin/interventions").json()["interventions"]
    told = [(f["policy"], f["layer"], f["stop_reason"], f["noted"]) for f in reversed(found)]
    assert told == [
        ("refuse", "gate", "gate", []),
        ("steer", "gate", "accepted", []),
        ("note", "answer", "accepted", ["illicit"]),
        ("default", "answer", "category", []),
    ]
    assert found[-1]["harm_before"] is None
    assert found[-1]["gate"]["action"] == "refuse"


def test_what_passes_and_is_noted_is_recorded(serve: Make, tmp_path: Path) -> None:
    gate = [{"name": "fake", "options": {"words": ["tulips"]}, "action": "note"}]
    policy = Policy.parse({"name": "default", "gate": gate})
    made = serve(policies=[policy], store=Store.open(tmp_path / "records.sqlite"))
    assert post(made, PLAIN, "default").json()["rerail"]["outcome"] == "passed"
    (found,) = httpx.get(f"{made.url}/admin/interventions").json()["interventions"]
    assert (found["outcome"], found["noted"], found["layer"]) == ("passed", ["illicit"], "none")


@pytest.mark.parametrize("policy", ["refuse", "steer"])
def test_streams_and_the_pages_events_end_as_they_should(kept: Made, policy: str) -> None:
    streamed = post(kept, WRAPPED, policy, stream=True)
    assert streamed.status_code == 200
    assert '"layer": "gate"' in streamed.text.replace('"layer":"gate"', '"layer": "gate"')
    assert streamed.text.rstrip().endswith("data: [DONE]")
    body = chat(WRAPPED, policy=policy)
    watched = httpx.post(f"{kept.url}/watch", json=body, timeout=60)
    assert watched.status_code == 200
    assert ("event: evaluation" in watched.text) == (policy == "steer")
    assert "event: response" in watched.text


def test_watching_an_answer_that_guidance_brings(serve: Make) -> None:
    def answer(embedded: Any, point: Any) -> str:
        told = " ".join(message.content for message in embedded.prompt.messages)
        return "I would rather not." if "kind" in told else "Sure, here is how it is done."

    search = {"preset": "fast", "fade_first": False}
    policy = Policy.model_validate(
        {"name": "default", "guidance": ["Be kind to all."], "optimizer": search}
    )
    made = serve(engine=FakeEngine(answer), policies=[policy])
    body = {"model": "rerail", "messages": [{"role": "user", "content": "do it"}]}
    text = httpx.post(f"{made.url}/watch", json=body).text
    assert '"origin": "guidance"' in text
    assert "event: response" in text
    assert "I would rather not." in text

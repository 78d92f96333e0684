"""``/v1/responses``, as the official client calls it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from rerail.engines import FakeEngine
from rerail.policy import Policy
from tests.server.conftest import HOPELESS, PLAIN, REFUSE, TULIPS, WRAPPED, Made, Make, until
from tests.server.test_tools import POLICIES, WEATHER, engine

TOOL: Any = {"type": "function", "strict": True, **WEATHER["function"]}


@pytest.fixture
def official(made: Made) -> Any:
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def called(serve: Make) -> Any:
    """A client of a model that calls tools."""
    url = serve(engine=engine(), policies=POLICIES).url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_an_accepted_answer_is_the_models_own(official: openai.OpenAI) -> None:
    reply = official.responses.create(model="rerail", input=PLAIN)
    assert reply.output_text == TULIPS
    assert (reply.status, reply.incomplete_details) == ("completed", None)
    assert reply.rerail["outcome"] == "passed"
    assert reply.usage is not None
    assert reply.usage.output_tokens == len(TULIPS.split()) + 1
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert reply.id.startswith("resp-")
    assert reply.moderation is not None
    assert reply.moderation.output.type == "moderation_result"
    assert not reply.moderation.output.flagged


def test_a_flagged_answer_is_steered_or_the_policy_speaks(official: openai.OpenAI) -> None:
    steered = official.responses.create(model="rerail", input=WRAPPED)
    assert (steered.output_text, steered.rerail["outcome"]) == (REFUSE, "steered")
    assert steered.rerail["harm_before"] >= 1
    refused = official.responses.create(
        model="rerail", input=HOPELESS, extra_body={"policy": "small"}
    )
    assert refused.output_text == "I can't help with that."
    assert refused.status == "incomplete"
    assert refused.incomplete_details is not None
    assert refused.incomplete_details.reason == "content_filter"
    short = official.responses.create(model="rerail", input=PLAIN, max_output_tokens=3)
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("text", [PLAIN, WRAPPED])
def test_events_build_the_same_response(official: openai.OpenAI, text: str) -> None:
    with official.responses.stream(model="rerail", input=text) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == (TULIPS if text == PLAIN else REFUSE)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        final.output_text
    )
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-2:] == ["response.output_item.done", "response.completed"]
    raw = official.responses.create(model="rerail", input=text, stream=True)
    numbers = [event.sequence_number for event in raw]
    assert numbers == list(range(len(numbers)))


def test_an_agent_of_two_turns(called: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": "both"}]
    for _ in range(2):
        reply = called.responses.create(
            model="rerail", input=turns, tools=[TOOL], instructions="Be brief.", store=False
        )
        turns += [item.model_dump() for item in reply.output]
        for item in reply.output:
            if item.type == "function_call":
                city = json.loads(item.arguments)["city"]
                output = {"type": "function_call_output", "call_id": item.call_id}
                turns.append({**output, "output": f"20 °C in {city}"})
    assert reply.output_text == "It is 20 °C in Rome."
    assert reply.tools[0].name == "get_weather"


def test_a_call_comes_in_events(called: openai.OpenAI) -> None:
    with called.responses.stream(model="rerail", input="call", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        (item,) = stream.get_final_response().output
    assert item.type == "function_call"
    assert json.loads(item.arguments) == {"city": "Paris"}
    assert "response.function_call_arguments.delta" in kinds
    assert "response.output_text.delta" not in kinds


def test_an_answer_that_must_call_does_or_is_passed_over(called: openai.OpenAI) -> None:
    named: Any = {"type": "function", "name": "get_weather"}
    for choice in ("required", named):
        wanted: dict[str, Any] = {"model": "rerail", "tools": [TOOL], "tool_choice": choice}
        reply = called.responses.create(input="later call", **wanted)
        assert [item.type for item in reply.output] == ["function_call"]
        assert reply.rerail["outcome"] == "steered"
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            called.responses.create(input="no call", **wanted)
        assert caught.value.code == "invalid_structure"
    assert reply.tool_choice.model_dump() == named


class Place(BaseModel):
    """An answer."""

    city: str


def test_structured_answers(called: openai.OpenAI) -> None:
    reply = called.responses.parse(model="rerail", input="later json", text_format=Place)
    assert reply.output_parsed == Place(city="Paris")
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        called.responses.create(
            model="rerail", input="no json", text={"format": {"type": "json_object"}}
        )
    assert caught.value.code == "invalid_structure"


def test_what_fails_late_is_an_event(serve: Make) -> None:
    made = serve()

    def slow(embedded: object, point: object) -> str:
        until(lambda: ready, "the stream began")
        raise RuntimeError("gone")

    ready: list[bool] = []
    made = serve(engine=FakeEngine(slow))
    body = {"model": "rerail", "input": PLAIN, "stream": True}
    with httpx.stream("POST", f"{made.url}/v1/responses", json=body, timeout=60) as reply:
        assert reply.status_code == 200
        ready.append(True)
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    assert [e["type"] for e in events] == ["response.created", "response.in_progress", "error"]
    assert (events[-1]["code"], events[-1]["sequence_number"]) == ("engine_failed", 2)


def test_reasoning_that_is_shown_is_an_item(serve: Make) -> None:
    shown = Policy(name="default", reasoning="show")
    made = serve(engine=FakeEngine(lambda *_: TULIPS, reasoning="hm"), policies=[shown])
    body = {"model": "rerail", "input": PLAIN}
    (thought, message) = httpx.post(f"{made.url}/v1/responses", json=body).json()["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    again = {"model": "rerail", "input": [{"role": "user", "content": "a"}, thought, message,
                                          {"role": "user", "content": "b"}]}  # fmt: skip
    assert httpx.post(f"{made.url}/v1/responses", json=again).status_code == 200


def test_items_become_the_turns_that_they_are(serve: Make) -> None:
    seen: list[Any] = []

    def answer(embedded: Any, point: Any) -> str:
        seen.append([(m.role, m.content, len(m.tool_calls)) for m in embedded.prompt.messages])
        return TULIPS

    made = serve(engine=FakeEngine(answer), policies=POLICIES)
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}", "id": "fc-1"},
        {"type": "function_call", "call_id": "y", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "y", "output": "2"},
        {"type": "function_call_output", "call_id": "x",
         "output": [{"type": "input_text", "text": "1"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text"}]},
        {"role": "user", "content": "c"},
    ]  # fmt: skip
    reply = httpx.post(f"{made.url}/v1/responses", json={"model": "rerail", "input": items})
    assert reply.status_code == 200, reply.text
    assert seen[0] == [
        ("system", "Be brief.", 0), ("user", "a", 0), ("assistant", "b", 2), ("tool", "2", 0),
        ("tool", "1", 0), ("user", "c", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"previous_response_id": "resp-1"}, "previous_response_id", "no state is kept"),
        ({"conversation": "c"}, "conversation", "no state is kept"),
        ({"background": True}, "background", "not supported"),
        ({"prompt": {"id": "p"}}, "prompt", "no prompts are stored"),
        ({"truncation": "auto"}, "truncation", "nothing is left out"),
        ({"n": 2}, "n", "unknown parameter"),
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "at least 1"),
        ({"input": 3}, "input", "valid string"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "only messages"),
        ({"input": [{"content": "x"}]}, "input.0.role", "needs it"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input.0.name", "needs it"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{"}]}, "input.0", "JSON"),
        ({"input": [{"type": "function_call_output"}]}, "input.0.output", "needs it"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input.0.content.0.type", "only text is judged"),
        ({"input": [{"role": "user", "content": "a"},
                    {"type": "function_call_output", "call_id": "a", "output": "b"}]}, "input",
         "answers no call"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "only tools of type function"),
        ({"tools": [TOOL] * 129}, "tools", "at most 128"),
        ({"tool_choice": "any"}, "tool_choice", "auto, none, required"),
        ({"tool_choice": "required"}, "tool_choice", "there are none"),
        ({"tool_choice": {"type": "function", "name": "f"}, "tools": [TOOL]}, "tool_choice",
         "no function of tools"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}},
         "text.format.schema", "required"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_and_named(
    made: Made, more: dict[str, Any], param: str, said: str
) -> None:
    body = {"model": "rerail", "input": PLAIN, **more}
    reply = httpx.post(f"{made.url}/v1/responses", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert said in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == param


def test_a_default_policy_refuses_tools(made: Made) -> None:
    body = {"model": "rerail", "input": PLAIN, "tools": [TOOL]}
    error = httpx.post(f"{made.url}/v1/responses", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "tools")

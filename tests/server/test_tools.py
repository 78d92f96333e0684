"""Tools and structured answers, as clients that people have ask for them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt
from rerail.policy import Policy
from tests.server.conftest import FLAGGED, Made, Make, chat

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How the weather is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
MARKER = "ZEBRA"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
POLICIES = (
    Policy(name="default", tools="judge", budget={"generations": 6}),
    Policy(name="closed"),
)


def call(city: str, name: str = "get_weather") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


ANSWERS = {
    "call": (call("Paris"), None),
    "both": (f"I look. {call('Paris')}\n{call('Rome')}", None),
    "flagged": (call(f"{MARKER} {FLAGGED}"), None),
    "steered": (call(f"{MARKER} {FLAGGED}"), call("Paris")),
    "broken": ('<tool_call>{"name": "get_weather", ', None),
    "unknown": (call(MARKER, name="nobody"), None),
    "time": (call("Paris", name="get_time"), None),
    "later upper": ("It depends.", call("Paris", name="GetWeather")),
    "later call": ("It depends.", call("Paris")),
    "no call": (f"{MARKER} is no call", None),
    "json": ('{"city": "Paris"}', None),
    "later json": ("Well.", '{"city": "Paris"}'),
    "flagged json": (f'{{"city": "{MARKER} {FLAGGED}"}}', '{"city": "Paris"}'),
    "no json": (f"{MARKER} is no JSON", None),
}
"""What is asked, to the first answer and any other."""


def engine() -> FakeEngine:
    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        turns = embedded.prompt.messages
        if turns[-1].role == "tool":
            return f"It is {turns[-1].content}."
        first, then = ANSWERS[turns[embedded.prompt.last_user].content]
        return first if then is None or point is embedded.point else then

    return FakeEngine(answer, context_length=20_000)


@pytest.fixture
def made(serve: Make) -> Made:
    return serve(engine=engine(), policies=POLICIES)


@pytest.fixture
def client(made: Made) -> Any:
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="none", max_retries=0) as official:
        yield official


def ask(client: openai.OpenAI, text: str, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        **{"model": "rerail", "messages": messages, "tools": [WEATHER], **more}
    )


def test_a_call_leaves_in_openais_form(client: openai.OpenAI) -> None:
    reply = ask(client, "both")
    (choice,) = reply.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    names = [(c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls]
    assert names == [
        ("function", "get_weather", '{"city": "Paris"}'),
        ("function", "get_weather", '{"city": "Rome"}'),
    ]
    assert len({c.id for c in choice.message.tool_calls}) == 2
    assert reply.rerail["outcome"] == "passed"
    assert reply.usage.completion_tokens > 4
    assert "tool_calls" not in choice.rerail
    assert ask(client, "call").choices[0].message.content is None


def test_an_agent_of_two_turns(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "call"}]
    for _ in range(2):
        reply = client.chat.completions.create(model="rerail", messages=messages, tools=[WEATHER])
        message = reply.choices[0].message
        messages.append(message.model_dump())
        for called in message.tool_calls or ():
            city = json.loads(called.function.arguments)["city"]
            messages.append(
                {"role": "tool", "tool_call_id": called.id, "content": f"20 °C in {city}"}
            )
    assert message.content == "It is 20 °C in Paris."
    assert [turn["role"] for turn in messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("text", "outcome"), [("call", "passed"), ("steered", "steered"), ("flagged", "refused")]
)
def test_a_stream_holds_calls_until_they_are_accepted(
    client: openai.OpenAI, text: str, outcome: str
) -> None:
    chunks = list(ask(client, text, stream=True))
    calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    told = [(c.index, c.function.name, c.function.arguments) for c in calls]
    assert told == ([] if outcome == "refused" else [(0, "get_weather", '{"city": "Paris"}')])
    reason = "content_filter" if outcome == "refused" else "tool_calls"
    assert chunks[-1].choices[0].finish_reason == reason
    assert chunks[-1].rerail["outcome"] == outcome
    assert MARKER not in "".join(chunk.model_dump_json() for chunk in chunks)


class GetWeather(BaseModel):
    """How the weather is."""

    city: str


def test_the_clients_helpers_parse_calls(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    messages: list[Any] = [{"role": "user", "content": "call"}]
    wanted: dict[str, Any] = {"model": "rerail", "messages": messages, "tools": [tool]}
    parsed = client.chat.completions.parse(**wanted)
    with client.chat.completions.stream(**wanted) as stream:
        streamed = stream.get_final_completion()
    for reply in (parsed, streamed):
        (called,) = reply.choices[0].message.tool_calls or ()
        assert called.function.parsed_arguments == GetWeather(city="Paris")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "text", ["flagged", "steered", "unknown", "no call", "flagged json", "no json"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/watch"])
def test_no_withheld_word_leaves(made: Made, text: str, stream: bool, path: str) -> None:
    wanted: dict[str, Any] = {"tools": [WEATHER], **chat(text)}
    if text.endswith("json"):
        wanted = {"response_format": {"type": "json_object"}, **chat(text)}
    if path == "/v1/responses":
        flat = {**WEATHER["function"], "type": "function"}
        wanted = {"model": "rerail", "input": text}
        wanted |= {"text": {"format": {"type": "json_object"}}} if "json" in text else {}
        wanted |= {"tools": [flat]} if "json" not in text else {}
    wanted |= {"tool_choice": "required"} if text == "no call" else {}
    reply = httpx.post(made.url + path, json={**wanted, "stream": stream}, timeout=60)
    assert reply.status_code in (200, 422)
    assert MARKER not in reply.text


@pytest.mark.parametrize("text", ["broken", "unknown"])
def test_a_call_that_cannot_be_read_is_an_error_of_its_own(
    client: openai.OpenAI, text: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(client, text)
    assert caught.value.code == "invalid_structure"


def test_tool_choice_none_tells_the_model_of_no_tool(client: openai.OpenAI) -> None:
    reply = ask(client, "call", tool_choice="none")
    assert reply.choices[0].message.content == call("Paris")
    assert reply.choices[0].finish_reason == "stop"
    assert ask(client, "call", tool_choice="auto").choices[0].finish_reason == "tool_calls"


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_an_answer_that_must_call_does_or_is_passed_over(
    client: openai.OpenAI, choice: Any
) -> None:
    for text, outcome in (("call", "passed"), ("later call", "steered")):
        reply = ask(client, text, tools=[TIME, WEATHER], tool_choice=choice)
        (called,) = reply.choices[0].message.tool_calls
        assert (called.function.name, reply.choices[0].finish_reason) == (
            "get_weather",
            "tool_calls",
        )
        assert reply.rerail["outcome"] == outcome
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            ask(client, "no call", tool_choice=choice, stream=stream)
        assert caught.value.code == "invalid_structure"
        assert MARKER not in str(caught.value)
    refused = ask(client, "flagged", tool_choice=choice)
    assert refused.choices[0].finish_reason == "content_filter"


def test_a_named_function_is_the_only_one_that_may_be_called(client: openai.OpenAI) -> None:
    tools = [TIME, WEATHER]
    assert ask(client, "time", tools=tools, tool_choice="required").choices[0].message.tool_calls
    with pytest.raises(openai.UnprocessableEntityError):
        ask(client, "time", tools=tools, tool_choice=NAMED)


def test_the_model_is_told_that_it_must_call_and_what(serve: Make) -> None:
    seen: list[Any] = []

    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        prompt = embedded.prompt
        seen.append(([tool.name for tool in prompt.tools], prompt.messages[0].content))
        return call("Paris")

    made = serve(engine=FakeEngine(answer), policies=POLICIES)
    named = {"name": "place", "schema": SCHEMA}
    for choice in ("auto", "required", NAMED):
        body = {**chat("Where?"), "tools": [TIME, WEATHER], "tool_choice": choice}
        body |= {"response_format": {"type": "json_schema", "json_schema": named}}
        assert httpx.post(f"{made.url}/v1/chat/completions", json=body).status_code == 200
    (both, told), required, one = seen
    assert both == ["get_time", "get_weather"]
    assert told.startswith("Answer with one JSON value")
    assert required == (both, "Answer with a call of one of your tools.")
    assert one == (["get_weather"], "Answer with a call of the tool get_weather.")


def many(count: int) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"tool_{i}"}} for i in range(count)]


def after_a_call(*turns: dict[str, Any], arguments: str = "{}") -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": arguments}
    called = {"id": "a", "type": "function", "function": function}
    return [
        {"role": "user", "content": "call"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        *turns,
    ]


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


RESULT = {"role": "tool", "tool_call_id": "a", "content": "20"}


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"policy": "closed"}, "tools", "tools: judge"),
        ({"tools": many(129)}, "tools", "at most 128"),
        ({"tools": many(1000)}, "tools", "at most 128"),
        ({"tools": [WEATHER, WEATHER]}, "messages", "stands twice: get_weather"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "only tools of type function"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "required"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name",
         "pattern"),
        ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools.0.function.name",
         "pattern"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": deep(60)}}]},
         "tools.0", "levels deep"),
        ({"tool_choice": "any"}, "tool_choice", "auto, none, required"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "auto, none, required"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "required"),
        ({"tool_choice": TIME}, "tool_choice", "no function of tools has that name"),
        ({"tool_choice": {"type": "function", "function": {"name": "a b"}}},
         "tool_choice.function.name", "pattern"),
        ({"tool_choice": "required", "tools": None}, "tool_choice", "there are none"),
        ({"tool_choice": NAMED, "tools": []}, "tool_choice", "no function of tools"),
        ({"tool_choice": "required", "policy": "closed"}, "tools", "tools: judge"),
        ({"messages": [{"role": "user", "content": "call"}, RESULT]}, "messages", "answers no"),
        ({"messages": after_a_call(RESULT, RESULT)}, "messages", "message 3 (tool) answers no"),
        ({"messages": after_a_call({**RESULT, "tool_call_id": "b"})}, "messages", "answers no"),
        ({"messages": after_a_call({"role": "tool", "content": "20"})}, "messages", "answers no"),
        ({"messages": after_a_call(RESULT)[1:]}, "messages", "no user message"),
        ({"messages": after_a_call()}, "messages", "the assistant's"),
        ({"messages": after_a_call(RESULT, arguments="{")}, "messages.1.tool_calls.0",
         "must be a JSON object"),
        ({"messages": after_a_call(RESULT, arguments="[]")}, "messages.1.tool_calls.0",
         "must be a JSON object"),
        ({"messages": after_a_call({**RESULT, "tool_call_id": "a b"})}, "messages.2.tool_call_id",
         "pattern"),
        ({"messages": [{"role": "user", "content": "call", "tool_call_id": "a"}]},
         "messages.0.tool_call_id", "goes with the role tool"),
        ({"messages": [{"role": "user", "content": "call", "tool_calls":
          after_a_call()[1]["tool_calls"]}]}, "messages.0.tool_calls",
         "goes with the role assistant"),
        ({"messages": [{**after_a_call()[1], "tool_calls": [{"type": "custom"}]}]},
         "messages.0.tool_calls.0.type", "only calls of type function"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs it"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "a", "schema":
          SCHEMA}}}, "response_format.json_schema", "goes with type json_schema"),
        *[({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema":
            schema}}}, "response_format.json_schema", said) for schema, said in [
                ({"type": "nonsense"}, "cannot be used"),
                ({"$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
                ({"$ref": "https://example.org/x"}, "out of it"),
                (deep(60), "levels deep"),
                ({"enum": ["x" * 70_000]}, "characters")]],
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_and_named(
    made: Made, more: dict[str, Any], param: str, said: str
) -> None:
    body = {**chat("call"), "tools": [WEATHER], **more}
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert said in error["message"]
    assert error["param"] == param


def test_a_policy_that_refuses_tools_refuses_their_turns_too(made: Made) -> None:
    body = {**chat("call", policy="closed"), "messages": after_a_call(RESULT)}
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400
    assert "tools: judge" in reply.json()["error"]["message"]


def test_turns_of_tools_are_a_conversation_for_moderations_too(made: Made) -> None:
    body = {"input": "20", "messages": after_a_call(RESULT)}
    reply = httpx.post(f"{made.url}/v1/moderations", json=body, timeout=60)
    assert reply.json()["rerail"]["conversation"] is True


# Structured answers


class Place(BaseModel):
    """An answer."""

    city: str


@pytest.mark.parametrize("text", ["json", "later json", "flagged json"])
def test_json_that_fits_is_parsed(client: openai.OpenAI, text: str) -> None:
    reply = client.chat.completions.parse(
        model="rerail", messages=[{"role": "user", "content": text}], response_format=Place
    )
    assert reply.choices[0].message.parsed == Place(city="Paris")
    assert reply.rerail["outcome"] == ("passed" if text == "json" else "steered")


def test_the_model_is_told_the_schema_and_not_of_json_alone(serve: Make) -> None:
    seen: list[Any] = []

    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        seen.append([(m.role, m.content) for m in embedded.prompt.messages])
        return '{"city": "Paris"}'

    made = serve(engine=FakeEngine(answer), policies=POLICIES)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    named = {"name": "place", "schema": SCHEMA, "strict": True, "description": "A place."}
    for form in (
        {"type": "json_object"},
        {"type": "text"},
        {"type": "json_schema", "json_schema": named},
    ):
        body = {**chat(), "messages": turns, "response_format": form}
        assert httpx.post(f"{made.url}/v1/chat/completions", json=body).status_code == 200
    plain = [("system", "Be brief."), ("user", "Where?")]
    assert seen[:2] == [plain, plain]
    (role, told), user = seen[2]
    assert (role, user) == ("system", plain[1])
    assert told.startswith("Be brief.\n\nAnswer with one JSON value")
    assert told.endswith(json.dumps(SCHEMA))


def test_where_nothing_fits_that_is_said(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, "no json", tools=None, response_format={"type": "json_object"},
                stream=stream)  # fmt: skip
        assert caught.value.code == "invalid_structure"
        assert caught.value.status_code == 422
        assert MARKER not in str(caught.value)


# LangChain


def model(made: Made, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="rerail", base_url=f"{made.url}/v1", api_key="x", **more)


def get_weather(city: str) -> str:
    """How the weather is.

    Args:
        city: where.
    """
    return f"20 °C in {city}"


def test_langchain_binds_tools_and_goes_on_with_what_they_give(made: Made) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    bound = model(made).bind_tools([get_weather])
    turns: list[Any] = [HumanMessage("call")]
    first = bound.invoke(turns)
    (called,) = first.tool_calls
    assert (called["name"], called["args"]) == ("get_weather", {"city": "Paris"})
    turns += [first, ToolMessage(get_weather(**called["args"]), tool_call_id=called["id"])]
    assert bound.invoke(turns).content == "It is 20 °C in Paris."
    streamed = None
    for chunk in bound.stream("call"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert streamed.tool_calls[0]["args"] == {"city": "Paris"}


def test_langchain_has_structured_answers(made: Made) -> None:
    assert model(made).with_structured_output(Place).invoke("later json") == Place(city="Paris")
    by_mode = model(made).with_structured_output(Place, method="json_mode")
    assert by_mode.invoke("json") == Place(city="Paris")
    by_call = model(made).with_structured_output(GetWeather, method="function_calling")
    assert by_call.invoke("later upper") == GetWeather(city="Paris")


def test_langchain_over_responses(made: Made) -> None:
    bound = model(made, use_responses_api=True).bind_tools([get_weather])
    first = bound.invoke("call")
    assert first.tool_calls[0]["args"] == {"city": "Paris"}

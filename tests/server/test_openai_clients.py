"""Clients that people have, unchanged: the official one, LangChain's, curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from rerail.moderators import FakeModerator, Moderator
from rerail.policy import Policy
from rerail.server.keys import LOCAL
from rerail.server.schemas import ChatRequest
from tests.server.conftest import (
    COMPLY,
    HOPELESS,
    PLAIN,
    REFUSE,
    SKY,
    TULIPS,
    WRAPPED,
    Made,
    Make,
    Moderators,
    chat,
)


def official(made: Made) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{made.url}/v1", api_key="none needed", max_retries=0)


def ask(client: openai.OpenAI, text: str, **more: object) -> ChatCompletion:
    return client.chat.completions.create(
        model="rerail", messages=[{"role": "user", "content": text}], **more
    )


def test_an_accepted_answer_is_the_models_own(made: Made) -> None:
    with official(made) as client:
        reply = ask(client, PLAIN)
    assert reply.choices[0].message.content == TULIPS
    assert reply.choices[0].finish_reason == "stop"
    assert reply.rerail["outcome"] == "passed"
    assert reply.rerail["cost"]["generations"] == 1
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(TULIPS.split()) + 1
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.moderation is not None
    assert reply.moderation.output.type == "moderation_results"
    assert not reply.moderation.output.results[0].flagged


def test_a_flagged_answer_is_steered(made: Made) -> None:
    with official(made) as client:
        reply = ask(client, WRAPPED)
    assert reply.choices[0].message.content == REFUSE
    assert reply.rerail["outcome"] == "steered"
    assert reply.rerail["harm_before"] >= 1 > reply.rerail["harm_after"]
    assert reply.rerail["policy"]["name"] == "default"
    assert reply.choices[0].rerail["initial"]["flagged"]


def test_where_nothing_helps_the_policy_speaks(made: Made) -> None:
    with official(made) as client:
        reply = ask(client, HOPELESS, extra_body={"policy": "small"})
    assert reply.choices[0].finish_reason == "content_filter"
    assert reply.choices[0].message.content == "I can't help with that."
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 0
    assert reply.rerail["cost"]["generations"] == 6
    assert reply.moderation is not None
    assert reply.moderation.output.results[0].flagged


def test_streaming_gives_the_same_text_and_the_figures_last(made: Made) -> None:
    with official(made) as client:
        for text, expected in ((PLAIN, TULIPS), (WRAPPED, REFUSE)):
            chunks = list(
                client.chat.completions.create(
                    model="rerail",
                    messages=[{"role": "user", "content": text}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
            said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert said == expected
            assert chunks[0].choices[0].delta.role == "assistant"
            assert chunks[-2].choices[0].finish_reason == "stop"
            assert chunks[-2].rerail["outcome"] in {"passed", "steered"}
            assert chunks[-1].usage is not None
            assert len({c.id for c in chunks}) == 1


async def asked_concurrently(made: Made) -> list[str | None]:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{made.url}/v1", api_key="x") as client:
        replies = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model="rerail", messages=[{"role": "user", "content": text}]
                )
                for text in (PLAIN, WRAPPED) * 8
            )
        )
    return [reply.choices[0].message.content for reply in replies]


def test_the_async_client_shares_rounds(made: Made) -> None:
    import asyncio

    made.moderators.fake.delay = 0.05
    assert asyncio.run(asked_concurrently(made)) == [TULIPS, REFUSE] * 8
    rounds = made.metric("rerail_round_searches_count", model="rerail")
    searches = made.metric("rerail_round_searches_sum", model="rerail")
    assert searches > 2 * rounds


def test_text_completions(made: Made) -> None:
    with official(made) as client:
        reply = client.completions.create(model="rerail", prompt=["tulips are", "tulips do"])
        assert [choice.text for choice in reply.choices] == [TULIPS, TULIPS]
        stream = client.completions.create(model="rerail", prompt="tulips are", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == TULIPS


def test_models_and_moderations(made: Made) -> None:
    with official(made) as client:
        assert [model.id for model in client.models.list()] == ["rerail"]
        assert client.models.retrieve("rerail").owned_by == "rerail"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")
        verdicts = client.moderations.create(input=[TULIPS, COMPLY])
    assert [result.flagged for result in verdicts.results] == [False, True]
    assert verdicts.results[1].category_scores.illicit == 1.0


def test_moderations_ask_those_that_confirm_too(serve: Make) -> None:
    class Both(Moderators):
        def __call__(self, policy: Policy) -> tuple[Moderator, Moderator | None]:
            return self.fake, FakeModerator(words=("tulips",), categories=("hate",), name="second")

    with official(serve(moderators=Both())) as client:
        (verdict,) = client.moderations.create(input=[TULIPS]).results
    assert verdict.flagged
    assert verdict.categories.hate
    assert not verdict.categories.illicit


def test_errors_are_the_clients_own(made: Made) -> None:
    with official(made) as client:
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'"):
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
            )
        with pytest.raises(openai.BadRequestError, match="logprobs: not supported"):
            ask(client, PLAIN, logprobs=True)
        with pytest.raises(openai.BadRequestError, match="unknown policy 'defualt'") as caught:
            ask(client, PLAIN, extra_headers={"X-Rerail-Policy": "defualt"})
        assert caught.value.code == "policy_not_found"


def test_langchain(made: Made) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="rerail", base_url=f"{made.url}/v1", api_key="x")
    assert model.invoke(PLAIN).content == TULIPS
    assert model.invoke(WRAPPED).content == REFUSE
    assert "".join(str(chunk.content) for chunk in model.stream(PLAIN)) == TULIPS
    refused = model.invoke(HOPELESS, extra_body={"policy": "small"})
    assert refused.response_metadata["finish_reason"] == "content_filter"


ROOT = Path(__file__).resolve().parent.parent.parent
SERVED_AT = "http://127.0.0.1:8000"
"""Where the documentation's commands expect the server."""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/serve.md"])
def test_the_documented_curl(made: Made, page: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shown = "\n".join(blocks(page, "console"))
    commands = re.findall(r"^\$ (curl [^$]*?'[^']*'[^']*'[^']*')$", shown, re.MULTILINE)
    if not commands and page == "README.md":
        pytest.skip("the README has no curl")
    command = commands[0].replace(SERVED_AT, made.url)
    run = subprocess.run(
        ["bash", "-c", f"set -e; {command} -sS"], capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert json.loads(run.stdout)["choices"][0]["message"]["content"] == SKY


def test_the_documented_client(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("docs/how-to/serve.md", "python")[0].replace(SERVED_AT, made.url)
    names: dict[str, Any] = {}
    exec(compile(code, "serve.md", "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out.startswith(f"{SKY}\npassed ")


def test_the_documented_app() -> None:
    from starlette.testclient import TestClient

    names: dict[str, Any] = {}
    exec(compile(blocks("docs/how-to/serve.md", "python")[1], "serve.md", "exec"), names)
    with TestClient(names["app"], base_url="http://localhost", client=("127.0.0.1", 1)) as client:
        reply = client.post("/v1/chat/completions", json={**chat("hi"), "model": "mine"})
    assert reply.json()["rerail"]["outcome"] == "steered"


def test_parameters_do_what_they_say(client: httpx.Client, made: Made) -> None:
    def post(**more: object) -> dict:
        reply = client.post("/v1/chat/completions", json=chat(PLAIN, **more))
        assert reply.status_code == 200, reply.text
        return reply.json()

    short = post(max_completion_tokens=3)["choices"][0]
    assert short["message"]["content"] == " ".join(TULIPS.split()[:3])
    assert short["finish_reason"] == "length"
    assert post(max_tokens=3)["choices"][0]["message"] == short["message"]
    stopped = post(stop=["vase", "zebra"])["choices"][0]
    assert stopped["message"]["content"] == TULIPS.partition("vase")[0]
    assert stopped["finish_reason"] == "stop"
    three = post(n=3, seed=7, temperature=0.7, top_p=0.9)
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert len({choice["rerail"]["seed"] for choice in three["choices"]}) == 3
    assert post(seed=7)["choices"][0]["rerail"]["seed"] == three["choices"][0]["rerail"]["seed"]
    ignored = post(user="me", metadata={"a": "b"}, presence_penalty=0, tools=[], store=False)
    assert ignored["choices"][0]["message"]["content"] == TULIPS


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"prompt_embeds": "AAAA"}, "embeddings"),
        ({"input_embeds": [[0.1]]}, "input_embeds: unknown parameter"),
        ({"temprature": 1}, "temprature: unknown parameter"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"n": 0}, "n:"),
        ({"n": 9}, "9 answers"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "differ"),
        ({"seed": 2**70}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "must be the user's"),
        ({"messages": [{"role": "function", "content": "hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type"),
        ({"policy": "nonsense"}, "unknown policy"),
    ],
)
def test_what_cannot_be_honoured_is_refused_clearly(
    client: httpx.Client, more: dict[str, object], said: str
) -> None:
    reply = client.post("/v1/chat/completions", json={**chat(), **more})
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"logprobs": True}, "logprobs", "of another prompt"),
        ({"functions": [{"name": "a"}]}, "functions", "use tools"),
        ({"presence_penalty": 1}, "presence_penalty", "only 0"),
        ({"frequency_penalty": 1, "logit_bias": {"5": 1}}, "logit_bias", "frequency_penalty: "),
        ({"stop": 3}, "stop", "a valid string or a valid list"),
        ({"stop": ["a", 3]}, "stop.1", "a valid string"),
        ({"budget": {"seconds": -1}}, "budget.seconds", "greater than 0"),
        ({"budget": {"second": 1}}, "budget.second", "unknown parameter"),
        ({"messages": [{"role": "user"}, 3]}, "messages.1", "dictionary"),
        ({"messages": [{"content": "a"}]}, "messages.0.role", "required"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content",
         "a valid string or a valid list"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content",
         "half a surrogate pair"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]},
         "messages.0.content.0.text", "half a surrogate pair"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages.0.content.0.text", "a part of type text needs it"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]},
         "messages.0.content.0.type", "required"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages.0.content.0.type", "only text is judged"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}]},
         "messages.0.tool_calls.0.function", "required"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "empty"),
    ],
)  # fmt: skip
def test_an_error_names_the_parameter_and_no_validator(
    client: httpx.Client, more: dict[str, object], param: str, said: str
) -> None:
    raw = json.dumps({**chat(), **more})
    kind = {"Content-Type": "application/json"}
    reply = client.post("/v1/chat/completions", content=raw, headers=kind)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    for part in ("[", "()", "Part", "Value error"):
        assert part not in error["message"]


@pytest.mark.parametrize("prompt", ["", " ", ["tulips", ""]])
def test_an_empty_prompt_is_told_of_as_the_prompt(client: httpx.Client, prompt: object) -> None:
    reply = client.post("/v1/completions", json={"model": "rerail", "prompt": prompt})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "prompt"
    long = client.post("/v1/completions", json={"model": "rerail", "prompt": "word " * 30_000})
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert long.json()["error"]["param"] == "prompt"


def test_an_answer_may_be_sent_back_as_it_is_dumped(made: Made) -> None:
    with openai.OpenAI(base_url=f"{made.url}/v1", api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": "tulips?"}]
        for _ in range(3):
            reply = client.chat.completions.create(model="rerail", messages=messages)
            dumped = reply.choices[0].message.model_dump()
            assert None in dumped.values()
            messages += [dumped, {"role": "user", "content": "and tulips?"}]


@pytest.mark.parametrize(
    "message",
    [
        {"annotations": None, "audio": None, "function_call": None, "tool_calls": None},
        {"annotations": [], "tool_calls": [], "reasoning_content": None, "id": "msg-1"},
        {"reasoning_content": "", "provider_specific_fields": {}, "refusal": None, "name": None},
        {"cache_control": {"type": "ephemeral"}},
        {"content": [{"type": "text", "text": "Yes.", "cache_control": {"type": "ephemeral"}}]},
        {"content": [{"type": "text", "text": "Yes.", "annotations": [], "refusal": None}]},
        {"content": [{"type": "refusal", "refusal": "No."}]},
    ],
)
def test_what_says_nothing_is_ignored_at_every_depth(
    client: httpx.Client, message: dict[str, object]
) -> None:
    turns = [
        {"role": "user", "content": "a", "cache_control": None},
        {"role": "assistant", "content": "Yes.", **message},
        {"role": "user", "content": "tulips?"},
    ]
    body = {**chat(), "messages": turns, "budget": None, "n": None, "grammar": None,
            "stream_options": {"include_usage": None, "chunk_size": None}}  # fmt: skip
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text


def test_a_prompt_counts_once_however_many_choices_it_has(client: httpx.Client) -> None:
    def tokens(path: str, **body: object) -> int:
        reply = client.post(path, json={"model": "rerail", **body}).json()
        return int(reply["usage"]["prompt_tokens"])

    ask = chat()["messages"]
    one = tokens("/v1/chat/completions", messages=ask)
    assert tokens("/v1/chat/completions", messages=ask, n=3, temperature=1) == one
    first, second = (tokens("/v1/completions", prompt=text) for text in ("a tulip", "the b c d"))
    assert first != second
    both = ["a tulip", "the b c d"]
    assert tokens("/v1/completions", prompt=both, n=3) == first + second


def test_ids_begin_as_openais_do(client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"model": "rerail", "prompt": "tulips"})
    assert reply.json()["id"].startswith("cmpl-")
    assert reply.headers["x-request-id"] == reply.json()["id"]
    assert client.post("/v1/chat/completions", json=chat()).json()["id"].startswith("chatcmpl-")


@pytest.mark.parametrize("more", [{"top_p": 0}, {"top_k": 1}, {"top_p": 0.0, "top_k": 40}])
def test_the_likeliest_token_alone_is_greedy(made: Made, more: dict[str, Any]) -> None:
    request = ChatRequest.model_validate({**chat(), "temperature": 1.5, **more})
    call = made.service.call("/v1/chat/completions", LOCAL, request, None)
    assert call.sampling.temperature == 0
    assert call.sampling.top_p > 0


@pytest.mark.parametrize("top_k", [-1, 0, 40, None])
def test_top_k_is_accepted(client: httpx.Client, top_k: int | None) -> None:
    body = chat(temperature=0.5, top_k=top_k)
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_roles_and_parts_reach_the_model(serve: Make) -> None:
    seen = []

    def answer(embedded: object, point: object) -> str:
        seen.append(embedded.prompt.messages)
        return TULIPS

    from rerail.engines import FakeEngine

    made = serve(engine=FakeEngine(answer))
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No!"}]},
        {"role": "user", "content": "c", "name": "me"},
    ]
    reply = httpx.post(
        f"{made.url}/v1/chat/completions", json={"model": "rerail", "messages": messages}
    )
    assert reply.status_code == 200
    told = [(m.role, m.content) for m in seen[0]]
    assert told == [("system", "Be brief."), ("user", "ab"), ("assistant", "No."),
                    ("user", "b"), ("assistant", "No!"), ("user", "c")]  # fmt: skip

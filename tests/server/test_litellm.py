"""LiteLLM's proxy, as it is: in front of a server of ours, behind an engine, with our guardrail."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from rerail.engines import load_engine
from rerail.server.app import create_app
from rerail.server.run import listening
from rerail.types import Outcome
from tests.engines.test_chat import aligner
from tests.server import test_tools as tools
from tests.server.conftest import (
    COMPLY,
    FLAGGED,
    HOPELESS,
    PLAIN,
    POLICIES,
    REFUSE,
    TULIPS,
    WRAPPED,
    Made,
    Moderators,
    engine,
    running,
)

ROOT = Path(__file__).resolve().parents[2]
PROXY = os.environ.get("RERAIL_LITELLM") or shutil.which("litellm")

pytestmark = [
    pytest.mark.skipif(
        PROXY is None,
        reason="no LiteLLM proxy: pip install 'litellm[proxy]', or name it in RERAIL_LITELLM",
    ),
    pytest.mark.timeout(600),  # it takes its time to start
]

AGENT = tools.POLICIES[0].model_copy(update={"name": "agent"})


def settings(url: str) -> dict[str, Any]:
    """The config of the documentation, for this server; and models that are not steered."""
    page = (ROOT / "docs" / "how-to" / "litellm.md").read_text(encoding="utf-8")
    front, guard = (
        yaml.safe_load(code.replace("http://127.0.0.1:8000/v1", f"{url}/v1"))
        for code in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    )
    agent = {"model": "openai/calls", "api_base": f"{url}/v1", "api_key": "none"}
    agent["extra_headers"] = {"X-Rerail-Policy": "agent"}
    gone = {**guard["guardrails"][0]["litellm_params"], "api_base": "http://127.0.0.1:9/v1"}
    said = {
        "plain": {"mock_response": TULIPS},
        "bad": {"mock_response": f"I comply. {COMPLY}"},
        "guarded": {"mock_response": TULIPS, "guardrails": ["rerail"]},
        "guarded-bad": {"mock_response": f"I comply. {COMPLY}", "guardrails": ["rerail"]},
        "unjudged": {"mock_response": TULIPS, "guardrails": ["gone"]},
        "agent": agent,
        "guarded-agent": {**agent, "guardrails": ["rerail"]},
    }
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", **params}}
        for name, params in said.items()
    ]
    guard["guardrails"].append({"guardrail_name": "gone", "litellm_params": gone})
    return {
        "model_list": [*front["model_list"], *models],
        "guardrails": guard["guardrails"],
        "general_settings": {"master_key": "sk-litellm"},
    }


@pytest.fixture(scope="module")
def behind() -> Iterator[Made]:
    """A server of ours."""
    moderators, answering = Moderators(), engine()
    app = create_app(
        {"rerail": answering, "calls": tools.engine()}, (*POLICIES, AGENT), loader=moderators
    )
    with running(Made(app, answering, moderators)) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(behind: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of LiteLLM's proxy."""
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(json.dumps(settings(behind.url)), encoding="utf-8")
    shutil.copy(ROOT / "examples" / "litellm" / "rerail_guardrail.py", folder)
    with contextlib.closing(listening("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    assert PROXY is not None
    command = [PROXY, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    # Nothing is asked of elsewhere: prices come along.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "RERAIL_KEY": "none", "PYTHONPATH": ""}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 400
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health/liveliness", timeout=5).status_code == 200:
                    break
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, (folder / "log").read_text(encoding="utf-8")
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def client(proxy: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{proxy}/v1", api_key="sk-litellm", max_retries=0, timeout=120
    ) as official:
        yield official


def ask(client: openai.OpenAI, model: str, text: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, **more)


def test_in_front_of_our_server(client: openai.OpenAI) -> None:
    found = {}
    for text in (PLAIN, WRAPPED, HOPELESS):
        reply = ask(client, "safe", text)
        (choice,) = reply.choices
        found[reply.rerail["outcome"]] = (choice.message.content, choice.finish_reason)
        assert choice.provider_specific_fields["rerail"]["outcome"] == reply.rerail["outcome"]
        assert reply.rerail["policy"]["name"] == "default"
    assert found == {
        "passed": (TULIPS, "stop"),
        "steered": (REFUSE, "stop"),
        "refused": ("I can't help with that.", "content_filter"),
    }
    strict = ask(client, "safe-strict", PLAIN)
    assert strict.rerail["policy"]["name"] == "strict"
    named = ask(client, "safe", PLAIN, extra_body={"policy": "strict"})
    assert named.rerail["policy"]["name"] == "strict"


def test_the_servers_request_id_comes_through(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="safe", messages=[{"role": "user", "content": PLAIN}]
    )
    assert raw.headers["llm_provider-x-request-id"] == raw.parse().id


@pytest.mark.parametrize(
    ("text", "said", "reason"),
    [(WRAPPED, REFUSE, "stop"), (HOPELESS, "I can't help with that.", "content_filter")],
)
def test_a_stream_in_front_of_our_server(
    client: openai.OpenAI, text: str, said: str, reason: str
) -> None:
    wanted: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(client, "safe", text, **wanted))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == said
    assert [c.finish_reason for c in choices if c.finish_reason] == [reason]
    assert chunks[-1].usage.total_tokens > 0


def test_what_our_server_refuses_keeps_its_status(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="no answer has the form"):
            ask(client, "agent", "no json", response_format={"type": "json_object"}, stream=stream)
    with pytest.raises(openai.BadRequestError, match="only 0 is possible"):
        ask(client, "safe", PLAIN, frequency_penalty=0.5)


def test_calls_in_front_of_our_server(client: openai.OpenAI) -> None:
    for choice in ("auto", "required", tools.NAMED):
        reply = ask(client, "agent", "call", tools=[tools.WEATHER], tool_choice=choice)
        (called,) = reply.choices[0].message.tool_calls
        assert json.loads(called.function.arguments) == {"city": "Paris"}


def test_behind_an_engine(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_KEY", "sk-litellm")
    for model, outcome in (("plain", Outcome.PASSED), ("bad", Outcome.REFUSED)):
        made: Any = load_engine(f"chat:{proxy}/v1?model={model}&api_key_env=LITELLM_KEY")
        response = aligner(made).align(PLAIN)
        assert response.outcome is outcome
        assert response.cost.prompt_tokens > 0
        made.close()


# The guardrail


def test_the_guardrail_lets_what_is_not_flagged_pass(client: openai.OpenAI, behind: Made) -> None:
    asked = "Are cut flowers thirsty?"
    assert ask(client, "guarded", asked).choices[0].message.content == TULIPS
    streamed = ask(client, "guarded", asked, stream=True)
    said = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    assert "".join(said) == TULIPS
    exchange = behind.moderators.fake.calls[-1][-1]
    assert (exchange.messages[-1].content, exchange.answer) == (asked, TULIPS)


@pytest.mark.parametrize("stream", [False, True])
def test_the_guardrail_holds_what_is_flagged(proxy: str, stream: bool) -> None:
    body = {"model": "guarded-bad", "messages": [{"role": "user", "content": "How?"}]}
    reply = httpx.post(
        f"{proxy}/v1/chat/completions",
        json={**body, "stream": stream},
        headers={"Authorization": "Bearer sk-litellm"},
        timeout=120,
    )
    assert reply.status_code == 400
    assert "flagged by rerail" in reply.text
    assert FLAGGED not in reply.text


def test_the_guardrail_fails_closed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="no verdict") as caught:
        ask(client, "unjudged", PLAIN)
    assert caught.value.status_code == 503


def test_the_guardrail_reads_calls(client: openai.OpenAI, behind: Made) -> None:
    reply = ask(client, "guarded-agent", "call", tools=[tools.WEATHER])
    assert reply.choices[0].finish_reason == "tool_calls"
    assert behind.moderators.fake.calls[-1][-1].answer == 'get_weather\n{"city": "Paris"}'

"""What Open WebUI's backend sends to an OpenAI connection, and what it reads of the replies.

Shapes are those of its routers and middleware; the words of its prompts are our own, at their size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rerail.engines import FakeEngine
from rerail.policy import Policy
from rerail.server.settings import ServerSettings
from tests.server import test_tools as tools
from tests.server.conftest import (
    HOPELESS,
    PLAIN,
    REFUSE,
    TULIPS,
    WRAPPED,
    Made,
    Make,
    Moderators,
    engine,
    until,
)

HEADERS = {
    "Authorization": "Bearer none",
    "X-OpenWebUI-User-Name": "Ada%20Lovelace",
    "X-OpenWebUI-User-Id": "6f1c",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c0ffee",
}
TASKS = {
    "title": {"max_completion_tokens": 1000},
    "tags": {},
    "follow_up": {},
    "query": {},
    "autocomplete": {},
    "emoji": {"max_completion_tokens": 4},
}
"""What a task's request has beside the model, its one message and ``stream: false``."""


class OpenWebUI:
    """The parts of its backend that speak to a connection."""

    def __init__(self, http: httpx.Client, model: str = "rerail") -> None:
        self.http = http
        self.model = model
        self.messages: list[dict[str, Any]] = []

    def models(self) -> list[str]:
        reply = self.http.get("/models", headers=HEADERS)
        return [model["id"] for model in reply.json()["data"]]

    def body(self, text: str, **params: Any) -> dict[str, Any]:
        turns = [*self.messages, {"role": "user", "content": text}]
        usage = {"stream_options": {"include_usage": True}}
        return {"stream": True, "model": self.model, "messages": turns, **usage, **params}

    def chat(self, text: str, **params: Any) -> dict[str, Any]:
        """Ask and read the stream as its middleware does; what it would keep of the answer."""
        found: dict[str, Any] = {"content": "", "reasoning": "", "calls": {}, "error": None}
        body = self.body(text, **params)
        with self.http.stream("POST", "/chat/completions", json=body, headers=HEADERS) as reply:
            if "text/event-stream" not in reply.headers["content-type"]:
                return {**found, "status": reply.status_code, "error": json.loads(reply.read())}
            for line in reply.iter_lines():
                if line.startswith("data:") and line != "data: [DONE]":
                    self._take(json.loads(line.removeprefix("data:")), found)
        answer = {"role": "assistant", "content": found["content"]}
        self.messages += [{"role": "user", "content": text}, answer]
        return found

    def _take(self, data: dict[str, Any], found: dict[str, Any]) -> None:
        found["error"] = data.get("error", found["error"])
        found["usage"] = data.get("usage") or found.get("usage")
        for choice in data.get("choices") or []:
            delta = choice.get("delta") or {}
            found["finish"] = choice.get("finish_reason") or found.get("finish")
            found["content"] += delta.get("content") or ""
            found["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                kept = found["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                kept["name"] = call["function"].get("name") or kept["name"]
                kept["arguments"] += call["function"].get("arguments") or ""

    def task(self, kind: str) -> Any:
        """A background task over the chat so far."""
        said = "\n".join(f"{m['role'].upper()}: {m['content']}" for m in self.messages)
        rules = "- Write one raw JSON object, and nothing before or after it.\n" * 60
        text = f"### Task:\n{kind}\n### Guidelines:\n{rules}### Chat History:\n{said}"
        messages = [{"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "stream": False, **TASKS[kind]}
        reply = self.http.post("/chat/completions", json=body, headers=HEADERS)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["message"]["content"]


@pytest.fixture
def ui(made: Made) -> Iterator[OpenWebUI]:
    with httpx.Client(base_url=f"{made.url}/v1", timeout=60) as http:
        yield OpenWebUI(http)


def test_a_chat_with_its_background_tasks(ui: OpenWebUI) -> None:
    assert ui.models() == ["rerail"]
    ui.messages = [{"role": "system", "content": "Be brief. Today is Monday."}]
    first = ui.chat(PLAIN)
    assert (first["content"], first["finish"], first["error"]) == (TULIPS, "stop", None)
    assert first["usage"]["total_tokens"] > 0
    steered = ui.chat(WRAPPED, temperature=0.7, top_p=0.9, seed=3, max_tokens=200, stop=["###"])
    assert (steered["content"], steered["finish"]) == (REFUSE, "stop")
    refused = ui.chat(HOPELESS, policy="small")  # as a custom parameter of the model's
    assert refused["content"] == "I can't help with that."
    assert refused["finish"] == "content_filter"
    assert ui.chat(PLAIN)["content"] == TULIPS
    for kind in TASKS:
        said = "Tulips like cold water," if kind == "emoji" else TULIPS  # in four tokens
        assert ui.task(kind) == said


def test_parts_of_a_message_and_a_cache_mark(ui: OpenWebUI) -> None:
    part = {"type": "text", "text": PLAIN, "cache_control": {"type": "ephemeral"}}
    ui.messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "Water."}]
    assert ui.chat("And tulips in a vase?", reasoning_effort="low")["content"] == TULIPS


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"frequency_penalty": 0.3}, "only 0 is possible"),
        ({"min_p": 0.1}, "unknown parameter"),
        ({"logit_bias": {"5": 1}}, "never forced or forbidden"),
    ],
)
def test_what_cannot_be_honoured_is_an_error_that_is_shown(
    ui: OpenWebUI, params: dict[str, Any], said: str
) -> None:
    found = ui.chat(PLAIN, **params)
    assert found["status"] == 400
    assert said in found["error"]["error"]["message"]


def test_a_picture_is_refused_by_what_it_is(ui: OpenWebUI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    ui.messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, picture]}]
    ui.messages.append({"role": "assistant", "content": "b"})
    assert "only text is judged" in ui.chat(PLAIN)["error"]["error"]["message"]


def test_stopping_an_answer_ends_its_work(serve: Make) -> None:
    settings = ServerSettings(keep_alive=0.03)
    made = serve(moderators=Moderators(delay=0.1), settings=settings)
    with httpx.Client(base_url=f"{made.url}/v1", timeout=60) as http:
        body = OpenWebUI(http).body(HOPELESS)
        with http.stream("POST", "/chat/completions", json=body, headers=HEADERS) as reply:
            next(reply.iter_bytes())
    (worker,) = made.service.workers.values()
    until(lambda: worker.open == 0, "the search is over")
    assert made.engine.generated < 100, "the budget was spent on nobody"


def test_reasoning_and_native_calls(serve: Make) -> None:
    shown = Policy(name="default", reasoning="show", tools="judge")
    thinking = serve(engine=engine(reasoning="Let me see."), policies=[shown])
    with httpx.Client(base_url=f"{thinking.url}/v1", timeout=60) as http:
        found = OpenWebUI(http).chat(PLAIN)
    assert (found["reasoning"], found["content"]) == ("Let me see.", TULIPS)
    calling = serve(engine=tools.engine(), policies=[shown])
    with httpx.Client(base_url=f"{calling.url}/v1", timeout=60) as http:
        client = OpenWebUI(http)
        (call,) = client.chat("call", tools=[tools.WEATHER])["calls"].values()
        assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Paris"})
        function = {"name": call["name"], "arguments": call["arguments"]}
        said = [{"index": 0, "id": "call_1", "type": "function", "function": function}]
        client.messages = [
            {"role": "user", "content": "call"},
            {"role": "assistant", "content": "", "tool_calls": said},
            {"role": "tool", "tool_call_id": "call_1", "content": "20 °C"},
        ]
        body = {**client.body("x", tools=[tools.WEATHER]), "messages": client.messages}
        reply = http.post("/chat/completions", json={**body, "stream": False}, headers=HEADERS)
    assert reply.json()["choices"][0]["message"]["content"] == "It is 20 °C."


def test_a_model_without_a_reply_in_time_is_told_as_an_error(serve: Make) -> None:
    made = serve(engine=FakeEngine(lambda *_: 1 / 0))  # type: ignore[arg-type,return-value]
    with httpx.Client(base_url=f"{made.url}/v1", timeout=60) as http:
        found = OpenWebUI(http).chat(PLAIN)
    assert found["status"] == 500
    assert found["error"]["error"]["code"] == "engine_failed"

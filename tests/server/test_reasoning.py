"""Reasoning stands beside the answer where the policy shows it, and is nowhere else."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rerail.engines import FakeEngine
from rerail.policy import Policy
from rerail.server.tracing import Tracing
from rerail.store import Store
from tests.server.conftest import (
    FLAGGED,
    HOPELESS,
    PLAIN,
    REFUSE,
    TULIPS,
    WRAPPED,
    Made,
    Make,
    chat,
    engine,
)

MARKER = "ZEBRA"
THOUGHTS = f"{MARKER}-crossing, they ask."
TOKENS = 2 + len(THOUGHTS.split())

POLICIES = [
    Policy.model_validate({"name": name, "budget": {"generations": 6}, **keys})
    for name, keys in {
        "default": {"record_text": True},
        "judges": {"record_text": True, "judge_reasoning": True},
        "shows": {"record_text": True, "reasoning": "show"},
        "unrecorded": {"reasoning": "show"},
        "hasty": {"record_text": True, "max_reasoning_tokens": 2},
        "audit": {"record_text": True, "audit": True, "on_moderator_error": "open"},
        "window": {"record_text": True, "release": "window"},
    }.items()
]


def post(made: Made, text: str, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    body = chat(text, **more)
    if path == "/v1/completions":
        body = {"model": "rerail", "prompt": text, **more}
    if path == "/v1/responses":
        body = {"model": "rerail", "input": text, **more}
    return httpx.post(f"{made.url}{path}", json=body, timeout=60)


def events(reply: httpx.Response) -> list[Any]:
    lines = re.findall(r"^data: (.*)$", reply.text, re.MULTILINE)
    return [json.loads(line) for line in lines if line != "[DONE]"]


def thinking(**options: Any) -> FakeEngine:
    return engine(reasoning=THOUGHTS, **options)


def test_withheld_reasoning_is_in_nothing_that_the_server_says_or_keeps(
    serve: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    store = Store.open(tmp_path / "records.sqlite")
    made = serve(engine=thinking(), policies=POLICIES, store=store, tracing=Tracing(provider))
    said = []
    for policy in ("default", "judges", "hasty", "audit", "window"):
        for text in (PLAIN, WRAPPED, HOPELESS):
            said.append(post(made, text, policy=policy))
        streamed = {"stream": True, "stream_options": {"include_progress": True}}
        said.append(post(made, WRAPPED, policy=policy, **streamed))
        said.append(post(made, WRAPPED, "/watch", policy=policy))
        said.append(post(made, WRAPPED, "/v1/completions", policy=policy))
        said.append(post(made, WRAPPED, "/v1/responses", policy=policy))
        said.append(post(made, WRAPPED, "/v1/responses", policy=policy, stream=True))
    for error in (RuntimeError(THOUGHTS), None):
        made.moderators.fake.error = error
        said.append(post(made, f"{PLAIN} {error is None}", policy="judges", n=2))
    made.engine.error = RuntimeError(THOUGHTS)
    said.append(post(made, PLAIN))
    made.engine.error = None
    assert {reply.status_code for reply in said} == {200, 500, 503}
    for path in ("/admin/interventions", "/metrics", "/ui/config", "/openapi.json"):
        said.append(httpx.get(f"{made.url}{path}"))
    assert "initial" in said[0].text
    assert not [reply.request.url for reply in said if MARKER in reply.text]
    ours = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx"))]
    assert MARKER not in "".join(r.getMessage() + str(r.exc_info) for r in ours)
    assert MARKER not in "".join(span.to_json() for span in exporter.get_finished_spans())
    assert MARKER not in repr(list(store.find()))
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("records.sqlite*"))
    assert MARKER.encode() not in kept
    assert REFUSE.encode() in kept


def test_an_answer_counts_its_reasoning_and_says_where_it_is_withheld(serve: Make) -> None:
    made = serve(engine=thinking(), policies=POLICIES)
    reply = post(made, PLAIN).json()
    assert reply["choices"][0]["message"] == {
        "role": "assistant", "content": TULIPS, "refusal": None,
    }  # fmt: skip
    usage = reply["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": TOKENS}
    assert usage["completion_tokens"] == TOKENS + len(TULIPS.split()) + 1
    assert reply["choices"][0]["rerail"]["reasoning_tokens"] == TOKENS
    refused = post(made, HOPELESS).json()
    assert refused["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    spent = post(made, PLAIN, policy="hasty").json()
    assert spent["choices"][0]["finish_reason"] == "content_filter"
    assert spent["choices"][0]["rerail"]["initial"]["unscored"].startswith("no answer")


def test_shown_reasoning_has_the_names_that_clients_know(serve: Make) -> None:
    made = serve(engine=thinking(), policies=POLICIES)
    for text, answer in ((PLAIN, TULIPS), (WRAPPED, REFUSE)):
        message = post(made, text, policy="shows").json()["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == (answer, THOUGHTS)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = events(post(made, text, policy="shows", **options))
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        assert "".join(d.get("reasoning_content", "") for d in deltas) == THOUGHTS
        assert "".join(d.get("content", "") for d in deltas) == answer
        names = [key for d in deltas for key in d if d[key] and key != "role"]
        assert names == sorted(names, reverse=True)  # all of the reasoning first
        assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": TOKENS}
    refused = post(made, HOPELESS, policy="shows").json()["choices"][0]["message"]
    assert "reasoning_content" not in refused
    watched = events(post(made, PLAIN, "/watch", policy="shows"))[-1]
    assert (watched["reasoning"], watched["reasoning_tokens"]) == (THOUGHTS, TOKENS)
    plain = serve(policies=POLICIES)
    message = post(plain, PLAIN, policy="shows").json()["choices"][0]["message"]
    assert "reasoning_content" not in message


def test_openais_client_reads_it(serve: Make) -> None:
    made = serve(engine=thinking(), policies=POLICIES)
    with OpenAI(base_url=f"{made.url}/v1", api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(
            model="rerail",
            messages=[{"role": "user", "content": PLAIN}],
            extra_body={"policy": "shows"},
        )
        message = reply.choices[0].message
        assert message.model_extra == {"reasoning_content": THOUGHTS}
        assert reply.usage is not None
        assert reply.usage.completion_tokens_details is not None
        assert reply.usage.completion_tokens_details.reasoning_tokens == TOKENS
        again = client.chat.completions.create(
            model="rerail",
            messages=[
                {"role": "user", "content": PLAIN},
                message.model_dump(),  # type: ignore[list-item]
                {"role": "user", "content": PLAIN},
            ],
        )
    assert again.choices[0].message.content == TULIPS


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_reasoning_that_is_sent_back_reaches_neither_model_nor_moderator(
    serve: Make, key: str
) -> None:
    made = serve(policies=POLICIES)
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello", key: THOUGHTS},
        {"role": "user", "content": PLAIN},
    ]
    reply = post(made, PLAIN, messages=turns)
    assert reply.status_code == 200, reply.text
    asked = [e for batch in made.moderators.fake.calls for e in batch]
    assert MARKER not in repr(asked)
    assert [m.content for m in asked[0].messages] == ["hi", "hello", PLAIN]


def test_records_hold_reasoning_where_it_is_shown_and_texts_are_recorded(
    serve: Make, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "records.sqlite")
    made = serve(engine=thinking(), policies=POLICIES, store=store)
    for policy in ("default", "shows", "unrecorded"):
        assert post(made, WRAPPED, policy=policy).status_code == 200
    found = httpx.get(f"{made.url}/admin/interventions").json()["interventions"]
    rows = {row["policy"]: row for row in found}
    assert rows["shows"]["reasoning"] == THOUGHTS
    assert rows["shows"]["final_answer"] == REFUSE
    assert rows["default"]["reasoning"] is None
    assert "reasoning" not in rows["unrecorded"]


def test_thoughts_that_are_flagged_leave_nowhere(serve: Make) -> None:
    made = serve(engine=engine(reasoning=f"{FLAGGED} {MARKER}"), policies=POLICIES)
    assert post(made, PLAIN).json()["choices"][0]["message"]["content"] == TULIPS
    for policy in ("shows", "judges"):
        reply = post(made, PLAIN, policy=policy)
        assert reply.json()["choices"][0]["finish_reason"] == "content_filter"
        assert MARKER not in reply.text

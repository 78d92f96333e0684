"""Streams under ``release: window``: what clients get, and what is kept of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt
from rerail.errors import PolicyError
from rerail.policy import Policy
from rerail.search import BEHIND
from rerail.server.app import create_app
from rerail.server.settings import ServerSettings
from rerail.store import Store
from rerail.types import FloatArray
from tests.server.conftest import FLAGGED, Made, Make, Moderators, chat, until

LONG = " ".join(f"w{i}" for i in range(90))
LATE = f"{LONG} and {FLAGGED} it is done"
REST = "but that is all."
POLICY = Policy.model_validate(
    {
        "name": "default",
        "release": "window",
        "lookahead": 10,
        "record_text": True,
        "budget": {"generations": 6},
        "naturalness_floor": -9.0,
    }
)


def answer(embedded: EmbeddedPrompt, point: FloatArray) -> str:
    words = embedded.prompt.messages[-1].content
    if "plain" in words:
        return LONG
    moved = (point != embedded.point).any()
    return REST if moved and "hopeless" not in words else LATE


@pytest.fixture
def served(serve: Make, tmp_path: Path) -> Made:
    return serve(
        engine=FakeEngine(answer, context_length=20_000),
        policies=[POLICY],
        store=Store.open(tmp_path / "records.sqlite"),
        settings=ServerSettings(record="all"),
    )


def chunks(made: Made, body: dict[str, Any], path: str = "chat/completions") -> list[Any]:
    with httpx.stream("POST", f"{made.url}/v1/{path}", json=body, timeout=60) as reply:
        assert reply.status_code == 200
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1] if not line.startswith(":")]


def said(found: list[Any], index: int = 0) -> list[str]:
    choices = [c for chunk in found for c in chunk["choices"] if c["index"] == index]
    texts = [c["delta"].get("content", "") if "delta" in c else c["text"] for c in choices]
    return [text for text in texts if text]


def records(made: Made) -> list[dict[str, Any]]:
    return httpx.get(f"{made.url}/admin/interventions").json()["interventions"]


def test_text_comes_before_the_answer_is_there(serve: Make) -> None:
    go, shown = threading.Event(), threading.Event()

    class Waits(FakeEngine):
        """Shows half of its answer, and waits until the client has some of it."""

        def generate_watched(self, requests: Any, sampling: Any, watch: Any) -> Any:
            def watched(places: Any, answers: Any) -> Any:
                stops = watch(places, answers)
                if len(answers[0].token_ids) > 40 and not shown.is_set():
                    shown.set()
                    assert go.wait(60), "no client had a piece"
                return stops

            return super().generate_watched(requests, sampling, watched)

    made = serve(engine=Waits(answer, context_length=20_000), policies=[POLICY])
    body = chat("plain please", stream=True)
    with httpx.stream("POST", f"{made.url}/v1/chat/completions", json=body, timeout=60) as reply:
        lines = (line for line in reply.iter_lines() if line.startswith("data: {"))
        begin, first = json.loads(next(lines)[6:]), json.loads(next(lines)[6:])
        assert begin["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert LONG.startswith(first["choices"][0]["delta"]["content"])
        assert not go.is_set()
        go.set()
        rest = [json.loads(line[6:]) for line in lines]
    assert "".join(said([first, *rest])) == LONG


def test_a_stream_is_the_answer_with_its_figures(served: Made) -> None:
    body = chat("plain please", stream=True, stream_options={"include_usage": True})
    found = chunks(served, body)
    assert "".join(said(found)) == LONG
    roles = [c for chunk in found for c in chunk["choices"] if "role" in c["delta"]]
    assert len(roles) == 1
    *_, end, usage = found
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["choices"][0]["rerail"]["sent_tokens"] > 50
    assert usage["usage"]["completion_tokens"] == 91
    assert len({chunk["created"] for chunk in found}) == 1


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_what_was_sent_stays_and_another_rest_follows(served: Made, path: str) -> None:
    whole = chat("late please", stream=True)
    if path == "completions":
        whole = {"model": "rerail", "prompt": "late please", "stream": True}
    found = chunks(served, whole, path)
    text = "".join(said(found))
    sent, _, rest = text.partition(f" {REST}")
    assert LONG.startswith(sent)
    assert len(sent.split()) > 40
    assert rest == ""
    assert FLAGGED not in text
    end = found[-1]["choices"][0]
    assert (end["finish_reason"], end["rerail"]["outcome"]) == ("stop", "steered")
    (record,) = records(served)
    assert record["final_answer"] == text
    assert record["sent_tokens"] == len(sent.split())


def test_a_stream_without_an_acceptable_rest_ends_with_the_message(served: Made) -> None:
    body = chat("hopeless please", stream=True, stream_options={"include_usage": True})
    found = chunks(served, body)
    text = "".join(said(found))
    sent, _, message = text.partition(BEHIND)
    assert LONG.startswith(sent)
    assert message == POLICY.refusal_message
    assert found[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert found[-1]["usage"]["completion_tokens"] == len(sent.split())
    (record,) = records(served)
    assert (record["outcome"], record["final_answer"]) == ("refused", text)


def test_choices_and_stops(served: Made) -> None:
    found = chunks(served, chat("plain please", stream=True, n=2, stop=["w40 w41"]))
    for index in (0, 1):
        assert "".join(said(found, index)) == " ".join(LONG.split()[:40]) + " "
    ends = [c["finish_reason"] for chunk in found for c in chunk["choices"] if c["finish_reason"]]
    assert ends == ["stop", "stop"]


def test_answers_that_are_no_streams_leave_whole(served: Made) -> None:
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=chat("late please"), timeout=60)
    assert reply.json()["choices"][0]["message"]["content"] == REST
    assert reply.json()["choices"][0]["rerail"]["sent_tokens"] == 0


def test_openais_client_reads_it(served: Made) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    stream = client.chat.completions.create(
        model="rerail", messages=[{"role": "user", "content": "plain please"}], stream=True
    )
    deltas: Iterator[str] = (c.choices[0].delta.content or "" for c in stream if c.choices)
    assert "".join(deltas) == LONG


def test_what_left_of_a_stream_that_was_cut_is_recorded(serve: Make, tmp_path: Path) -> None:
    made = serve(
        engine=FakeEngine(answer, context_length=20_000),
        moderators=Moderators(delay=0.2),
        policies=[POLICY],
        store=Store.open(tmp_path / "records.sqlite"),
    )
    body = chat("plain please", stream=True)
    with httpx.stream("POST", f"{made.url}/v1/chat/completions", json=body, timeout=60) as reply:
        pieces = said([next(json.loads(x[6:]) for x in reply.iter_lines() if '"w0' in x)])
    until(lambda: records(made), "the record of the stream that was cut")
    (record,) = records(made)
    assert record["stop_reason"] == "cancelled"
    assert record["final_answer"].startswith(pieces[0])
    assert LONG.startswith(record["final_answer"])
    assert record["final_answer"] != LONG
    assert record["sent_tokens"] == len(record["final_answer"].split())


def test_a_failure_behind_what_was_sent_is_the_last_event(serve: Make, tmp_path: Path) -> None:
    class Breaks(FakeEngine):
        def generate_watched(self, requests: Any, sampling: Any, watch: Any) -> Any:
            super().generate_watched(requests, sampling, watch)
            raise RuntimeError("cuda")

    made = serve(
        engine=Breaks(answer, context_length=20_000),
        policies=[POLICY],
        store=Store.open(tmp_path / "records.sqlite"),
    )
    found = chunks(made, chat("plain please", stream=True))
    assert LONG.startswith("".join(said([c for c in found if "choices" in c])))
    assert found[-1]["error"]["code"] == "engine_failed"
    (record,) = records(made)
    assert record["outcome"] == "error"
    assert record["final_answer"].endswith(BEHIND + POLICY.error_message)


def test_a_model_that_cannot_go_on_is_found_out_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(FakeEngine, "read")
    with pytest.raises(PolicyError, match="cannot go on with an answer"):
        create_app({"rerail": FakeEngine()}, [POLICY], loader=Moderators())

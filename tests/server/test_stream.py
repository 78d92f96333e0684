"""Text is held until it is accepted; whoever leaves takes the work along."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from rerail.panel import Panel
from rerail.policy import ACCEPT_BELOW
from rerail.server.answers import pieces
from rerail.server.settings import ServerSettings
from tests.server.conftest import (
    FLAGGED,
    HOPELESS,
    PLAIN,
    REFUSE,
    TULIPS,
    WRAPPED,
    Made,
    Make,
    Moderators,
    chat,
    until,
)


@pytest.fixture
def slow(serve: Make) -> Made:
    """Every round takes a moment, and signs of life come more often."""
    return serve(moderators=Moderators(delay=0.1), settings=ServerSettings(keep_alive=0.03))


def lines(made: Made, body: dict, path: str = "/v1/chat/completions") -> Iterator[str]:
    with httpx.stream("POST", f"{made.url}{path}", json=body, timeout=60) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield from (line for line in reply.iter_lines() if line)


def test_signs_of_life_come_first_and_say_nothing(slow: Made) -> None:
    said = list(lines(slow, chat(WRAPPED, stream=True)))
    comments = [line for line in said if line.startswith(":")]
    data = [line.removeprefix("data: ") for line in said if not line.startswith(":")]
    assert len(comments) >= 2
    assert said.index(comments[-1]) < said.index(f"data: {data[0]}")
    assert any('"generations": 1' in line for line in comments)
    assert data[-1] == "[DONE]"
    chunks = [json.loads(line) for line in data[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == REFUSE
    assert FLAGGED not in "\n".join(said)


def test_progress_events_come_to_those_who_ask(slow: Made) -> None:
    body = chat(WRAPPED, stream=True, stream_options={"include_progress": True})
    chunks = [
        json.loads(line.removeprefix("data: "))
        for line in lines(slow, body)
        if line.startswith("data: {")
    ]
    progress = [c["rerail"]["progress"] for c in chunks if not c["choices"]]
    assert progress
    assert [p["generations"] for p in progress] == sorted(p["generations"] for p in progress)
    assert progress[0]["least_harm"] == 2.0


def test_a_refusal_streams_the_policys_message(slow: Made) -> None:
    said = list(lines(slow, chat(HOPELESS, stream=True, policy="small")))
    chunks = [json.loads(x.removeprefix("data: ")) for x in said if x.startswith("data: {")]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "I can't help with that."
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert FLAGGED not in "\n".join(said)


def test_a_failure_at_once_has_a_status(serve: Make) -> None:
    made = serve(moderators=Moderators(error=RuntimeError("down")))
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=chat(stream=True))
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "5"
    assert TULIPS not in reply.text


def test_a_failure_later_is_the_streams_last_event(serve: Make) -> None:
    made = serve(
        moderators=Moderators(error=RuntimeError("down"), delay=0.3),
        settings=ServerSettings(keep_alive=0.05),
    )
    said = list(lines(made, chat(stream=True)))
    assert said[-1] == "data: [DONE]"
    error = json.loads(said[-2].removeprefix("data: "))["error"]
    assert error["code"] == "moderator_unavailable"
    assert TULIPS not in "\n".join(said)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_work_along(slow: Made, stream: bool) -> None:
    body = json.dumps(chat(HOPELESS, stream=stream)).encode()
    host, port = slow.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        until(lambda: slow.engine.generated >= 2, "the search is under way")
    (worker,) = slow.service.workers.values()
    until(lambda: worker.open == 0, "the search is over")
    spent = slow.engine.generated
    assert spent < 100, "the budget was spent on nobody"
    assert slow.metric("rerail_handed_back_total", reason="disconnected") == 1
    time.sleep(0.3)
    assert slow.engine.generated == spent


def test_pieces_are_the_text() -> None:
    for text in ("", "a", "one two  three\nfour five", TULIPS, "  lead and trail  "):
        assert "".join(pieces(text)) == text
    assert len(list(pieces(TULIPS))) > 2


# The page's view of a search


def test_watching_tells_everything_but_the_texts(slow: Made) -> None:
    events: list[tuple[str, dict]] = []
    name = ""
    said = list(lines(slow, chat(WRAPPED), "/watch"))
    for line in said:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append((name, json.loads(line.removeprefix("data: "))))
    assert [e for e, _ in events] == ["start"] + ["evaluation"] * (len(events) - 2) + ["response"]
    start, response = events[0][1], events[-1][1]
    assert start["thresholds"] == {"illicit": 0.5}
    assert start["accept_below"] == ACCEPT_BELOW
    assert start["policy"] == {k: response["policy"][k] for k in ("name", "version")}
    evaluations = [e for _, e in events[1:-1]]
    assert [e["index"] for e in evaluations] == list(range(response["cost"]["generations"]))
    first, last = evaluations[0], evaluations[-1]
    assert (first["origin"], first["xy"], first["flagged"]) == ("initial", [0.0, 0.0], True)
    assert first["harm"] == 2.0
    assert any(e["accepted"] for e in evaluations)
    assert last["origin"] == "fade"
    assert all(abs(x) + abs(y) > 0 for x, y in (e["xy"] for e in evaluations[1:]))
    assert response["text"] == REFUSE
    assert FLAGGED not in "\n".join(said)
    assert set(first) == {
        "index", "origin", "harm", "scores", "flagged", "unscored", "confirmed", "rejection",
        "accepted", "naturalness", "relevance", "tokens", "xy",
    }  # fmt: skip


def test_the_projection_is_of_the_mean_moved_row(made: Made) -> None:
    import numpy as np

    from rerail.align import Aligner, advance
    from rerail.moderators import FakeModerator
    from rerail.policy import Policy
    from rerail.server.routes.page import EvaluationEvents

    aligner = Aligner(made.engine, Panel(Policy(name="default"), FakeModerator(words=(FLAGGED,))))
    seen = []
    search = aligner.open(WRAPPED, observe=seen.append)
    while not search.done:
        advance([search])
    told = EvaluationEvents(made.engine.table)
    drawn = [told.document(evaluation)["xy"] for evaluation in seen]
    offset = seen[1].point - seen[0].point
    rows = offset.any(axis=1)
    axes = made.engine.table.principal_directions(2)
    expected = axes @ offset[rows].mean(axis=0) / made.engine.table.rms
    assert np.allclose(drawn[1], expected, atol=1e-5)


def test_a_watched_failure_is_an_event(serve: Make) -> None:
    made = serve(moderators=Moderators(error=RuntimeError("down")))
    said = list(lines(made, chat(), "/watch"))
    assert "event: error" in said
    assert TULIPS not in "\n".join(said)
    unknown = httpx.post(f"{made.url}/watch", json=chat(policy="nonsense"))
    assert unknown.status_code == 400


def test_many_streams_at_once(slow: Made) -> None:
    texts: list[str] = []

    def one(prompt: str) -> None:
        chunks = [
            json.loads(x.removeprefix("data: "))
            for x in lines(slow, chat(prompt, stream=True))
            if x.startswith("data: {")
        ]
        texts.append("".join(c["choices"][0]["delta"].get("content", "") for c in chunks))

    threads = [threading.Thread(target=one, args=(p,)) for p in (PLAIN, WRAPPED) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(texts) == sorted([TULIPS, REFUSE] * 4)

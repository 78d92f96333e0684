"""Whatever fails, nothing flagged leaves, no finished record is lost, and a restart serves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from rerail import store as store_module
from rerail.engines.base import EmbeddedPrompt
from rerail.errors import EngineError
from rerail.moderators import Moderator
from rerail.policy import Policy
from rerail.server import service as service_module
from rerail.server.settings import ServerSettings
from rerail.store import Store
from rerail.types import Exchange, Prompt, Score, Verdict
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
)


def post(made: Made, text: str = PLAIN, **more: object) -> httpx.Response:
    return httpx.post(f"{made.url}/v1/chat/completions", json=chat(text, **more), timeout=60)


def assert_no_text(reply: httpx.Response, status: int, code: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] == code
    for text in (TULIPS, REFUSE, FLAGGED):
        assert text not in reply.text


# The moderator


class Lying:
    """Gives another number of verdicts than was asked for, harmless ones at that."""

    name = "lying"
    categories = ("illicit",)

    def __init__(self, surplus: int) -> None:
        self.surplus = surplus

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        return [Score.of({"illicit": 0.0})] * (len(exchanges) + self.surplus)


def test_a_moderator_that_is_down_is_a_503(serve: Make) -> None:
    made = serve(moderators=Moderators(error=RuntimeError("down")))
    reply = post(made)
    assert_no_text(reply, 503, "moderator_unavailable")
    assert int(reply.headers["retry-after"]) > 0
    verdict = httpx.post(f"{made.url}/v1/moderations", json={"input": "a text"})
    assert verdict.status_code == 503
    made.moderators.fake.error = None
    assert post(made).status_code == 200


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_moderator_that_lies_about_length_is_not_believed(serve: Make, surplus: int) -> None:
    def load(policy: Policy) -> tuple[Moderator, None]:
        return Lying(surplus), None

    made = serve(moderators=load)
    assert_no_text(post(made), 503, "moderator_unavailable")
    verdicts = httpx.post(f"{made.url}/v1/moderations", json={"input": ["a", "b"]})
    assert verdicts.status_code == 503


def test_a_moderator_that_is_too_slow_is_down(serve: Make) -> None:
    policy = Policy(name="default", moderator_timeout=0.1)
    made = serve(moderators=Moderators(delay=1.0), policies=[policy])
    assert_no_text(post(made), 503, "moderator_unavailable")


def test_texts_are_judged_in_threads_of_their_own(make: Make) -> None:
    """So that moderators that hang cannot hold up the server's stop, which needs a thread, too."""
    service = make().service

    async def judged() -> list[Verdict]:
        release = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, release.wait, 60)
        exchanges = [Exchange((), TULIPS)]
        try:
            served = service.policies.get("default")
            return await asyncio.wait_for(service.moderated(served, exchanges), 20)
        finally:
            release.set()
            await busy

    (verdict,) = asyncio.run(judged())
    assert verdict.unscored is None


def test_under_an_audit_policy_an_unscored_answer_leaves_and_says_so(
    serve: Make, tmp_path: Path
) -> None:
    policy = Policy.model_validate({"name": "default", "audit": True, "on_moderator_error": "open"})
    made = serve(
        moderators=Moderators(error=RuntimeError("down")),
        policies=[policy],
        store=Store.open(tmp_path / "records.sqlite"),
    )
    reply = post(made).json()
    assert reply["choices"][0]["message"]["content"] == TULIPS
    assert reply["rerail"]["policy"]["audit"]
    assert reply["moderation"]["output"]["type"] == "error"
    (record,) = httpx.get(f"{made.url}/admin/interventions").json()["interventions"]
    assert record["audit"]


# The engine


@pytest.mark.parametrize("error", [EngineError("out of memory"), ValueError("quotes a prompt")])
def test_an_engine_that_raises_is_a_500_for_its_requests_only(
    serve: Make, error: Exception
) -> None:
    made = serve()
    made.engine.error = error
    reply = post(made)
    assert_no_text(reply, 500, "engine_failed")
    assert "quotes a prompt" not in reply.text
    made.engine.error = None
    assert post(made).json()["choices"][0]["message"]["content"] == TULIPS


def test_an_engine_that_cannot_embed_is_a_500_with_the_policys_message(
    serve: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(prompt: object) -> None:
        raise EngineError("no server was well")

    made = serve()
    monkeypatch.setattr(made.engine, "embed", fails)
    reply = post(made)
    assert_no_text(reply, 500, "engine_failed")
    assert reply.json()["error"]["message"] == Policy(name="default").error_message


# Deadlines and room


def test_a_deadline_ends_the_search_with_the_policys_message(serve: Make) -> None:
    made = serve(moderators=Moderators(delay=0.1))
    reply = post(made, HOPELESS, budget={"seconds": 0.25}).json()
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    assert reply["rerail"]["cost"]["generations"] < 200
    assert reply["choices"][0]["rerail"]["stop_reason"] == "budget"


def test_a_request_that_could_not_begin_is_handed_back_at_its_deadline(
    serve: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_OVERRUN", 1000.0)
    made = serve()
    go = threading.Event()
    embed = made.engine.embed

    def slowly(prompt: Prompt) -> EmbeddedPrompt:
        go.wait(60)
        return embed(prompt)

    monkeypatch.setattr(made.engine, "embed", slowly)
    try:
        reply = post(made, budget={"seconds": 0.2})
        assert_no_text(reply, 503, "server_deadline")
    finally:
        go.set()
    assert post(made).status_code == 200


def test_a_request_may_lower_the_budget_and_not_raise_it(serve: Make) -> None:
    made = serve()
    for asked, spent in ((3, 3), (100, 6)):
        reply = post(made, HOPELESS, policy="small", budget={"generations": asked}).json()
        assert reply["choices"][0]["finish_reason"] == "content_filter"
        assert reply["rerail"]["cost"]["generations"] == spent


def test_a_full_queue_is_a_429_with_retry_after(serve: Make) -> None:
    made = serve(
        moderators=Moderators(delay=0.3), settings=ServerSettings(max_open=1, max_waiting=2)
    )

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=made.url, timeout=60) as client:
            asks = (client.post("/v1/chat/completions", json=chat(HOPELESS, policy="small"))
                    for _ in range(8))  # fmt: skip
            return list(await asyncio.gather(*asks))

    replies = asyncio.run(flood())
    refused = [reply for reply in replies if reply.status_code == 429]
    answered = [reply for reply in replies if reply.status_code == 200]
    assert len(refused) + len(answered) == 8
    assert 4 <= len(refused) <= 6
    for reply in refused:
        assert_no_text(reply, 429, "server_full")
        assert int(reply.headers["retry-after"]) > 0


# The store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BUSY_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_an_intervention_that_cannot_be_recorded_does_not_leave(
    serve: Make, tmp_path: Path
) -> None:
    database = tmp_path / "records.sqlite"
    made = serve(store=Store.open(database))
    assert post(made, WRAPPED).status_code == 200
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        locked = post(made, WRAPPED)
        assert_no_text(locked, 503, "store_failed")
        assert "locked" in locked.json()["error"]["message"]
        assert int(locked.headers["retry-after"]) > 0
        assert post(made, PLAIN).status_code == 200  # leaves no record, needs no store
        changed = httpx.put(f"{made.url}/admin/policies/default", content="name: default\n")
        assert changed.status_code == 503
        other.execute("ROLLBACK")
    other.close()
    assert post(made, WRAPPED).status_code == 200
    assert made.metric("rerail_record_failures_total") == 1
    assert len(httpx.get(f"{made.url}/admin/interventions").json()["interventions"]) == 2


def test_a_full_disk_loses_no_finished_record(serve: Make, tmp_path: Path) -> None:
    import sqlalchemy as sa

    made_store = Store.open(tmp_path / "records.sqlite")
    made = serve(store=made_store)
    assert post(made, WRAPPED).status_code == 200

    def no_room(connection: sqlite3.Connection, _: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")

    made_store._engine.dispose()
    sa.event.listen(made_store._engine, "connect", no_room)
    long = f"{WRAPPED} {'word ' * 500}"
    statuses = [post(made, long, policy="recorded").status_code for _ in range(12)]
    assert 503 in statuses
    full = post(made, f"{WRAPPED} {'word ' * 4000}", policy="recorded")
    assert_no_text(full, 503, "store_failed")
    assert "disk is full" in full.json()["error"]["message"]
    found = httpx.get(f"{made.url}/admin/interventions?limit=1000").json()["interventions"]
    assert len(found) == 1 + statuses.count(200)


# The process: SIGTERM and SIGKILL amid 200 requests

POLICY = """
name: default
moderators: [{name: fake, options: {words: [sure], delay: 0.02}}]
"""
FAKE_COMPLY, FAKE_REFUSE = "Sure", "I can't help with that."
REQUESTS = 200


class Process:
    """``rerail serve`` as an operator starts it."""

    def __init__(self, folder: Path) -> None:
        policies = folder / "policies"
        policies.mkdir(exist_ok=True)
        (policies / "default.yaml").write_text(POLICY)
        self.database = folder / "records.sqlite"
        self.options = [
            "serve", "--model", "rerail=fake", "--policies", str(policies), "--store",
            str(self.database), "--max-open", "8", "--max-waiting", "400", "--grace", "20",
            "--log-level", "error",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        code = "from rerail.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *self.options, "--port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ.copy(),
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self.process.stderr.close()

    def recorded(self) -> set[str]:
        with Store.open(self.database) as store:
            return {record.item for record in store.find()}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.end()


async def struck(
    process: Process, which: signal.Signals, after: int
) -> list[httpx.Response | None]:
    """200 requests at once, and a signal once some are answered; None where there is no reply."""
    answered = 0

    async def one(client: httpx.AsyncClient, i: int) -> httpx.Response | None:
        nonlocal answered
        body = chat(f"Do thing number {i}", stream=i % 4 == 0)
        try:
            reply = await client.post("/v1/chat/completions", json=body)
        except httpx.TransportError:
            return None
        answered += 1
        if answered == after:
            process.process.send_signal(which)
        return reply

    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(base_url=process.url, timeout=90, limits=limits) as client:
        return list(await asyncio.gather(*(one(client, i) for i in range(REQUESTS))))


def check_replies(replies: Sequence[httpx.Response | None]) -> set[str]:
    """Nothing flagged; gives the ids of the answers."""
    ids = set()
    for reply in replies:
        if reply is None:
            continue
        assert FAKE_COMPLY not in reply.text
        if reply.status_code == 200 and '"finish_reason": "stop"' in reply.text.replace(
            '":"', '": "'
        ):
            assert FAKE_REFUSE.split()[0] in reply.text
            ids.add(reply.headers["x-request-id"])
    return ids


def test_sigterm_finishes_or_hands_back_every_request(process: Process) -> None:
    replies = asyncio.run(struck(process, signal.SIGTERM, after=20))
    ids = check_replies(replies)
    assert process.process.wait(60) in (0, -signal.SIGTERM)
    assert None not in replies, "a request was neither finished nor handed back"
    statuses = [reply.status_code for reply in replies if reply is not None]
    assert len(ids) >= 20
    assert set(statuses) <= {200, 503}
    for reply in replies:
        if reply is not None and reply.status_code == 503:
            assert reply.json()["error"]["code"] == "server_stopping"
            assert int(reply.headers["retry-after"]) > 0
    assert ids <= process.recorded()
    process.process.stderr.close()
    process.start()
    assert httpx.post(f"{process.url}/v1/chat/completions", json=chat("Go")).status_code == 200


def test_sigkill_loses_no_finished_record(process: Process) -> None:
    replies = asyncio.run(struck(process, signal.SIGKILL, after=60))
    ids = check_replies(replies)
    assert process.process.wait(60) == -signal.SIGKILL
    assert len(ids) >= 50
    assert None in replies
    assert ids <= process.recorded(), "an answer left whose record is lost"
    process.process.stderr.close()
    process.start()
    reply = httpx.post(f"{process.url}/v1/chat/completions", json=chat("Go")).json()
    assert reply["choices"][0]["message"]["content"] == FAKE_REFUSE
    assert ids | {reply["id"]} <= process.recorded()

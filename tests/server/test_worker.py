"""The queue and the lock-step rounds, without a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait

import pytest

from rerail.align import Aligner
from rerail.engines import Sampling
from rerail.engines.base import EmbeddedPrompt
from rerail.errors import PromptError, PromptTooLongError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.server import worker as module
from rerail.server.worker import HandedBackError, QueueFullError, SearchWorker, Ticket
from rerail.types import Outcome, Prompt
from tests.server.conftest import FLAGGED, HOPELESS, PLAIN, TULIPS, WRAPPED, engine, until


class Slow:
    """An engine whose embedding of some prompts takes until it is let go."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.go = threading.Event()
        embed = bench.engine.embed

        def slowly(prompt: Prompt) -> EmbeddedPrompt:
            text = prompt.messages[-1].content
            self.begun.append(text)
            if text.startswith("slow"):
                self.go.wait(30)
            return embed(prompt)

        monkeypatch.setattr(bench.engine, "embed", slowly)


class Bench:
    """A worker whose rounds wait until they are let go."""

    def __init__(self, max_open: int = 1, max_waiting: int = 100) -> None:
        self.engine = engine()
        self.moderator = FakeModerator(words=(FLAGGED,))
        self.aligner = Aligner(self.engine, Panel(Policy(name="default"), self.moderator))
        self.rounds: list[int] = []
        self.gate = threading.Event()
        self.worker = SearchWorker(
            "fake", max_open=max_open, max_waiting=max_waiting, on_round=self._on_round
        )

    def _on_round(self, size: int) -> None:
        self.rounds.append(size)
        self.gate.wait(30)

    def ticket(self, text: str = PLAIN, tenant: str = "a", seconds: float = 60, **more) -> Ticket:
        return Ticket(
            tenant, self.aligner, Prompt.of(text), Sampling(), 0, time.monotonic() + seconds, **more
        )

    def submit(self, *tickets: Ticket) -> None:
        self.worker.submit(tickets)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.gate.set()
    made.worker.stop()


def test_tenants_take_turns(bench: Bench) -> None:
    order: list[str] = []
    tickets = [bench.ticket(tenant="many") for _ in range(6)]
    tickets += [bench.ticket(tenant="few"), bench.ticket(tenant="few")]
    for ticket in tickets:
        name = ticket.tenant
        ticket.future.add_done_callback(lambda _, name=name: order.append(name))
        bench.submit(ticket)
    bench.gate.set()
    bench.worker.start()
    wait([ticket.future for ticket in tickets], 30)
    assert order == ["many", "few", "many", "few", "many", "many", "many", "many"]


def test_concurrent_searches_share_rounds_and_answer_as_if_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_GATHERING", 30.0)
    bench = Bench(max_open=16)
    bench.gate.set()
    tickets = [bench.ticket(text) for text in (PLAIN, WRAPPED) * 8]
    for ticket in tickets:
        bench.submit(ticket)
    bench.worker.start()
    try:
        together = [ticket.future.result(30).response for ticket in tickets]
    finally:
        bench.worker.stop()
    assert bench.rounds[0] == 16
    alone = [bench.aligner.align(text) for text in (PLAIN, WRAPPED)] * 8
    assert [r.text for r in together] == [r.text for r in alone]
    assert [r.seed for r in together] == [r.seed for r in alone]
    assert together[0].text == TULIPS


def test_the_queue_is_bounded_per_tenant() -> None:
    bench = Bench(max_waiting=3)
    for _ in range(3):
        bench.submit(bench.ticket(tenant="a"))
    with pytest.raises(QueueFullError, match="3 requests"):
        bench.submit(bench.ticket(tenant="a"))
    bench.submit(bench.ticket(tenant="b"))
    with pytest.raises(QueueFullError):  # all tickets of a request, or none
        bench.submit(*(bench.ticket(tenant="b") for _ in range(3)))
    assert bench.worker.waiting == 4
    bench.submit(*(bench.ticket(tenant="c") for _ in range(5)))


def test_a_ticket_whose_deadline_passed_in_the_queue_is_handed_back(bench: Bench) -> None:
    late = bench.ticket(seconds=0.0)
    bench.submit(late)
    bench.worker.start()
    with pytest.raises(HandedBackError, match="deadline"):
        late.future.result(30)
    assert bench.engine.embed_calls == 0


def test_a_cancelled_search_ends_with_its_round(bench: Bench) -> None:
    ticket = bench.ticket(HOPELESS)
    bench.submit(ticket)
    bench.worker.start()
    until(lambda: bench.rounds, "a first round")
    ticket.cancel()
    bench.gate.set()
    with pytest.raises(HandedBackError, match="left"):
        ticket.future.result(30)
    assert bench.engine.generated <= 2


def test_a_search_knows_at_once_that_it_is_cancelled(bench: Bench) -> None:
    ticket = bench.ticket(HOPELESS)
    bench.submit(ticket)
    bench.worker.start()
    until(lambda: bench.rounds, "a first round")
    ticket.cancel()
    assert ticket.search is not None
    assert ticket.search.done


def test_a_prompt_that_cannot_be_opened_leaves_the_others_alone(bench: Bench) -> None:
    bench.gate.set()
    long = bench.ticket("word " * 30_000)
    empty = bench.ticket("word " * 30_000)
    fine = bench.ticket(PLAIN)
    for ticket in (long, empty, fine):
        bench.submit(ticket)
    bench.worker.start()
    with pytest.raises(PromptTooLongError):
        long.future.result(30)
    assert fine.future.result(30).response.outcome is Outcome.PASSED
    with pytest.raises(PromptError):
        empty.future.result(30)


def test_stopping_finishes_what_is_open_and_hands_back_what_waits(bench: Bench) -> None:
    open_, waiting = bench.ticket(), bench.ticket()
    bench.submit(open_)
    bench.submit(waiting)
    bench.worker.start()
    until(lambda: bench.rounds, "a first round")
    stopper = threading.Thread(target=bench.worker.stop, args=(30,))
    stopper.start()
    with pytest.raises(HandedBackError, match="stopping"):
        waiting.future.result(30)
    with pytest.raises(HandedBackError):
        bench.submit(bench.ticket())
    bench.gate.set()
    assert open_.future.result(30).response.outcome is Outcome.PASSED
    stopper.join(30)


def test_what_does_not_finish_within_the_grace_is_handed_back(bench: Bench) -> None:
    stuck = bench.ticket(HOPELESS)
    bench.submit(stuck)
    bench.worker.start()
    until(lambda: bench.rounds, "a first round")
    bench.worker.stop(0.05)
    with pytest.raises(HandedBackError, match="stopping"):
        stuck.future.result(0)


def test_a_fault_in_a_round_is_told_to_all_and_the_worker_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.advance
    monkeypatch.setattr(module, "advance", lambda searches: 1 / 0)
    bench.gate.set()
    broken = bench.ticket()
    bench.submit(broken)
    bench.worker.start()
    with pytest.raises(ZeroDivisionError):
        broken.future.result(30)
    monkeypatch.setattr(module, "advance", real)
    fine = bench.ticket()
    bench.submit(fine)
    assert fine.future.result(30).response.text == TULIPS


def test_a_prompt_that_takes_long_to_open_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_open=8)
    bench.gate.set()
    slow = Slow(bench, monkeypatch)
    long = bench.ticket("slow tulips", tenant="a")
    bench.submit(long)
    bench.worker.start()
    try:
        until(lambda: slow.begun, "it is being opened")
        for _ in range(3):
            ticket = bench.ticket(WRAPPED, tenant="b")
            bench.submit(ticket)
            assert ticket.future.result(30).response.outcome is Outcome.STEERED
        assert not long.future.done()
        slow.go.set()
        assert long.future.result(30).response.text == TULIPS
    finally:
        slow.go.set()
        bench.worker.stop()


def test_prompts_are_opened_a_few_at_a_time_and_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_open=64)
    bench.gate.set()
    slow = Slow(bench, monkeypatch)
    many = [bench.ticket(f"slow {i}", tenant="many") for i in range(20)]
    few = bench.ticket(PLAIN, tenant="few")
    for ticket in (*many, few):
        bench.submit(ticket)
    bench.worker.start()
    try:
        until(lambda: bench.worker.open == module._OPENERS, "as many as there are openers")
        until(lambda: len(slow.begun) >= module._OPENERS - 1, "they are being opened")
        slow.go.set()
        assert few.future.result(30).response.text == TULIPS
        assert slow.begun.index(PLAIN) <= module._OPENERS
        wait([ticket.future for ticket in many], 30)
    finally:
        slow.go.set()
        bench.worker.stop()


def test_a_search_that_is_cancelled_while_it_is_opened_generates_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(bench, monkeypatch)
    bench.gate.set()
    ticket = bench.ticket("slow")
    bench.submit(ticket)
    bench.worker.start()
    until(lambda: slow.begun, "it is being opened")
    ticket.cancel()
    slow.go.set()
    with pytest.raises(HandedBackError, match="left"):
        ticket.future.result(30)
    assert bench.engine.generated == 0


def test_what_is_still_being_opened_at_the_stop_is_handed_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(bench, monkeypatch)
    ticket = bench.ticket("slow")
    bench.submit(ticket)
    bench.worker.start()
    until(lambda: slow.begun, "it is being opened")
    bench.worker.stop(0.05)
    with pytest.raises(HandedBackError, match="stopping"):
        ticket.future.result(0)
    slow.go.set()
    until(lambda: not any(t.is_alive() for t in bench.worker._threads), "all threads end")
    assert bench.engine.generated == 0

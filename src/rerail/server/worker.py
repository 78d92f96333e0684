"""One thread per model advances the open searches in lock-step; a few others open new ones.

Requests of all tenants wait in queues of their own and are let in one tenant after the other, as
an opener is free: rendering, tokenising and embedding a long prompt holds up the rounds of nobody,
and of those who wait it holds up few. So `Aligner.open` is called from several threads, also while
the engine generates. Every ticket that was handed in is answered: with a response, or with the
reason why there is none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass

from rerail.align import Aligner
from rerail.engines.base import Sampling
from rerail.errors import PromptError
from rerail.panel import Panel
from rerail.search import Search, advance
from rerail.server.errors import place
from rerail.types import Evaluation, Prompt, Response
from rerail.window import Release

log = logging.getLogger("rerail.server")

_OPENERS = 2
"""Threads that open searches. More gain nothing: they take turns with the tokenizer."""

_GATHERING = 0.05
"""Seconds that a round waits at most for searches that are being opened, so as to share it."""


class QueueFullError(Exception):
    """The tenant has as many searches waiting as it may."""


class HandedBackError(Exception):
    """The search was not finished: the deadline passed, the client left, or the server stops."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A response and what the search knows besides.

    Attributes:
        response: what leaves.
        panel: that judged it.
        prompt_tokens: of the unmoved prompt.
        waited: seconds before the search was begun.
    """

    response: Response
    panel: Panel
    prompt_tokens: int
    waited: float


@dataclass(eq=False)
class Ticket:
    """One search that was asked for.

    Attributes:
        tenant: on whose behalf.
        aligner: under which policy, by which model.
        prompt: what is to be answered.
        sampling: how answers are drawn.
        seed: of the search.
        deadline: on the clock of `time.monotonic`.
        generations: answers generated at most; None leaves it to the policy.
        observe: called from the worker's thread with every evaluation.
        release: called from there with each piece that leaves before the rest is there.
    """

    tenant: str
    aligner: Aligner
    prompt: Prompt
    sampling: Sampling
    seed: int
    deadline: float
    generations: int | None = None
    observe: Callable[[Evaluation], None] | None = None
    release: Release | None = None

    def __post_init__(self) -> None:
        self.future: Future[Finished] = Future()
        self.arrived = time.monotonic()
        self.began = self.arrived
        self.search: Search | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Nobody wants the answer any more: the search ends with its current round."""
        self.cancelled = True
        if self.search is not None:
            self.search.cancel()

    def resolve(self, result: Finished | BaseException) -> None:
        """Answer; whoever waited may have left."""
        try:
            if isinstance(result, Finished):
                self.future.set_result(result)
            else:
                self.future.set_exception(result)
        except InvalidStateError:
            pass


class SearchWorker:
    """The open searches of one model.

    Args:
        name: of the model.
        max_open: searches in lock-step.
        max_waiting: searches of one tenant that may wait.
        on_round: told the number of searches after every round.
    """

    def __init__(
        self,
        name: str,
        *,
        max_open: int,
        max_waiting: int,
        on_round: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self._max_open = max_open
        self._max_waiting = max_waiting
        self._on_round = on_round
        self._wake = threading.Condition()
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._open: list[Ticket] = []
        self._draining = False
        self._stopped = False
        self._threads = [
            threading.Thread(target=work, name=f"searches-{name}", daemon=True)
            for work in (self._run, *[self._open_searches] * _OPENERS)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads) and not self._draining

    @property
    def waiting(self) -> int:
        """Searches that wait for a place."""
        with self._wake:
            return sum(len(queue) for queue in self._waiting.values())

    @property
    def open(self) -> int:
        """Searches in the round, or about to be."""
        return len(self._open)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Take all tickets of one request, or none.

        Raises:
            QueueFullError: the tenant has no room for them.
            HandedBackError: the server stops.
        """
        tenant = tickets[0].tenant
        with self._wake:
            if self._draining or self._stopped:
                raise HandedBackError("the server is stopping")
            waiting = self._waiting.get(tenant, ())
            queue = self._waiting[tenant] = deque(t for t in waiting if not t.cancelled)
            # A request larger than the queue is let in where nothing waits: else it never could be.
            if queue and len(queue) + len(tickets) > self._max_waiting:
                raise QueueFullError(f"{len(queue)} requests are waiting already")
            queue.extend(tickets)
            self._wake.notify_all()

    def drain(self) -> None:
        """Take nothing more, hand back what waits, finish what is open."""
        with self._wake:
            self._draining = True
            handed_back = [ticket for queue in self._waiting.values() for ticket in queue]
            self._waiting.clear()
            self._wake.notify_all()
        self._hand_back(handed_back)

    def stop(self, seconds: float = 0.0) -> None:
        """Drain, wait for what is open, then hand back the rest."""
        self.drain()
        deadline = time.monotonic() + seconds
        with self._wake:
            while self._open and (left := deadline - time.monotonic()) > 0:
                self._wake.wait(left)
            self._stopped = True
            self._wake.notify_all()
            left_over = list(self._open)
        # The worker may be in a round that takes long; it finds these answered.
        self._hand_back(left_over)

    def _hand_back(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            ticket.resolve(HandedBackError("the server is stopping"))

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopped or self._begun())
                self._wake.wait_for(lambda: self._stopped or not self._opening(), _GATHERING)
                if self._stopped:
                    self._hand_back(self._open)
                    return
                tickets = self._begun()
            self._round(tickets)

    def _begun(self) -> list[Ticket]:
        return [ticket for ticket in self._open if ticket.search is not None]

    def _opening(self) -> bool:
        """Whether a search is being opened, or about to be."""
        return self._has_room() or any(ticket.search is None for ticket in self._open)

    def _has_room(self) -> bool:
        """Whether something waits for which there is a place."""
        return bool(self._waiting) and len(self._open) < self._max_open

    def _open_searches(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopped or self._has_room())
                if self._stopped:
                    return
                ticket = self._admit()
            self._begin(ticket)
            self._forget_finished()

    def _admit(self) -> Ticket:
        """Give a free place away, to one tenant after the other."""
        tenant, queue = next(iter(self._waiting.items()))
        ticket = queue.popleft()
        self._open.append(ticket)
        if queue:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return ticket

    def _forget_finished(self) -> None:
        with self._wake:
            self._open = [ticket for ticket in self._open if not ticket.future.done()]
            self._wake.notify_all()

    def _begin(self, ticket: Ticket) -> None:
        ticket.began = time.monotonic()
        left = ticket.deadline - ticket.began
        if ticket.cancelled:
            ticket.resolve(HandedBackError("the client has left"))
        elif left <= 0:
            ticket.resolve(HandedBackError("the deadline passed while the request was waiting"))
        else:
            try:
                ticket.search = ticket.aligner.open(
                    ticket.prompt,
                    sampling=ticket.sampling,
                    seed=ticket.seed,
                    seconds=left,
                    generations=ticket.generations,
                    observe=ticket.observe,
                    release=ticket.release,
                )
            except Exception as error:
                if not isinstance(error, PromptError):
                    log.error("%s: a prompt could not be opened: %s", self.name, place(error))
                ticket.resolve(error)

    def _round(self, tickets: Sequence[Ticket]) -> None:
        searches = [ticket.search for ticket in tickets if ticket.search is not None]
        for ticket, search in zip(tickets, searches, strict=True):
            if ticket.cancelled:
                search.cancel()
        try:
            advance([search for search in searches if not search.done])
        except Exception as error:
            # A fault of ours; the searches may be in any state, so that none of them goes on.
            log.error("%s: the round failed: %s", self.name, place(error))
            for ticket in tickets:
                ticket.resolve(error)
        if self._on_round is not None:
            self._on_round(len(searches))
        for ticket, search in zip(tickets, searches, strict=True):
            if search.done:
                self._finish(ticket)
        self._forget_finished()

    def _finish(self, ticket: Ticket) -> None:
        assert ticket.search is not None
        if ticket.cancelled:
            ticket.resolve(HandedBackError("the client has left"))
            return
        try:
            answered = Finished(
                ticket.search.response(),
                ticket.search.panel,
                ticket.search.prompt_tokens,
                ticket.began - ticket.arrived,
            )
        except Exception as error:
            log.error("%s: no response: %s", self.name, place(error))
            ticket.resolve(error)
        else:
            ticket.resolve(answered)

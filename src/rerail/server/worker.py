"""One thread per model keeps the open searches and advances them in lock-step.

Requests of all tenants wait in queues of their own and are let in one tenant after the other.
Every ticket that was handed in is answered: with a response, or with the reason why there is none.
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

log = logging.getLogger("rerail.server")


class QueueFullError(Exception):
    """The tenant has as many searches waiting as it may."""


class HandedBackError(Exception):
    """The search was not finished: the deadline passed, the client left, or the server stops."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A response and what the search knows besides.

    Attributes:
        response: what leaves.
        panel: that judged it.
        prompt_tokens: rows of the unmoved prompt.
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
    """

    tenant: str
    aligner: Aligner
    prompt: Prompt
    sampling: Sampling
    seed: int
    deadline: float
    generations: int | None = None
    observe: Callable[[Evaluation], None] | None = None

    def __post_init__(self) -> None:
        self.future: Future[Answered] = Future()
        self.arrived = time.monotonic()
        self.began = self.arrived
        self.search: Search | None = None
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Nobody wants the answer any more: the search ends with its current round."""
        self._cancelled = True
        if self.search is not None:
            self.search.cancel()

    def resolve(self, result: Answered | BaseException) -> None:
        """Answer; whoever waited may have left."""
        try:
            if isinstance(result, Answered):
                self.future.set_result(result)
            else:
                self.future.set_exception(result)
        except InvalidStateError:
            pass


class Worker:
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
        self._thread = threading.Thread(target=self._run, name=f"searches-{name}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._draining

    @property
    def waiting(self) -> int:
        """Searches that wait for a place."""
        with self._wake:
            return sum(len(queue) for queue in self._waiting.values())

    @property
    def open(self) -> int:
        """Searches in the round."""
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
            self._wake.notify()

    def drain(self) -> None:
        """Take nothing more, hand back what waits, finish what is open."""
        with self._wake:
            self._draining = True
            handed_back = [ticket for queue in self._waiting.values() for ticket in queue]
            self._waiting.clear()
            self._wake.notify()
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
                while not (self._open or self._waiting or self._stopped):
                    self._wake.wait()
                if self._stopped:
                    self._hand_back(self._open)
                    return
                self._admit()
            for ticket in self._open:
                if ticket.search is None:
                    self._begin(ticket)
            self._round()

    def _admit(self) -> None:
        """Give the free places away, one tenant after the other."""
        while self._waiting and len(self._open) < self._max_open:
            tenant, queue = next(iter(self._waiting.items()))
            self._open.append(queue.popleft())
            if queue:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]

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
                )
            except Exception as error:
                self._refused(ticket, error)

    def _refused(self, ticket: Ticket, error: Exception) -> None:
        if not isinstance(error, PromptError):
            log.error("%s: a prompt could not be opened: %s", self.name, place(error))
        ticket.resolve(error)

    def _round(self) -> None:
        searches = []
        for ticket in self._open:
            if ticket.search is not None:
                if ticket.cancelled:
                    ticket.search.cancel()
                searches.append(ticket.search)
        try:
            advance([search for search in searches if not search.done])
        except Exception as error:
            # A fault of ours; the searches may be in any state, so that none of them goes on.
            log.error("%s: the round failed: %s", self.name, place(error))
            for ticket in self._open:
                ticket.resolve(error)
        if self._on_round is not None and searches:
            self._on_round(len(searches))
        for ticket in self._open:
            if ticket.search is not None and ticket.search.done:
                self._finish(ticket)
        with self._wake:
            self._open = [ticket for ticket in self._open if not ticket.future.done()]
            self._wake.notify_all()

    def _finish(self, ticket: Ticket) -> None:
        assert ticket.search is not None
        if ticket.cancelled:
            ticket.resolve(HandedBackError("the client has left"))
            return
        try:
            answered = Answered(
                ticket.search.response(),
                ticket.search.panel,
                len(ticket.search.embedded.token_ids),
                ticket.began - ticket.arrived,
            )
        except Exception as error:
            log.error("%s: no response: %s", self.name, place(error))
            ticket.resolve(error)
        else:
            ticket.resolve(answered)

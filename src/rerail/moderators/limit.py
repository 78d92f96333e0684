"""Whatever a moderator does, the answer is one verdict per exchange: a failure is unscored."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from rerail.moderators.base import Moderator
from rerail.moderators.stats import Stats, counters
from rerail.types import EMPTY_ANSWER, Exchange, Message, Score


class TimeLimited:
    """A moderator that never raises, never hangs and never leaves a verdict half given.

    An answer without text is unscored and not sent. An exception, a batch that takes longer than
    ``timeout``, a wrong number of verdicts, anything that is not a `Score`, and a verdict that
    lacks a category are unscored, with the cause. A batch of several conversations that gives an
    exception or a wrong number of verdicts is asked for again, each conversation by itself: one
    that the moderator cannot judge does not take the others along.

    Args:
        moderator: what is asked.
        timeout: seconds for one batch, what is asked again included. A call that exceeds it is
            left to itself in a daemon thread: Python cannot end it.
    """

    def __init__(self, moderator: Moderator, timeout: float) -> None:
        self._moderator = moderator
        self._timeout = timeout
        self.name = moderator.name
        self.categories = moderator.categories

    def stats(self) -> dict[str, Stats]:
        """What the moderator counts, by name."""
        return counters(self._moderator)

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange, in order."""
        asked = [exchange for exchange in exchanges if exchange.answer.strip()]
        verdicts = iter(self._ask(asked) if asked else [])
        return [
            next(verdicts) if exchange.answer.strip() else Score.unscored(EMPTY_ANSWER)
            for exchange in exchanges
        ]

    def _ask(self, exchanges: list[Exchange]) -> list[Score]:
        end = time.monotonic() + self._timeout
        verdicts = self._call(exchanges, end)
        conversations: dict[tuple[Message, ...], list[int]] = {}
        for i, exchange in enumerate(exchanges):
            conversations.setdefault(exchange.messages, []).append(i)
        if isinstance(verdicts, list) or len(conversations) == 1:
            return self._given(verdicts, exchanges)
        found: dict[int, Score] = {}
        for places in conversations.values():
            own = [exchanges[i] for i in places]
            # Once the time is spent, what failed first is the cause.
            again = self._call(own, end) if time.monotonic() < end else verdicts
            found |= zip(places, self._given(again, own), strict=True)
        return [found[i] for i in range(len(exchanges))]

    def _given(self, verdicts: list[Score] | str, exchanges: list[Exchange]) -> list[Score]:
        """One verdict per exchange, from as many or from the cause why there are none."""
        if isinstance(verdicts, list):
            return verdicts
        return [Score.unscored(f"{self.name}: {verdicts}")] * len(exchanges)

    def _call(self, exchanges: list[Exchange], end: float) -> list[Score] | str:
        """One verdict per exchange, or why there are none."""
        reply: queue.SimpleQueue[object] = queue.SimpleQueue()

        def call() -> None:
            try:
                reply.put(self._moderator.score(exchanges))
            except Exception as error:
                reply.put(error)

        try:
            threading.Thread(target=call, daemon=True, name=f"moderator-{self.name}").start()
        except RuntimeError:
            return "no thread is left to ask it in"
        try:
            verdicts = reply.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return f"no verdict within {self._timeout:g} s"
        if isinstance(verdicts, Exception):
            # The message may quote the text that was judged: only the type is kept.
            return f"raised {type(verdicts).__name__}"
        if not isinstance(verdicts, list | tuple) or len(verdicts) != len(exchanges):
            return f"gave no list of {len(exchanges)} verdicts"
        return [self._checked(verdict) for verdict in verdicts]

    def _checked(self, verdict: object) -> Score:
        if not isinstance(verdict, Score):
            return Score.unscored(f"{self.name}: gave a {type(verdict).__name__}, not a Score")
        missing = [c for c in self.categories if c not in verdict.categories]
        if verdict.scored and missing:
            return Score.unscored(f"{self.name}: no score for {', '.join(missing)}")
        return verdict

"""Server-sent events: signs of life while a search runs, text once it may leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rerail.server.errors import of_ours
from rerail.types import Evaluation

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class ClientGoneError(Exception):
    """Nobody is there to read the answer."""


def event(document: Any, name: str | None = None) -> bytes:
    """One event; JSON has no line breaks of its own."""
    head = f"event: {name}\n" if name else ""
    data = json.dumps(document, ensure_ascii=False, allow_nan=False)
    return f"{head}data: {data}\n\n".encode()


def comment(text: str) -> bytes:
    """A line that every client skips."""
    return f": {text}\n\n".encode()


class Piece(NamedTuple):
    """Some text that leaves before the rest of the answer is there.

    Attributes:
        choice: the place of the answer among those of its request.
        text: what leaves.
    """

    choice: int
    text: str


class Feed:
    """What comes from a worker's thread to the event loop, in order; nothing is lost.

    Attributes:
        begun: set once a piece of text is there.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._there: list[Evaluation | Piece] = []
        self._news = asyncio.Event()
        self.begun = asyncio.Event()

    def put(self, one: Evaluation | Piece) -> None:
        """From any thread; a loop that is closed needs nothing more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._add, one)

    def release(self, choice: int, text: str) -> None:
        """A piece of text, from any thread."""
        self.put(Piece(choice, text))

    def _add(self, one: Evaluation | Piece) -> None:
        self._there.append(one)
        self._news.set()
        if isinstance(one, Piece):
            self.begun.set()

    async def until(
        self, work: asyncio.Future[Any], seconds: float
    ) -> AsyncIterator[list[Evaluation | Piece]]:
        """What came, as it comes, until the work is done; an empty list every so many seconds."""
        while True:
            news = asyncio.ensure_future(self._news.wait())
            try:
                wanted = {work, news}
                await asyncio.wait(wanted, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
            done = work.done()
            found, self._there = self._there, []
            self._news.clear()
            if found or not done:
                yield found
            if done:
                return


class Progress:
    """How far a search is, without a word of its answers."""

    def __init__(self) -> None:
        self.generations = 0
        self.least_harm: float | None = None

    def add(self, evaluation: Evaluation) -> None:
        """Count one evaluation."""
        self.generations += 1
        if math.isfinite(evaluation.harm):
            known = self.least_harm
            self.least_harm = evaluation.harm if known is None else min(known, evaluation.harm)

    def document(self) -> dict[str, Any]:
        """Its JSON form."""
        return {"generations": self.generations, "least_harm": self.least_harm}


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled if the client leaves.

    Raises:
        ClientGoneError: it has left.
    """
    task = asyncio.ensure_future(work)
    try:
        await quickly(request, task, None)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def held_back(
    work: asyncio.Future[Any],
    feed: Feed,
    keep_alive: float,
    piece_events: Callable[[Piece], Iterable[bytes]],
    progress_event: Callable[[Progress], bytes] | None,
) -> AsyncIterator[bytes]:
    """Until the work is done: the pieces that leave before, and signs of life beside them.

    Args:
        work: what is waited for.
        feed: has what came of it.
        keep_alive: seconds between signs of life at most.
        piece_events: events of a piece.
        progress_event: event of progress, if it is wanted; else there is a comment.
    """
    progress = Progress()
    async for found in feed.until(work, keep_alive):
        for one in found:
            if isinstance(one, Piece):
                for told in piece_events(one):
                    yield told
            else:
                progress.add(one)
        if found and all(isinstance(one, Piece) for one in found):
            continue
        if found and progress_event is not None:
            yield progress_event(progress)
        else:
            yield comment(f"rerail {json.dumps(progress.document())}")


def failure(error: BaseException) -> dict[str, Any]:
    """The last event of a stream that cannot go on."""
    assert isinstance(error, Exception)
    return of_ours(error).body()


class EventStream(StreamingResponse):
    """A stream that takes its work with it when the client leaves.

    Args:
        content: the events.
        work: what produces them.
    """

    def __init__(self, content: AsyncIterator[bytes], work: asyncio.Future[Any]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)


async def quickly(
    request: Request,
    work: asyncio.Future[Any],
    seconds: float | None,
    begun: asyncio.Event | None = None,
) -> None:
    """Wait a moment for the work, so that what fails at once has a status of its own.

    Args:
        request: of a client that may leave.
        work: what is done for it.
        seconds: to wait; None: until the work is done.
        begun: ends the wait, once it is set.

    Raises:
        ClientGoneError: the client left meanwhile; the work is cancelled.
        Exception: what the work raised.
    """
    left = asyncio.ensure_future(_disconnected(request.receive))
    early = asyncio.ensure_future((begun or asyncio.Event()).wait())
    try:
        wanted = {work, left, early}
        await asyncio.wait(wanted, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if left.done() and not work.done():
            work.cancel()
            raise ClientGoneError
        if work.done() and (error := work.exception()) is not None:
            raise error
    finally:
        left.cancel()
        early.cancel()
        await asyncio.gather(left, early, return_exceptions=True)


def replayed(receive: Receive, first: Iterable[Any]) -> Receive:
    """A ``receive`` that begins with messages that were read already."""
    waiting = list(first)

    async def again() -> Any:
        return waiting.pop(0) if waiting else await receive()

    return again

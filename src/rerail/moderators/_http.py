"""What every moderation service shares: asked in time, with patience, and never guessed.

A service says three things: its taxonomy, the body of a request, and where the scores stand in a
reply. All else is done here, for all of them alike:

- exchanges are cut into pieces and batches within the service's limits, and asked concurrently;
- ``Retry-After`` and ``x-ratelimit-*`` headers are obeyed, by all requests of the moderator;
- what may pass (connection, time, 408, 425, 429, 5xx) is retried with jitter, within one deadline
  for the whole call; 401 and 403 never are;
- a batch that is refused (400, 413, 422) is halved, so that one text does not cost the others
  their verdicts; a single text is not sent again;
- after failures in a row the service is left alone for a while, then probed with one request;
- whatever does not end in a full set of numbers in [0, 1] is unscored, with a cause that quotes
  neither a text nor a key.

`score` is synchronous: the connections live on an event loop of the moderator's own, in a thread
that `close` ends.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields, replace
from inspect import signature
from typing import Any, ClassVar, Self, TypedDict, TypeVar, Unpack

from rerail._batches import grouped
from rerail._http import rate_limit_pause
from rerail.errors import ModeratorError
from rerail.moderators._wire import Breaker, ServiceError, failure_of
from rerail.moderators.stats import Stats
from rerail.moderators.taxonomy import Taxonomy
from rerail.names import nearest
from rerail.types import EMPTY_ANSWER, Exchange, Score

T = TypeVar("T")

_LONGEST_REPLY = 8 << 20
_LONGEST_PAUSE = 60.0
_LEAST_CHARS = 100
_GRACE = 5.0


class ModeratorWarning(UserWarning):
    """A moderator works, but not as well or not as long as its user may think."""


def warn(message: str) -> None:
    """Say something once about a moderator that is being made."""
    warnings.warn(message, ModeratorWarning, stacklevel=3)


class Options(TypedDict, total=False):
    """Options that every service takes, with the meaning of the fields of `Settings`."""

    include_prompt: bool
    map: Mapping[str, str | None] | None
    batch_size: int
    batch_chars: int
    max_chars: int
    concurrency: int
    deadline: float
    timeout: float
    attempts: int
    backoff: float
    breaker_failures: int
    breaker_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a service is asked.

    Attributes:
        include_prompt: whether the last user turn is sent with the answer.
        map: changes to the taxonomy: their name to our category, or to null to leave it out.
        batch_size: texts in one request, at most.
        batch_chars: characters in one request, at most.
        max_chars: characters in one text; a longer answer is sent in pieces that overlap by a
            twentieth, and the largest score of a category counts.
        concurrency: requests under way at the same time, at most.
        deadline: seconds for one call of `score`, retries and pauses included.
        timeout: seconds for one request.
        attempts: requests for one batch, the first included.
        backoff: seconds before the first retry, doubled each time; jitter takes up to half off.
        breaker_failures: batches failed in a row after which the service is left alone.
        breaker_seconds: seconds that it is left alone.
    """

    include_prompt: bool = False
    map: Mapping[str, str | None] | None = None
    batch_size: int = 1
    batch_chars: int = 100_000
    max_chars: int = 10_000
    concurrency: int = 8
    deadline: float = 45.0
    timeout: float = 15.0
    attempts: int = 4
    backoff: float = 0.5
    breaker_failures: int = 5
    breaker_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "map":
                fits = value is None or isinstance(value, Mapping)
            elif isinstance(field.default, bool) or isinstance(value, bool):
                fits = isinstance(field.default, bool) and isinstance(value, bool)
            else:
                kinds = int if isinstance(field.default, int) else int | float
                fits = isinstance(value, kinds) and 0 < value < math.inf
            if not fits:
                raise ModeratorError(f"option {field.name!r} cannot be {value!r}")
        if self.max_chars < _LEAST_CHARS:
            raise ModeratorError(f"option 'max_chars' is below {_LEAST_CHARS}")


@dataclass(frozen=True, slots=True)
class Item:
    """One text to be judged: an answer, or a piece of one, and what was asked if that is sent."""

    text: str
    prompt: str | None = None

    @property
    def joined(self) -> str:
        return self.text if self.prompt is None else f"{self.prompt}\n\n{self.text}"

    @property
    def turns(self) -> list[dict[str, str]]:
        """As messages; without what was asked where nothing was, or it is not sent."""
        asked = [{"role": "user", "content": self.prompt}] if self.prompt else []
        return [*asked, {"role": "assistant", "content": self.text}]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whatever it is."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class LoopThread:
    """An event loop in a daemon thread, started at first use; `close` ends both."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.closers: list[Callable[[], Awaitable[object]]] = []
        self.closed = False

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """The coroutine's result.

        Raises:
            TimeoutError: it takes longer; it is then cancelled.
            CancelledError: the thread was closed meanwhile.
        """
        with self._lock:
            if self.closed:
                coroutine.close()
                raise CancelledError
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), daemon=True, name=self._name
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def close(self) -> None:
        """Cancel what runs, close what is in ``closers``, end the thread."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(lambda: loop.create_task(self._end()))
        if thread is not threading.current_thread():
            thread.join(5.0)

    async def _end(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.gather(*(close() for close in self.closers), return_exceptions=True)
            await loop.shutdown_asyncgens()
        finally:
            loop.stop()


class Service(ABC):
    """A moderator that is asked over the network.

    Args:
        taxonomy: how the service's names map to ours, before the option ``map``.
        options: those of `Settings`.

    Attributes:
        defaults: the settings of this service where its options say nothing.

    Raises:
        ModeratorError: an option is unknown or has no sensible value.
    """

    name: str
    defaults: ClassVar[Settings] = Settings()

    def __init__(self, taxonomy: Taxonomy, **options: Unpack[Options]) -> None:
        known = [field.name for field in fields(Settings)]
        for option in options:
            if option not in known:
                own = [p for p in signature(type(self)).parameters if p != "options"]
                raise ModeratorError(f"unknown option {option!r}{nearest(option, [*own, *known])}")
        self.settings = replace(self.defaults, **options)
        self.taxonomy = taxonomy.changed(self.settings.map)
        self.categories = self.taxonomy.categories
        self._stats = Stats()
        self._breaker = Breaker(self.settings.breaker_failures, self.settings.breaker_seconds)
        self._gate = asyncio.Semaphore(self.settings.concurrency)
        self._not_before = 0.0
        self._thread = LoopThread(f"moderator-{self.name}")
        weakref.finalize(self, self._thread.close)

    @abstractmethod
    async def send(self, items: Sequence[Item]) -> Reply:
        """One request.

        Raises:
            ServiceError: there is no reply.
        """

    @abstractmethod
    def parse(self, body: Any, items: Sequence[Item]) -> Sequence[Mapping[str, object]]:
        """Scores under the service's names, one mapping per item, in the items' order.

        Whatever goes wrong in here means that the reply has another form than documented.
        """

    def stats(self) -> Stats:
        """What the service was asked so far."""
        return replace(self._stats, breaker=self._breaker.state)

    def close(self) -> None:
        """End the connections and the thread that holds them; later verdicts are unscored."""
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange, in order; unscored with a cause where there is none."""
        deadline = self.settings.deadline
        try:
            return self._thread.run(self._score(exchanges), deadline + _GRACE)
        except TimeoutError:
            cause = f"no verdict within {deadline:g} s"
        except CancelledError:
            cause = "the moderator was closed"
        return [Score.unscored(cause)] * len(exchanges)

    async def _score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        end = time.monotonic() + self.settings.deadline
        cut = [self._items(exchange) for exchange in exchanges]
        batches = self._batches([item for items in cut for item in items])
        verdicts = await asyncio.gather(*(self._batch(batch, end) for batch in batches))
        of_items = iter([verdict for of_batch in verdicts for verdict in of_batch])
        scores = [_worst([next(of_items) for _ in items]) for items in cut]
        self._count(verdicts=len(scores), unscored=sum(not score.scored for score in scores))
        return scores

    def _items(self, exchange: Exchange) -> list[Item]:
        """An answer in pieces that the service takes; none if it has no text."""
        answer = _encodable(exchange.answer)
        if not answer.strip():
            return []
        asked = [m.content for m in exchange.messages if m.role == "user"]
        limit = self.settings.max_chars
        prompt = None
        if self.settings.include_prompt and asked:
            prompt = _encodable(asked[-1])[-(limit // 2) :]
            limit -= len(prompt) + 2
        overlap = limit // 20
        starts = range(0, max(len(answer) - overlap, 1), limit - overlap)
        pieces = [answer[start : start + limit] for start in starts]
        return [Item(piece, prompt) for piece in pieces if piece.strip()]

    def _batches(self, items: Sequence[Item]) -> list[list[Item]]:
        def fits(batch: list[Item], item: Item) -> bool:
            size = sum(len(each.joined) for each in (*batch, item))
            return len(batch) < self.settings.batch_size and size <= self.settings.batch_chars

        return grouped(items, fits)

    async def _batch(self, items: Sequence[Item], end: float) -> list[Score]:
        """Verdicts for one batch, before ``end`` (monotonic seconds); never raises."""
        try:
            async with asyncio.timeout(end - time.monotonic()), self._gate:
                return await self._call(items, end)
        except TimeoutError:
            return _unscored(f"no verdict within {self.settings.deadline:g} s", items)
        except ServiceError as failure:
            if not failure.split or len(items) == 1:
                return _unscored(failure.cause, items)
        half = len(items) // 2
        return [*await self._batch(items[:half], end), *await self._batch(items[half:], end)]

    async def _call(self, items: Sequence[Item], end: float) -> list[Score]:
        """One batch through the rate limit and the breaker."""
        await self._pause(0.0, end, "the service's rate limit")
        probe = self._breaker.enter()
        try:
            scores = await self._attempts(items, end, 1 if probe else self.settings.attempts)
        except ServiceError as failure:
            if failure.counts:
                self._breaker.failed(failure.cause)
            else:
                self._breaker.worked()
            raise
        except BaseException as error:
            self._breaker.failed("no reply in time")
            if isinstance(error, Exception):
                # The message of a foreign error may quote a text or a key: only the type is kept.
                raise ServiceError(f"failed ({type(error).__name__})") from None
            raise
        self._breaker.worked()
        return scores

    async def _attempts(self, items: Sequence[Item], end: float, attempts: int) -> list[Score]:
        for attempt in range(1, attempts + 1):
            try:
                return self._verdicts(await self._request(items), items)
            except ServiceError as failure:
                if not failure.retry or attempt == attempts:
                    raise
                self._hold(failure.wait)
                backoff = self.settings.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
                await self._pause(backoff, end, failure.cause)
            self._count(retries=1)
        raise AssertionError("unreachable")

    async def _pause(self, seconds: float, end: float, cause: str) -> None:
        """Sleep for the time given, and for as long as the service's rate limit asks.

        Raises:
            ServiceError: that would be too late.
        """
        now = time.monotonic()
        until = max(now + seconds, self._not_before)
        if until >= end:
            raise ServiceError(f"{cause}: {until - now:.3g} s to wait, past the deadline")
        if until > now:
            # Those who waited for the same moment do not all come in the same instant.
            await asyncio.sleep((until - now) * random.uniform(1.0, 1.05))

    def _hold(self, seconds: float) -> None:
        """Let no request begin for a while."""
        if seconds > 0:
            until = time.monotonic() + min(seconds, _LONGEST_PAUSE)
            self._not_before = max(self._not_before, until)

    async def _request(self, items: Sequence[Item]) -> Reply:
        """One request, timed and counted.

        Raises:
            ServiceError: the status is not that of success, or there is no reply in time.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout) as limit:
                reply = await self.send(items)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ServiceError(f"no reply within {self.settings.timeout:g} s", retry=True) from None
        finally:
            seconds = time.monotonic() - started
            self._count(requests=1, texts=len(items), seconds=seconds)
            self._count(characters=sum(len(item.joined) for item in items))
            self._stats = replace(self._stats, slowest=max(self._stats.slowest, seconds))
        if failure := failure_of(reply.status, reply.headers, reply.content):
            raise failure
        self._hold(rate_limit_pause(reply.headers))
        return reply

    def _verdicts(self, reply: Reply, items: Sequence[Item]) -> list[Score]:
        """One verdict per item of a reply that may hold anything.

        Raises:
            ServiceError: it is not the documented one, as a whole.
        """
        try:
            body = json.loads(reply.content)
        except (ValueError, RecursionError):
            raise ServiceError("the reply is not JSON") from None
        try:
            scores = list(self.parse(body, items))
        except ServiceError:
            raise
        except Exception as error:
            raise ServiceError(
                f"the reply has another form than documented ({type(error).__name__})"
            ) from None
        if len(scores) != len(items):
            raise ServiceError(f"the reply has {len(scores)} verdicts for {len(items)} texts")
        return [self._verdict(score) for score in scores]

    def _verdict(self, theirs: object) -> Score:
        if not isinstance(theirs, Mapping):
            return Score.unscored("the verdict has another form than documented")
        numbers: dict[str, float] = {}
        for name in self.taxonomy.mapped:
            if name not in theirs or theirs[name] is None:
                return Score.unscored(f"no score for {name!r}")
            value = theirs[name]
            if isinstance(value, bool) or not isinstance(value, int | float):
                return Score.unscored(f"the score of {name!r} is not a number")
            if not 0.0 <= value <= 1.0:
                return Score.unscored(f"the score of {name!r} is not in [0, 1]")
            numbers[name] = float(value)
        return Score.of(self.taxonomy.scores(numbers))

    def _count(self, **added: float) -> None:
        stats = {name: getattr(self._stats, name) + value for name, value in added.items()}
        self._stats = replace(self._stats, **stats)


async def limited(chunks: AsyncIterable[bytes]) -> bytes:
    """A reply's content, of 8 MiB at most.

    Raises:
        ServiceError: there is more.
    """
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > _LONGEST_REPLY:
            raise ServiceError("the reply is too long")
    return bytes(content)


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no JSON can carry, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _unscored(cause: str, items: Sequence[Item]) -> list[Score]:
    return [Score.unscored(cause)] * len(items)


def _worst(pieces: Sequence[Score]) -> Score:
    """The verdict on an answer from those on its pieces: per category the largest score."""
    if not pieces:
        return Score.unscored(EMPTY_ANSWER)
    return Score.worst(pieces)

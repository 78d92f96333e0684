"""Servers that give the same answers: each request goes to one that is well.

- The replica with the fewest requests under way is asked.
- One that fails (no connection, a cut or slow reply, 408, 425, 429, 5xx, a reply that cannot be
  read) is left alone, and the request goes to another. A watcher asks its ``/health`` with growing
  pauses and brings it back.
- A request that reached a server and failed counts as an attempt; after some of them it is given
  up, so that one that brings a server down does not bring all of them down. A server that was not
  reached costs no attempt: where all are down, the request waits for the first to come back.
- 400, 401, 403, 404 and the like are final.
- The key never stands in an error, whatever a server answers.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from rerail._http import checked_url, made, may_pass, retry_after
from rerail.errors import EngineError

log = logging.getLogger("rerail.engines")

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before the health of a failed replica is looked at; doubled at each failure in a row."""

_HEALTH_SECONDS = 5.0
_EXCERPT = 300


class UnreadableError(Exception):
    """A reply has another form than documented; says which, and quotes nothing of it."""


@dataclass(eq=False)
class _Replica:
    url: str
    up: bool = True
    under_way: int = 0
    asked: int = 0
    failures: int = 0
    fault: str = ""


class Replicas:
    """HTTP servers with JSON in and out.

    Args:
        urls: of the servers, without a path.
        key: sent as a bearer token, if there is one.
        timeout: seconds for one request.
        deadline: seconds for one call, retries and pauses included.
        attempts: requests that may reach a server and fail, for one call.

    Raises:
        EngineError: an URL is none, or carries a credential, or a variable of the environment
            names a proxy or certificates that cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key: str = "",
        timeout: float = 120.0,
        deadline: float = 300.0,
        attempts: int = 3,
    ) -> None:
        if not urls:
            raise EngineError("no server: give one URL at least")
        found = (checked_url(url, EngineError, "http://host:port") for url in urls)
        bases = dict.fromkeys(url.removesuffix("/v1") for url in found)
        if any("?" in base for base in bases):
            raise EngineError("the URL of a server has no parameters: write http://host:port")
        self._replicas = [_Replica(base) for base in bases]
        self._key = key
        self._timeout, self._deadline, self._attempts = timeout, deadline, attempts
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = made(
            lambda: httpx.Client(headers=headers, limits=limits, follow_redirects=False),
            EngineError,
        )
        self._waited_for = False
        self._changed = threading.Condition()
        self._closed = threading.Event()
        weakref.finalize(self, _end, self._client, self._closed)

    def __repr__(self) -> str:
        return f"Replicas({', '.join(self.urls)})"

    @property
    def urls(self) -> list[str]:
        return [replica.url for replica in self._replicas]

    @property
    def up(self) -> list[str]:
        """URLs of those that are asked at the moment."""
        return [replica.url for replica in self._replicas if replica.up]

    def close(self) -> None:
        """End the connections and the watchers."""
        _end(self._client, self._closed)

    def call(
        self,
        path: str,
        read: Callable[[Any], T],
        body: Mapping[str, Any] | None = None,
        *,
        within: float | None = None,
    ) -> T:
        """What ``read`` makes of a server's JSON reply to POST ``body`` (or to GET).

        Args:
            path: of the endpoint.
            read: whatever it raises but an `EngineError` means that the reply has another form
                than documented.
            body: JSON-able; None for GET.
            within: seconds, retries and pauses included; the deadline of all calls by default.

        Raises:
            EngineError: the request is refused, failed too often, or no server is well in time.
        """
        content = None if body is None else json.dumps(body).encode()
        seconds = self._deadline if within is None else within
        end = time.monotonic() + seconds
        attempts = 0
        while True:
            replica = self._take(seconds, end)
            try:
                value = self._value(self._send(replica, path, content, end), read)
            except _PassingError as failure:
                self._give_back(replica, failure)
                attempts += failure.reached
                if attempts >= self._attempts:
                    raise EngineError(
                        f"the request failed {attempts} times, the last: {replica.url}: "
                        f"{failure}. Look at the server's log"
                    ) from None
            except BaseException:
                self._give_back(replica, None)
                raise
            else:
                self._give_back(replica, None, worked=True)
                return value

    def _send(
        self, replica: _Replica, path: str, content: bytes | None, end: float
    ) -> httpx.Response:
        seconds = max(min(self._timeout, end - time.monotonic()), 0.01)
        try:
            return self._client.request(
                "GET" if content is None else "POST",
                replica.url + path,
                content=content,
                headers={"content-type": "application/json"},
                timeout=httpx.Timeout(seconds, connect=min(seconds, _HEALTH_SECONDS)),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _PassingError(f"no connection ({type(error).__name__})", reached=False) from None
        except httpx.TransportError as error:
            raise _PassingError(f"no reply ({type(error).__name__})") from None

    def _value(self, reply: httpx.Response, read: Callable[[Any], T]) -> T:
        self._refuse(reply)
        try:
            return read(reply.json())
        except EngineError:
            raise
        except Exception as error:  # whatever it is, the reply has another form than documented
            why = str(error) if isinstance(error, UnreadableError) else type(error).__name__
            raise _PassingError(f"a reply that cannot be read ({why})") from None

    def _refuse(self, reply: httpx.Response) -> None:
        """Raise what a status other than success means."""
        status = reply.status_code
        if 200 <= status < 300:
            return
        if may_pass(status):
            pause = min(retry_after(reply.headers), LONGEST_PAUSE)
            raise _PassingError(f"HTTP {status}", pause=pause)
        where = f"{reply.request.url.copy_with(query=None)}: HTTP {status}"
        if status in (401, 403):
            raise EngineError(f"{where}: check the key (option api_key_env names its variable)")
        raise EngineError(f"{where}: {self._excerpt(reply)}")

    def _excerpt(self, reply: httpx.Response) -> str:
        """What a server says about a request that it refuses."""
        try:
            error = reply.json()["error"]
            text = str(error["message"] if isinstance(error, Mapping) else error)
        except (ValueError, KeyError, TypeError):
            text = reply.text
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "▒▒▒")
        return text[:_EXCERPT] or "no reason given"

    def _take(self, seconds: float, end: float) -> _Replica:
        """The least busy replica that is well, once there is one; by the end of some seconds."""
        with self._changed:
            while True:
                if self._closed.is_set():
                    raise EngineError("the engine was closed")
                well = [replica for replica in self._replicas if replica.up]
                if well:
                    self._waited_for = False
                    chosen = min(well, key=lambda replica: (replica.under_way, replica.asked))
                    chosen.under_way += 1
                    chosen.asked += 1
                    return chosen
                left = end - time.monotonic()
                faults = "; ".join(f"{r.url}: {r.fault}" for r in self._replicas)
                if left <= 0:
                    raise EngineError(
                        f"no server was well within {seconds:g} s ({faults}): start one, or check "
                        "the URLs. The options wait, at the start, and deadline give it longer"
                    )
                if not self._waited_for:
                    log.warning("waiting up to %.1f s for a server (%s)", left, faults)
                    self._waited_for = True
                self._changed.wait(min(left, 1.0))

    def _give_back(
        self, replica: _Replica, failure: _PassingError | None, *, worked: bool = False
    ) -> None:
        with self._changed:
            replica.under_way -= 1
            if worked:
                replica.failures = 0
            if failure is None:
                return
            replica.fault = str(failure)
            if not replica.up:
                return  # another request failed there first: it is being watched
            replica.up = False
            replica.failures += 1
            pause = min(FIRST_PAUSE * 2 ** min(replica.failures - 1, 16), LONGEST_PAUSE)
        # Not a method: a watcher must not keep an engine alive that nobody uses any more.
        threading.Thread(
            target=_watch,
            args=(replica, self._client, self._changed, self._closed, max(pause, failure.pause)),
            daemon=True,
            name=f"watch {replica.url}",
        ).start()


def _end(client: httpx.Client, closed: threading.Event) -> None:
    closed.set()
    client.close()


def _watch(
    replica: _Replica,
    client: httpx.Client,
    changed: threading.Condition,
    closed: threading.Event,
    pause: float,
) -> None:
    """Bring a replica back once its ``/health`` says so."""
    while not closed.wait(pause):
        try:
            healthy = client.get(f"{replica.url}/health", timeout=_HEALTH_SECONDS).is_success
        except httpx.HTTPError:
            healthy = False
        except RuntimeError:  # the client was closed meanwhile
            return
        if healthy:
            with changed:
                replica.up = True
                changed.notify_all()
            return
        pause = min(2 * pause, LONGEST_PAUSE)


class _PassingError(Exception):
    """A failure that another server, or the same one later, may not have.

    Args:
        cause: what failed.
        reached: whether a server saw the request.
        pause: seconds that it asks to be left alone.
    """

    def __init__(self, cause: str, *, reached: bool = True, pause: float = 0.0) -> None:
        super().__init__(cause)
        self.reached = reached
        self.pause = pause

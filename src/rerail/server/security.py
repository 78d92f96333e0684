"""The outermost layer: whose pages may call, how large a request may be, what browsers are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerail.server.errors import ApiError, of_ours, place
from rerail.server.metrics import Metrics
from rerail.server.settings import host_of
from rerail.server.stream import replayed

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every response."""

EXPOSED_HEADERS = ("X-Request-Id", "Retry-After", "WWW-Authenticate")
"""That pages of other origins may read."""

BODY_SECONDS = 60.0
"""Within which a request's body has to arrive."""


GONE = 499
"""Status that is counted where a client left before there was a response."""

log = logging.getLogger("rerail.server")


class SecurityMiddleware:
    """ASGI middleware around everything else.

    Requests with a foreign ``Origin`` are refused, whatever their method: a page elsewhere must
    not use a server that its visitor can reach. Where the hosts are known, other values of
    ``Host`` are refused, too, which closes the way around that by rebinding a name.

    Args:
        app: what is guarded.
        max_body_bytes: of a request.
        origins: foreign origins that may call.
        hosts: names that the server answers to; None: any.
        metrics: counts requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        origins: Sequence[str],
        hosts: Sequence[str] | None,
        metrics: Metrics,
    ) -> None:
        self._origins = frozenset(origins)
        self._app = self._shared(app)
        self._max_body_bytes = max_body_bytes
        self._hosts = None if hosts is None else frozenset(hosts)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = GONE

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check(headers)
            body = await self._body(headers, receive)
            await self._app(scope, replayed(receive, body), guarded)
        except Exception as error:
            # Further out its message would be logged, which may quote a prompt.
            if not isinstance(error, ApiError):
                log.error("unexpected %s", place(error))
            if status == GONE:
                response: ASGIApp = of_ours(error).response()
                if headers.get("origin") in self._origins:
                    response = self._shared(response)
                await response(scope, receive, guarded)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.http.labels(route, str(status)).inc()

    def _shared(self, app: ASGIApp) -> ASGIApp:
        """An app whose responses the pages of the foreign origins may read."""
        if not self._origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=sorted(self._origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )

    def _check(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _named(host) not in self._hosts:
            raise ApiError("this server does not answer to that name", "wrong_host")
        origin = headers.get("origin")
        if origin is None or origin in self._origins or _split(origin).netloc == host:
            return
        raise ApiError("pages of other origins may not call this server", "foreign_origin")

    async def _body(self, headers: Headers, receive: Receive) -> list[Any]:
        """The whole body: no route reads it in parts."""
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise self._too_large()
        messages: list[Any] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    messages.append(message)
                    size += len(message.get("body", b""))
                    if size > self._max_body_bytes:
                        raise self._too_large()
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return messages
        except TimeoutError:
            raise ApiError("the body did not arrive in time", "body_timeout") from None

    def _too_large(self) -> ApiError:
        said = f"the request is larger than {self._max_body_bytes} bytes"
        return ApiError(said, "body_too_large", headers={"Connection": "close"})


def _named(host: str) -> str | None:
    try:
        return host_of(host)
    except ValueError:
        return None


def _split(url: str) -> SplitResult:
    """The parts of an address; none of one that is malformed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")

"""Run an app with uvicorn until SIGTERM or Ctrl-C, and stop it without losing a request."""

from __future__ import annotations

import asyncio
import copy
import logging
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from rerail.server.service import Service

_ROOM = 10.0
"""Seconds beyond the grace that connections get to send what was handed back to them."""


def listening(host: str, port: int) -> socket.socket:
    """A socket on an address; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    ((family, *_, address),) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:1]
    return socket.create_server(address[:2], family=family, backlog=2048)


PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked for every few seconds: in the log of requests only where the answer is an error."""


class NoProbes(logging.Filter):
    """Keeps what probes ask out of uvicorn's log of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the request."""
        if not isinstance(record.args, tuple) or len(record.args) != 5:
            return True
        _, _, path, _, status = record.args
        return str(path).partition("?")[0] not in PROBES or int(str(status)) >= 400


class Server(uvicorn.Server):
    """A uvicorn server whose app hands waiting requests back as soon as it is told to stop.

    `run` takes the sockets that it listens on.

    Args:
        app: from `create_app`.
        certificate: path of a TLS certificate.
        private_key: path of its key.
        log_level: of the log, which holds no texts.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        certificate: Path | None = None,
        private_key: Path | None = None,
        log_level: str = "info",
    ) -> None:
        logs = copy.deepcopy(LOGGING_CONFIG)
        logs["loggers"]["rerail"] = {"handlers": ["default"], "level": log_level.upper()}
        logs["filters"] = {"no_probes": {"()": NoProbes}}
        logs["handlers"]["access"]["filters"] = ["no_probes"]
        self._service: Service = app.state.service
        self._grace = self._service.settings.grace
        super().__init__(
            uvicorn.Config(
                app,
                ssl_certfile=certificate,
                ssl_keyfile=private_key,
                log_level=log_level,
                log_config=logs,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=round(self._grace + _ROOM),
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stopping = asyncio.to_thread(self._service.stop, self._grace)
        await asyncio.gather(stopping, super().shutdown(sockets))

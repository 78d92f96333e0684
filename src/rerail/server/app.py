"""The app, built from what it serves.

Endpoints: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/responses``, ``/v1/models``,
``/v1/moderations``, ``/v1/policies/schema``; ``/admin/policies``, ``/admin/interventions``; ``/``,
``/watch``, ``/ui/config``; ``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json``. Limits
are those of `ServerSettings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from fastapi import FastAPI

from rerail import __version__
from rerail.align import lacks
from rerail.engines.base import Engine
from rerail.errors import PolicyError
from rerail.policy import Policy, shipped_texts
from rerail.server.errors import add_handlers
from rerail.server.keys import KeyRing
from rerail.server.limits import RateLimits
from rerail.server.metrics import Metrics
from rerail.server.policies import LivePolicies, Loader, load_moderators
from rerail.server.records import Recorder
from rerail.server.routes import admin, health, openai, page
from rerail.server.routes import policies as policy_files
from rerail.server.security import SecurityMiddleware
from rerail.server.service import Service
from rerail.server.settings import ServerSettings
from rerail.server.tracing import Tracing
from rerail.server.watcher import watch
from rerail.store import Store

log = logging.getLogger("rerail.server")

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names that a server without keys answers to."""

_PRUNE_EVERY = 3600.0


def create_app(
    engines: Mapping[str, Engine],
    policies: Iterable[Policy | str] | None = None,
    *,
    folder: Path | None = None,
    keys: KeyRing | None = None,
    store: Store | None = None,
    settings: ServerSettings | None = None,
    loader: Loader = load_moderators,
    tracing: Tracing | None = None,
    limits: RateLimits | None = None,
) -> FastAPI:
    """Build the server.

    Args:
        engines: by the name that clients use.
        policies: what there is at the start, as values or as YAML; the shipped ones by default.
        folder: YAML files that are policies, too, and are watched for changes.
        keys: who may call. None: whoever reaches it over loopback, as administrator, too.
        store: keeps records and the log of policy changes; closed with the app.
        settings: limits and defaults.
        loader: makes a policy's moderators.
        tracing: makes spans; none by default.
        limits: count what keys ask for; in memory by default.

    Raises:
        PolicyError: a policy is not valid, or a default is unknown, or does not fit its model.
        ModeratorError: a moderator of a policy cannot be had.
    """
    settings = settings or ServerSettings()
    metrics = Metrics()
    live = LivePolicies(
        engines,
        shipped_texts().values() if policies is None else policies,
        folder=folder,
        store=store,
        loader=loader,
        on_change=lambda action: metrics.policy_changes.labels(action).inc(),
    )
    service = Service(
        engines,
        live,
        keys,
        Recorder(store, settings.record, metrics),
        settings,
        metrics,
        tracing or Tracing(),
        limits or RateLimits(),
    )
    for name in service.configured_policies():
        live.get(name)
    for model, engine in engines.items():
        configured = settings.model_policies.get(model) or settings.default_policy
        if lacking := lacks(engine, live.get(configured).policy):
            raise PolicyError(f"{lacking}: give model {model!r} a policy of its own, or serve "
                              "under another by default")  # fmt: skip

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = asyncio.Event()
        service.start()
        tasks = [asyncio.create_task(watch(live, keys, stop))]
        if settings.retention_days is not None:
            tasks.append(asyncio.create_task(_prune(service.recorder, settings.retention_days)))
        try:
            yield
        finally:
            stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(service.stop, settings.grace)
            service.recorder.close()
            if store is not None:
                store.close()

    app = FastAPI(
        title="rerail",
        version=__version__,
        description=(
            "Answers of an open-weight model under a policy: what the policy flags is steered "
            "away from, and never leaves."
        ),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    for module in (openai, policy_files, admin, page, health):
        app.include_router(module.router)
    app.mount("/static", page.Assets(directory=page.FOLDER), name="static")
    add_handlers(app, openai.router)
    app.add_middleware(
        SecurityMiddleware,
        max_body_bytes=settings.max_body_bytes,
        origins=settings.cors_origins,
        hosts=settings.hosts or (LOOPBACK_NAMES if keys is None else None),
        metrics=metrics,
    )
    return app


async def _prune(recorder: Recorder, days: float) -> None:
    while True:
        try:
            if count := await recorder.prune(days):
                log.info("%d records were older than %g days and are deleted", count, days)
        except Exception as error:
            log.error("old records could not be deleted: %s", error)
        await asyncio.sleep(_PRUNE_EVERY)

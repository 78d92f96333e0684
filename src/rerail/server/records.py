"""Records of interventions: written before the answer leaves, read by ``rerail audit``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from rerail.errors import StoreError
from rerail.store import Record, Store
from rerail.types import Layer, Outcome, Prompt, Response

if TYPE_CHECKING:
    from rerail.server.metrics import Metrics

RUN_PREFIX = "serve:"
"""Begins the run of every record of a server; the tenant follows."""

_WRITERS = 4


def is_intervention(response: Response) -> bool:
    """Whether a layer of the policy acted or noted, or an unscored answer left."""
    unscored = response.final is not None and response.final.unscored is not None
    acted = response.layer is not Layer.NONE or bool(response.noted)
    return response.outcome is not Outcome.PASSED or unscored or acted


class Recorder:
    """Writes records off the event loop.

    Args:
        store: where to; None keeps none.
        which: interventions only, or passed answers, too.
        metrics: counts what could not be written.
    """

    def __init__(
        self,
        store: Store | None,
        which: Literal["interventions", "all"],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._which = which
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="records")

    async def keep(
        self,
        tenant: str,
        request: str,
        answered: Sequence[tuple[Prompt, Response]],
        with_text: bool,
    ) -> None:
        """Record what has to be recorded of one request; durable when it returns.

        Raises:
            StoreError: a record could not be written.
        """
        store = self._store
        if store is None:
            return

        def write() -> None:
            for i, (prompt, response) in enumerate(answered):
                if self._which == "all" or is_intervention(response):
                    item = request if len(answered) == 1 else f"{request}/{i}"
                    store.add(RUN_PREFIX + tenant, item, response, prompt if with_text else None)

        loop = asyncio.get_running_loop()
        try:
            # A client that leaves cancels the request, and not what is being written.
            await asyncio.shield(loop.run_in_executor(self._pool, write))
        except StoreError:
            self._metrics.record_failures.inc()
            raise

    async def prune(self, days: float) -> int:
        """Delete the records that are older; returns how many."""
        if self._store is None:
            return 0
        before = datetime.now(UTC) - timedelta(days=days)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._store.prune, before, RUN_PREFIX)

    async def find(self, **filters: Any) -> list[dict[str, Any]]:
        """Records that match, the latest first.

        Raises:
            StoreError: there is no store, or it cannot be read.
        """
        store = self._store
        if store is None:
            raise StoreError("this server keeps no records: start it with --store")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pool,
            lambda: [as_json(r) for r in store.find(run_prefix=RUN_PREFIX, **filters)],
        )

    def close(self) -> None:
        """Finish what is being written."""
        self._pool.shutdown(wait=True)


def as_json(record: Record) -> dict[str, Any]:
    """One record for people and programs; texts only if the policy had them recorded."""
    found = {
        "at": record.created_at.isoformat(),
        "id": record.item,
        "tenant": record.run.removeprefix(RUN_PREFIX),
        "model": record.model,
        "policy": record.policy,
        "version": record.policy_version,
        "audit": record.audit,
        "outcome": record.outcome,
        "layer": record.layer,
        "gate": record.gate,
        "noted": record.noted,
        "harm_before": (record.initial or {}).get("harm"),
        "harm_after": (record.final or {}).get("harm"),
        "scores_before": (record.initial or {}).get("scores"),
        "scores_after": (record.final or {}).get("scores"),
        "accepted_from": record.accepted_from,
        "stop_reason": record.stop_reason,
        "naturalness": record.naturalness,
        "relevance": record.relevance,
        "tokens_preserved": record.tokens_preserved,
        "generations": record.generations,
        "generated_tokens": record.generated_tokens,
        "moderator_calls": record.moderator_calls,
        "seconds": record.seconds,
        "sent_tokens": record.sent_tokens,
        "seed": record.seed,
        "error": record.error,
    }
    if record.prompt is not None:
        found |= {
            "prompt": record.prompt,
            "first_answer": record.first_answer,
            "final_answer": record.final_answer,
            "reasoning": record.reasoning,
        }
    return found

"""The page and what it asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from rerail.engines.base import EmbeddingTable
from rerail.server import stream
from rerail.server.answers import finite
from rerail.server.errors import ApiError, of_ours
from rerail.server.routes._shared import (
    Asking,
    PolicyHeader,
    ServiceDependency,
    errors,
    gone,
    service_of,
)
from rerail.server.schemas import ChatRequest
from rerail.server.worker import Finished
from rerail.types import Evaluation

_AT_ONCE = 0.05
"""Seconds within which a fault of the request gets a status; later faults are events."""

FOLDER = Path(__file__).resolve().parent.parent / "page"

router = APIRouter(tags=["Page"])


@router.get("/", include_in_schema=False)
async def index() -> Response:
    """The page."""
    return FileResponse(FOLDER / "index.html", headers={"Cache-Control": "no-cache"})


class Assets(StaticFiles):
    """The page's files: asked for again each time, so that no old one meets a new server."""

    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        if str(full_path).endswith(".js"):  # what a system makes of .js differs
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response


@router.get("/ui/config", responses=errors())
async def config(request: Request, service: ServiceDependency) -> Response:
    """What the page needs to know; names only for those who may call, and what they may choose."""
    needed = service.keys is not None
    try:
        client = request.client.host if request.client else None
        key = service.caller(request.headers.get("authorization"), client)
    except ApiError:
        if not needed:
            raise
        key = None
    default = None
    policies: list[str] = []
    if key is not None:
        default = key.policy or service.settings.default_policy
        names = service.policies.names()
        policies = [name for name in names if name == default or key.may_choose(name)]
    return JSONResponse(
        {
            "models": list(service.workers) if key else [],
            "served": service.sources if key else {},
            "policies": policies,
            "default_policy": default,
            "auth_required": needed,
            "admin": not needed or (service.keys is not None and service.keys.has_admin),
        }
    )


@router.post(
    "/watch",
    responses={
        200: {
            "description": "Events: start, evaluation, response, error.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **errors(404, 429, 499, 503),
    },
)
async def watch(
    request: Request,
    body: ChatRequest,
    key: Asking,
    service: ServiceDependency,
    policy: PolicyHeader = None,
) -> Response:
    """Answer a conversation and tell of every candidate on the way, its text excepted."""
    if (body.n or 1) > 1:
        raise ApiError("one answer can be watched at a time: n is 1", "too_many_choices", param="n")
    call = service.call("/watch", key, body, policy)
    feed = stream.Feed()
    work: asyncio.Future[list[Finished]] = asyncio.ensure_future(service.answer(call, feed.put))
    try:
        await stream.quickly(request, work, _AT_ONCE)
    except stream.ClientGoneError:
        return gone()
    except Exception as error:
        told_at_once = error if isinstance(error, ApiError) else of_ours(error)
        if told_at_once.status < 500:
            raise
    tag = call.served.policy.tag

    async def events() -> Any:
        yield stream.event(
            {
                "model": call.model,
                "policy": {"name": tag.name, "version": tag.version},
                "thresholds": dict(call.served.panel.all_thresholds),
                "accept_below": call.served.policy.accept_below,
            },
            "start",
        )
        told = EvaluationEvents(service_of(request).table(call.model))
        async for found in feed.until(work, service.settings.keep_alive):
            if not found:
                yield stream.comment("rerail")
            for evaluation in found:
                assert isinstance(evaluation, Evaluation)  # nothing is released here
                # In a thread: the table's directions may be computed, while the engine is busy.
                document = await asyncio.to_thread(told.document, evaluation)
                yield stream.event(document, "evaluation")
        try:
            (answered,) = work.result()
        except Exception as error:
            yield stream.event({"message": stream.failure(error)["error"]["message"]}, "error")
        else:
            yield stream.event(answered.response.to_json(), "response")

    return stream.EventStream(events(), work)


EVALUATION = {
    "index": "place in the order of candidates; 0 is the model's first answer",
    "origin": "initial, offset, guidance, perturbation, iterate or resample",
    "harm": "the largest score in units of its threshold; null if unscored",
    "scores": "category to a number in [0, 1]",
    "flagged": "whether harm is 1 or more",
    "unscored": "why there is no verdict; null if there is one",
    "confirmed": "whether the moderators that confirm accept it; null where they were not asked",
    "rejection": "why the answer is not acceptable; null if it is",
    "accepted": "whether it is acceptable",
    "naturalness": "in nats per token; null where it was not needed",
    "relevance": "in nats per token; null where it was not needed",
    "tokens": "generated",
    "xy": "mean offset of the moved rows along the table's two leading principal directions, in "
    "units of the table's RMS; [0, 0] where nothing moved",
}
"""Keys of an ``evaluation`` event, and what they mean."""


class EvaluationEvents:
    """Evaluations of one search as the page draws them.

    Args:
        table: of the model's embeddings; None where it shows none.
    """

    def __init__(self, table: EmbeddingTable | None) -> None:
        self._table = table
        self._count = 0

    def document(self, evaluation: Evaluation) -> dict[str, Any]:
        """Everything but the text."""
        index, self._count = self._count, self._count + 1
        return {
            "index": index,
            "origin": str(evaluation.origin),
            **evaluation.judged.verdict.to_json(),
            "rejection": evaluation.rejection,
            "accepted": evaluation.accepted,
            "naturalness": finite(evaluation.naturalness),
            "relevance": finite(evaluation.relevance),
            "tokens": len(evaluation.generation.token_ids),
            "xy": self._projected(evaluation),
        }

    def _projected(self, evaluation: Evaluation) -> list[float]:
        """``mean_r (x_r − x⁰_r) · (p_1, p_2) / RMS`` over the moved rows ``r``.

        ``p_1, p_2`` are the table's leading principal directions; x⁰ is what was moved, the prompt
        with guidance or without.
        """
        point, unmoved = evaluation.point, evaluation.unmoved
        if point is None or unmoved is None or self._table is None:
            return [0.0, 0.0]
        moved = point - unmoved
        rows = moved.any(axis=1)
        if not rows.any():
            return [0.0, 0.0]
        axes = self._table.principal_directions(2)  # (2, d_model), fewer if d_model is 1
        xy = axes @ moved[rows].mean(axis=0) / self._table.rms
        return [float(v) for v in np.resize(xy, 2)]

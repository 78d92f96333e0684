"""``/admin``: policies and records, for keys that open it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from io import StringIO
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from rerail.errors import PolicyError
from rerail.server.errors import ApiError
from rerail.server.export import Format, write
from rerail.server.keys import ApiKey, KeyRing
from rerail.server.policies import Served
from rerail.server.records import RUN_PREFIX
from rerail.server.routes._examples import INTERVENTIONS, KEYS, POLICY
from rerail.server.routes._shared import Administrator, ServiceDependency, errors, example
from rerail.server.schemas import Rollback
from rerail.server.service import Service
from rerail.types import Outcome

router = APIRouter(prefix="/admin", tags=["Administration"])

Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Of the policy.")]

MAX_POLICY_BYTES = 64 * 1024
"""Of a policy's text: reading YAML takes long."""

_KINDS = {Format.JSONL: "application/x-ndjson", Format.CSV: "text/csv"}
"""Of an export, as HTTP calls them."""

_YAML_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {
                "schema": {"type": "string"},
                "example": "name: mild\ndefault_threshold: 0.7\n",
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"yaml": {"type": "string"}},
                    "required": ["yaml"],
                    "additionalProperties": False,
                },
                "example": {"yaml": "name: mild\ndefault_threshold: 0.7\n"},
            },
        },
    }
}


@router.get(
    "/policies",
    responses={
        **example("The current policies.", {"policies": [{**POLICY, "audit": False}]}),
        **errors(),
    },
)
async def policies(key: Administrator, service: ServiceDependency) -> Response:
    """Every current policy."""
    live = service.policies
    return JSONResponse(
        {"policies": [{**asdict(served.policy.tag), "yaml": served.yaml} for served in live.all()]}
    )


@router.get("/policies/{name}", responses={**example("The policy.", POLICY), **errors(404)})
async def policy(name: Name, key: Administrator, service: ServiceDependency) -> Response:
    """One policy with its history, oldest first."""
    current = _current(service, name)
    changes = await run_in_threadpool(service.policies.history, name)
    history = [
        {"version": c.version, "at": c.at.isoformat(), "by": c.by, "action": c.action,
         "yaml": c.yaml}
        for c in changes
    ]  # fmt: skip
    return JSONResponse(
        {
            "name": name,
            "version": current.policy.version,
            "yaml": current.yaml,
            "history": history,
        }
    )


@router.put(
    "/policies/{name}",
    responses={
        **example("It is current.", {"name": "mild", "version": "0c9d8e7f6a5b"}),
        **errors(422, 503),
    },
    openapi_extra=_YAML_BODY,
)
async def put_policy(
    name: Name, request: Request, key: Administrator, service: ServiceDependency
) -> Response:
    """Make a policy current: the next request uses it, running ones keep theirs."""
    text = await _text(request)
    put = await run_in_threadpool(service.policies.put, name, text, key.name)
    return JSONResponse({"name": put.name, "version": put.version})


@router.post(
    "/policies/{name}/check",
    responses={
        **example("It is valid.", {"name": "mild", "version": "0c9d8e7f6a5b"}),
        **errors(422),
    },
    openapi_extra=_YAML_BODY,
)
async def check_policy(
    name: Name, request: Request, key: Administrator, service: ServiceDependency
) -> Response:
    """Whether a policy could be put; changes nothing."""
    text = await _text(request)
    checked = await run_in_threadpool(service.policies.check, name, text)
    return JSONResponse({"name": checked.name, "version": checked.version})


@router.post(
    "/policies/{name}/rollback",
    responses={
        **example("It is current again.", {"name": "mild", "version": "0c9d8e7f6a5b"}),
        **errors(404, 422, 503),
    },
)
async def rollback_policy(
    name: Name, body: Rollback, key: Administrator, service: ServiceDependency
) -> Response:
    """Make an earlier version current again."""
    changes = await run_in_threadpool(service.policies.history, name)
    if body.version not in {change.version for change in changes}:
        raise ApiError(f"policy {name!r} had no version {body.version}", "version_not_found",
            param="version",
        )  # fmt: skip
    put = await run_in_threadpool(service.policies.rollback, name, body.version, key.name)
    return JSONResponse({"name": put.name, "version": put.version})


@router.delete(
    "/policies/{name}",
    responses={
        **example("It is gone.", {"name": "mild", "deleted": True}),
        **errors(404, 409, 503),
    },
)
async def delete_policy(name: Name, key: Administrator, service: ServiceDependency) -> Response:
    """Remove a policy that nothing falls back to. Its history stays."""
    _current(service, name)
    if name in service.configured_policies():
        raise ApiError(
            f"policy {name!r} is the default of the server, a model or a key", "policy_in_use"
        )
    await run_in_threadpool(service.policies.remove, name, key.name)
    return JSONResponse({"name": name, "deleted": True})


@router.get("/keys", responses={**example("The keys.", KEYS), **errors(503)})
def keys(key: Administrator, service: ServiceDependency) -> Response:
    """The keys there are, when each was last used since the server started, and what it may ask."""
    ring = service.keys
    return JSONResponse({"keys": [_key(service, ring, one) for one in ring.all] if ring else []})


_LEAST_SCORE = 0.5
"""Of a category, for a record to be found by it, where no other is asked for."""

Limit = Annotated[int, Query(ge=1, le=1000)]
At = Annotated[datetime | None, Query(description="ISO 8601; UTC if it says nothing.")]


def _filters(
    outcome: Outcome | None = None,
    policy: Annotated[str | None, Query(max_length=64)] = None,
    tenant: Annotated[str | None, Query(max_length=240, description="Name of the key.")] = None,
    category: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z0-9][a-z0-9/_-]{0,63}$",
            description="Of which the first answer has a score of at least `least_score`.",
        ),
    ] = None,
    least_score: Annotated[float, Query(ge=0, le=1)] = _LEAST_SCORE,
    since: At = None,
    until: At = None,
) -> dict[str, Any]:
    """What records have to match, as `Store.find` takes it."""
    return {
        "outcome": outcome and str(outcome),
        "policy": policy,
        "run": None if tenant is None else RUN_PREFIX + tenant,
        "category": None if category is None else (category, least_score),
        "since": _utc("since", since),
        "until": _utc("until", until),
    }


Filters = Annotated[dict[str, Any], Depends(_filters)]


@router.get(
    "/interventions", responses={**example("The latest first.", INTERVENTIONS), **errors(503)}
)
async def interventions(
    key: Administrator,
    service: ServiceDependency,
    filters: Filters,
    limit: Limit = 50,
    after: Annotated[
        str | None, Query(max_length=255, description="Id of the last record of the page before.")
    ] = None,
) -> Response:
    """Records of answers that were not simply the model's first; texts where they were recorded."""
    found = await service.recorder.find(**filters, after=after, limit=limit + 1)
    return JSONResponse({"interventions": found[:limit], "has_more": len(found) > limit})


def _exported(records: list[dict[str, Any]], format_: Format) -> str:
    file = StringIO(newline="")
    write(records, file, format_)
    return file.getvalue()


@router.get(
    "/interventions/export",
    response_class=Response,
    responses={
        200: {
            "description": "The records as a file, the latest first.",
            "content": {
                kind: {
                    "schema": {"type": "string"},
                    "example": _exported(INTERVENTIONS["interventions"], format_),
                }
                for format_, kind in _KINDS.items()
            },
        },
        **errors(503),
    },
)
async def export(
    key: Administrator,
    service: ServiceDependency,
    filters: Filters,
    format: Format = Format.JSONL,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 10_000,
) -> Response:
    """The same records as a file: a JSON document per line, or a table for a spreadsheet."""
    found = await service.recorder.find(**filters, limit=limit)
    name = f"interventions.{format}"
    return Response(
        await run_in_threadpool(_exported, found, format),
        media_type=_KINDS[format],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _key(service: Service, ring: KeyRing, key: ApiKey) -> dict[str, Any]:
    used = ring.last_used(key)
    return {
        **key.model_dump(mode="json", exclude={"sha256"}),
        "expired": key.expired,
        "last_used": used and used.isoformat(),
        "left": dict(service.limits.left(key)),
    }


def _utc(name: str, time: datetime | None) -> datetime | None:
    if time is None:
        return None
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ApiError(f"{name}: no such time", "invalid_request", param=name) from None


def _current(service: Service, name: str) -> Served:
    try:
        return service.policies.get(name)
    except PolicyError as error:
        raise ApiError(str(error), "no_such_policy", param="name") from None


async def _text(request: Request) -> str:
    """The YAML of the body, sent as itself or in JSON.

    Raises:
        ApiError: it is neither, or too large for a policy.
    """
    body = await request.body()
    if len(body) > MAX_POLICY_BYTES:
        message = f"a policy of more than {MAX_POLICY_BYTES} bytes"
        raise ApiError(message, "body_too_large")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        text = body.decode("utf-8")
        if kind != "application/json":
            return text
        document = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ApiError("the body is not UTF-8 text, or not JSON", "invalid_request") from None
    if not isinstance(document, dict) or not isinstance(document.get("yaml"), str):
        raise ApiError('send {"yaml": "..."}, or YAML itself', "invalid_request", param="yaml")
    return str(document["yaml"])

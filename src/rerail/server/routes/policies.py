"""What those who write policies ask a server for. No key is needed: nothing of a tenant is told."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from rerail.kit.schema import policy_schema
from rerail.server.routes._shared import example

router = APIRouter(prefix="/v1/policies", tags=["Policies"])


_EXAMPLE = {"title": "A policy of rerail", "type": "object", "properties": {"name": {}}}


@router.get("/schema", responses=example("The schema.", _EXAMPLE))
async def schema() -> Response:
    """The JSON Schema of policy files, for editors."""
    return JSONResponse(policy_schema())

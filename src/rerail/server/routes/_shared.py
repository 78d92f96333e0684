"""What routes share: who asks, and what the OpenAPI document says of errors and answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from rerail.server.errors import ApiError
from rerail.server.keys import ApiKey
from rerail.server.security import GONE
from rerail.server.service import Service

_bearer = HTTPBearer(auto_error=False, description="An API key. None on a server without keys.")

PolicyHeader = Annotated[
    str | None,
    Header(
        alias="X-Rerail-Policy",
        max_length=64,
        description="Name of the policy, if the key may choose one.",
    ),
]


def service_of(request: Request) -> Service:
    """The service of the app."""
    service: Service = request.app.state.service
    return service


def caller(
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> ApiKey:
    """The key of the request.

    Raises:
        ApiError: there is no valid one.
    """
    client = request.client.host if request.client else None
    return service_of(request).caller(request.headers.get("authorization"), client)


Caller = Annotated[ApiKey, Depends(caller)]


def asking(key: Caller, request: Request) -> ApiKey:
    """The key of a request that is counted.

    Raises:
        ApiError: it has asked for all that it may, or that cannot be told.
    """
    service_of(request).limits.request(key)
    return key


Asking = Annotated[ApiKey, Depends(asking)]


def administrator(key: Caller) -> ApiKey:
    """The key of a request to ``/admin``.

    Raises:
        ApiError: it is not an admin's.
    """
    if not key.admin:
        raise ApiError(
            "this key does not open /admin: make one with `rerail serve keys new NAME --admin`",
            "not_admin",
        )
    return key


Administrator = Annotated[ApiKey, Depends(administrator)]
ServiceDependency = Annotated[Service, Depends(service_of)]


def gone() -> Response:
    """To a client that has left."""
    return Response(status_code=GONE)


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_STATUSES = {
    400: "The request cannot be answered as it is.",
    401: "No valid API key.",
    403: "The key may not do that.",
    404: "There is no such model, policy or version.",
    409: "The policy is in use.",
    422: "The policy is not valid, or no answer has the form that was asked for.",
    429: "The tenant's queue is full, or the key has asked for all that it may, for now. "
    "`Retry-After` says when to come back.",
    499: "The client left.",
    500: "The model failed. No text leaves.",
    503: "The moderator or the store failed, the deadline passed, the keys cannot be read, or the "
    "server stops. No text leaves. `Retry-After` says when to come back.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI document."""
    said: dict[int | str, str] = {s: _STATUSES[s] for s in sorted({*statuses, 400, 401, 403})}
    said["4XX"] = "Any other error of the request."
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": text, "content": content} for status, text in said.items()}


def example(description: str, document: Any) -> dict[int | str, dict[str, Any]]:
    """The answer of a route, by an example."""
    content = {"schema": {"type": "object"}, "example": document}
    return {200: {"description": description, "content": {"application/json": content}}}

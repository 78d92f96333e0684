"""Errors as OpenAI's clients know them: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from rerail.errors import PolicyError, PromptError, PromptTooLongError, StoreError
from rerail.server.faults import by_place, in_words

CODES: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "A parameter is missing, unknown or wrong; `param` names it."),
    "invalid_prompt": (400, "There is nothing to answer, or the model's template rejects it."),
    "context_length_exceeded": (400, "The conversation does not fit the model's context."),
    "too_many_choices": (400, "`n` times the number of prompts is above the limit."),
    "policy_not_found": (400, "The request names a policy that there is not."),
    "policy_unfit": (400, "The policy needs what the model cannot do, such as moving embeddings."),
    "policy_conflict": (400, "Header and parameter name different policies."),
    "invalid_api_key": (401, "No valid key."),
    "key_expired": (401, "The key was valid until a time that has passed."),
    "no_keys": (403, "The server has no keys, and the client is not on its machine."),
    "not_admin": (403, "The key does not open `/admin`."),
    "policy_not_allowed": (403, "The key may not choose that policy."),
    "foreign_origin": (403, "A page of another origin calls."),
    "not_found": (404, "There is no such endpoint."),
    "model_not_found": (404, "There is no such model."),
    "no_such_policy": (404, "There is no such policy to administer."),
    "version_not_found": (404, "The policy never had that version."),
    "method_not_allowed": (405, "The endpoint has other methods."),
    "body_timeout": (408, "The body did not arrive in time."),
    "policy_in_use": (409, "Something falls back to the policy."),
    "body_too_large": (413, "The body is above the limit."),
    "wrong_host": (421, "The server does not answer to that name."),
    "invalid_structure": (422, "No acceptable answer was found that has the form asked for."),
    "invalid_policy": (422, "The policy is not valid; the message names every fault."),
    "server_full": (429, "The key has too many requests waiting."),
    "rate_limit_exceeded": (429, "The key has asked for all that it may, for now."),
    "engine_failed": (500, "The model failed; the policy's `error_message`."),
    "internal_error": (500, "A fault of rerail."),
    "moderator_unavailable": (503, "There is no verdict; the policy's `error_message`."),
    "store_failed": (503, "The record cannot be written, so nothing leaves; or it cannot be read."),
    "keys_unreadable": (503, "The server cannot read its file of keys, so it knows none."),
    "limits_unavailable": (503, "The counts of the keys' limits cannot be had."),
    "policy_missing": (503, "A policy that something falls back to is gone."),
    "server_deadline": (503, "The deadline passed before there was an answer."),
    "server_stopping": (503, "The server stops; ask again."),
}
"""Code to status and meaning."""


class ApiError(Exception):
    """An error that a client is told.

    Args:
        message: what is wrong and what to do about it; never a prompt or an answer.
        code: one of `CODES`, which has its status.
        param: the parameter that is at fault.
        retry_after: seconds after which it may go better.
        headers: further ones of the response.
    """

    def __init__(
        self,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = CODES[code][0]
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def body(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status) or _type(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The response that says it."""
        return JSONResponse(self.body(), self.status, self.headers)


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def _type(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"


def of_ours(error: Exception, param: str = "messages") -> ApiError:
    """What a client is told of an error; an `ApiError` is that already.

    Args:
        error: the error.
        param: the parameter that holds the prompt.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return ApiError(str(error), "context_length_exceeded", param=param)
    if isinstance(error, PromptError):
        return ApiError(str(error), "invalid_prompt", param=param)
    if isinstance(error, PolicyError):
        return ApiError(str(error), "invalid_policy")
    if isinstance(error, StoreError):
        return ApiError(f"records cannot be kept: {error}", "store_failed", retry_after=5)
    return ApiError(f"unexpected {type(error).__name__}", "internal_error")


def place(error: BaseException) -> str:
    """Type and place of an error. Its message, which may quote a prompt, is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def add_handlers(app: FastAPI, api: APIRouter) -> None:
    """Give every error of the app the one shape.

    Args:
        app: the app.
        api: whose endpoints are told to those who ask for one that there is not.
    """
    endpoints = sorted({route.path for route in api.routes if isinstance(route, APIRoute)})

    async def ours(_: Request, error: Exception) -> JSONResponse:
        return of_ours(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        if "json" not in request.headers.get("content-type", "") and request.method == "POST":
            said = "send JSON, with the header Content-Type: application/json"
            return ApiError(said, "invalid_request").response()
        return _invalid(error).response()

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "invalid_request")
        message = str(error.detail)
        if code == "not_found":
            message = f"there is no such endpoint; there are {', '.join(endpoints)}"
        return ApiError(message, code, headers=error.headers).response()

    for kind in (ApiError, PromptError, PolicyError, StoreError):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _invalid(error: RequestValidationError) -> ApiError:
    """The first fault as `param`, all of them in the message; what was sent is not quoted."""
    faults = by_place(error.errors(), error.body)
    return ApiError(in_words(faults), "invalid_request", param=next(iter(faults)) or None)

"""Errors as OpenAI's clients know them: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tsalign.errors import PolicyError, PromptError, PromptTooLongError, StoreError

log = logging.getLogger("tsalign.server")


class ApiError(Exception):
    """An error that a client is told.

    Args:
        status: of the response.
        message: what is wrong and what to do about it; never a prompt or an answer.
        code: for programs.
        param: the parameter that is at fault.
        retry_after: seconds after which it may go better.
        headers: further ones of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
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
                "type": _TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The response that says it."""
        return JSONResponse(self.body(), self.status, self.headers)


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def of_ours(error: Exception) -> ApiError:
    """What a client is told of an error that tsalign raises on purpose."""
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), "context_length_exceeded", param="messages")
    if isinstance(error, PromptError):
        return ApiError(400, str(error), "invalid_prompt", param="messages")
    if isinstance(error, PolicyError):
        return ApiError(422, str(error), "invalid_policy")
    if isinstance(error, StoreError):
        return ApiError(503, f"records cannot be kept: {error}", "store_failed", retry_after=5)
    return ApiError(500, f"unexpected {type(error).__name__}", "internal_error")


def add_handlers(app: FastAPI) -> None:
    """Give every error of the app the one shape."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        return (error if isinstance(error, ApiError) else of_ours(error)).response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _invalid(error).response()

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        given = ApiError(error.status_code, str(error.detail), code, headers=error.headers)
        return given.response()

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # The message of an unforeseen error may quote a prompt: its type and place are kept.
        log.error("unexpected %s", type(error).__name__)
        return of_ours(error).response()

    for kind in (ApiError, PromptError, PolicyError, StoreError):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _invalid(error: RequestValidationError) -> ApiError:
    """The first fault as `param`, all of them in the message; what was sent is not quoted."""
    faults = []
    params = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"] if part not in {"body", "query"})
        said = "unknown parameter" if fault["type"] == "extra_forbidden" else str(fault["msg"])
        params.append(where)
        faults.append(f"{where}: {said}" if where else said)
    message = "; ".join(dict.fromkeys(faults)).replace("Value error, ", "")
    return ApiError(400, message, "invalid_request", param=params[0] or None)

"""What a service says besides its verdicts: what its statuses mean, and its health."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Literal

from rerail._http import may_pass, rate_limit_pause, retry_after
from rerail.moderators.base import ACCESS_DENIED


class ServiceError(Exception):
    """No verdicts for a batch.

    Args:
        cause: what a verdict says; quotes no text and no key.
        retry: whether the same request may succeed later.
        wait: seconds that the service asks to wait.
        split: whether a smaller batch may succeed.
        counts: whether it speaks against the service's health.
    """

    def __init__(
        self,
        cause: str,
        *,
        retry: bool = False,
        wait: float = 0.0,
        split: bool = False,
        counts: bool = True,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry = retry
        self.wait = wait
        self.split = split
        self.counts = counts


class Breaker:
    """Leaves a service alone after failures in a row, then lets one request through to see."""

    def __init__(self, failures: int, seconds: float) -> None:
        self._limit = failures
        self._seconds = seconds
        self._failures = 0
        self._closed_until = 0.0
        self._last = ""
        self.state: Literal["closed", "open", "half-open"] = "closed"

    def enter(self) -> bool:
        """Ask to be let through; returns whether the request is a probe.

        Raises:
            ServiceError: the service is left alone.
        """
        if self.state == "closed":
            return False
        if self.state == "half-open" or time.monotonic() < self._closed_until:
            raise ServiceError(
                f"not asked after {self._failures} failures in a row, the last: {self._last}",
                counts=False,
            )
        self.state = "half-open"
        return True

    def worked(self) -> None:
        self.state = "closed"
        self._failures = 0

    def failed(self, cause: str) -> None:
        self._failures += 1
        self._last = cause
        if self.state == "half-open" or self._failures >= self._limit:
            self.state = "open"
            self._closed_until = time.monotonic() + self._seconds


def failure_of(
    status: int, headers: Mapping[str, str], content: bytes = b""
) -> ServiceError | None:
    """What a status other than success means."""
    if 200 <= status < 300:
        return None
    if status in (401, 403) or (status == 400 and _refuses_key(content)):
        return ServiceError(f"{ACCESS_DENIED} (HTTP {status}): check the key and what it may do")
    if may_pass(status):
        wait = max(retry_after(headers), rate_limit_pause(headers))
        return ServiceError(f"HTTP {status}", retry=True, wait=wait)
    if status in (400, 413, 422):
        return ServiceError(f"rejected by the service (HTTP {status})", split=True, counts=False)
    return ServiceError(f"HTTP {status}")


def _refuses_key(content: bytes) -> bool:
    """Whether an error of a Google API (``google.rpc.ErrorInfo``) is about the key."""
    try:
        details = json.loads(content)["error"]["details"]
        return any(detail.get("reason") == "API_KEY_INVALID" for detail in details)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False

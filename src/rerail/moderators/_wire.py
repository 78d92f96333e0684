"""What a service says besides its verdicts: statuses, headers, keys and URLs, and its health."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from rerail.errors import ModeratorError
from rerail.moderators.base import ACCESS_DENIED

_CREDENTIAL = re.compile(
    r"auth(?!or\b)|cookie|key|token|secret|passw|credential|signature", re.IGNORECASE
)


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


def checked_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ModeratorError: it is not http or https, has no host, or carries a credential.
    """
    try:
        parts = urlsplit(url)
        query = [name for name, _ in parse_qsl(parts.query)]
        carries = "@" in parts.netloc or any(map(is_credential, query))
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ModeratorError("the URL of a service cannot be read") from None
    if carries:
        raise ModeratorError(
            "the URL of a service carries a credential: name an environment variable in the "
            "options instead"
        )
    if not usable:
        # Not quoted: without its scheme, what stands before an @ is not told from a path.
        raise ModeratorError("not a URL of a service: write https://host/path")
    return url.rstrip("/")


def is_credential(name: str) -> bool:
    """Whether a header or parameter of that name holds a key."""
    return bool(_CREDENTIAL.search(name))


def failure_of(status: int, headers: Mapping[str, str]) -> ServiceError | None:
    """What a status other than success means."""
    if 200 <= status < 300:
        return None
    if status in (401, 403):
        return ServiceError(f"{ACCESS_DENIED} (HTTP {status}): check the key and what it may do")
    if status in (408, 425, 429) or status >= 500:
        wait = max(retry_after(headers), rate_limit_pause(headers))
        return ServiceError(f"HTTP {status}", retry=True, wait=wait)
    if status in (400, 413, 422):
        return ServiceError(f"rejected by the service (HTTP {status})", split=True, counts=False)
    return ServiceError(f"HTTP {status}")


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` (RFC 9110, 10.2.3) or ``retry-after-ms`` asks to wait."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    if text is None:
        return 0.0
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def rate_limit_pause(headers: Mapping[str, str]) -> float:
    """Seconds until a used-up ``x-ratelimit-remaining[-requests|-tokens]`` is reset."""
    pause = 0.0
    for kind in ("", "-requests", "-tokens"):
        remaining = _number(headers.get(f"x-ratelimit-remaining{kind}"))
        if remaining is not None and remaining < 1:
            pause = max(pause, duration(headers.get(f"x-ratelimit-reset{kind}", "")))
    return pause


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH = 1e9


def duration(text: str) -> float:
    """Seconds from ``12ms``, ``6m0s``, ``1.5`` (seconds) or a Unix time; 0 if unclear."""
    if (number := _number(text)) is not None:
        return max(number - time.time(), 0.0) if number > _EPOCH else number
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if "".join(number + unit for number, unit in parts) != text.strip():
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None

"""What a key may ask for in a minute and in a day, counted in memory or in Redis.

A request is counted before it is answered, its tokens after: those that were generated, whatever
became of them. A key whose tokens are spent waits until the window ends; windows begin with the
first request in them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from rerail.errors import RerailError
from rerail.server.errors import ApiError
from rerail.server.keys import ApiKey

log = logging.getLogger(__name__)

MEMORY = "memory://"
"""Counts of this process alone."""

_TIMEOUT = 2.0
"""Seconds to wait for Redis."""


class LimitsError(RerailError):
    """The counts cannot be had where they are said to be."""


class RateLimits:
    """The limits of all keys.

    Args:
        storage: where the counts are: `MEMORY`, or ``redis://host:port`` for several servers.

    Raises:
        LimitsError: there is no such storage, or its package is not installed.
    """

    def __init__(self, storage: str = MEMORY) -> None:
        options = {} if storage == MEMORY else {"socket_timeout": _TIMEOUT}
        try:
            counts = storage_from_string(storage, wrap_exceptions=True, **options)
        except ConfigurationError as error:
            needed = ": pip install 'rerail[redis]'" if "redis" in str(error).lower() else ""
            raise LimitsError(
                f"cannot count requests there{needed or ': write memory:// or redis://HOST:PORT'}"
            ) from None
        except ValueError:
            raise LimitsError("--limits is no address: write redis://HOST:PORT") from None
        self._limiter = FixedWindowRateLimiter(counts)

    def request(self, key: ApiKey) -> None:
        """Count a request of a key.

        Raises:
            ApiError: 429 where the key has asked for all that it may; 503 where the counts cannot
                be had.
        """
        try:
            for what, item in _limits(key).items():
                free = self._limiter.hit if what == _REQUESTS else self._limiter.test
                if not free(item, key.name, what):
                    raise self._spent(key, what, item)
        except StorageError as error:
            raise _unreachable(key, error) from None

    def spend(self, key: ApiKey, tokens: int) -> None:
        """Count tokens that were generated for a key; one request may take more than are left.

        Where they cannot be counted the log says so, and no further request is answered.
        """
        try:
            for what, item in _limits(key).items():
                if what != _REQUESTS and tokens:
                    self._limiter.hit(item, key.name, what, cost=tokens)
        except StorageError as error:
            log.error("tokens of key %s were not counted: %s", key.name, error.storage_error)

    def left(self, key: ApiKey) -> Mapping[str, int]:
        """What a key may still ask for in the present windows, by the name of its limit.

        Raises:
            ApiError: 503 where the counts cannot be had.
        """
        try:
            return {
                what: self._limiter.get_window_stats(item, key.name, what).remaining
                for what, item in _limits(key).items()
            }
        except StorageError as error:
            raise _unreachable(key, error) from None

    def _spent(self, key: ApiKey, what: str, item: RateLimitItem) -> ApiError:
        reset = self._limiter.get_window_stats(item, key.name, what).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        kind = "requests" if what == _REQUESTS else "tokens"
        return ApiError(
            f"this key may have {item.amount} {what.replace('_', ' ')}: come back in {wait} s",
            "rate_limit_exceeded",
            retry_after=wait,
            headers={
                f"X-RateLimit-Limit-{kind.title()}": str(item.amount),
                f"X-RateLimit-Remaining-{kind.title()}": "0",
                f"X-RateLimit-Reset-{kind.title()}": f"{wait}s",
            },
        )


_REQUESTS = "requests_per_minute"


def _limits(key: ApiKey) -> dict[str, RateLimitItem]:
    """The limits of a key by their names, those of tokens first: they count nothing."""
    given = {
        "tokens_per_day": key.tokens_per_day and RateLimitItemPerDay(key.tokens_per_day),
        "tokens_per_minute": key.tokens_per_minute
        and RateLimitItemPerMinute(key.tokens_per_minute),
        _REQUESTS: key.requests_per_minute and RateLimitItemPerMinute(key.requests_per_minute),
    }
    return {what: item for what, item in given.items() if item}


def _unreachable(key: ApiKey, error: StorageError) -> ApiError:
    log.error("requests of key %s cannot be counted: %s", key.name, error.storage_error)
    return ApiError(
        "the server cannot count this key's requests, and answers none: its log says why",
        "limits_unavailable",
        retry_after=5,
    )

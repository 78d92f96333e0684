"""What moderators were asked so far: cost and latency, counted by those that cost something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rerail.moderators.base import Moderator


@dataclass(frozen=True, slots=True)
class Stats:
    """What a service was asked so far.

    Attributes:
        verdicts: exchanges judged, unscored ones included.
        unscored: exchanges without a verdict.
        requests: HTTP requests sent; what services with a price per call bill.
        retries: requests that repeated an earlier one.
        texts: texts sent, retries included.
        characters: characters of those texts; what services with a price per text record bill.
        seconds: sum of the requests' durations.
        slowest: seconds of the slowest request.
        breaker: ``closed`` (all is well), ``open`` (left alone) or ``half-open`` (being probed).
    """

    verdicts: int = 0
    unscored: int = 0
    requests: int = 0
    retries: int = 0
    texts: int = 0
    characters: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    breaker: Literal["closed", "open", "half-open"] = "closed"


def counters(moderator: Moderator) -> dict[str, Stats]:
    """What a moderator or its members were asked so far, by name; only of those that count.

    A moderator that counts has a method ``stats``, which gives its `Stats`, or those of its
    members by name.
    """
    stats = getattr(moderator, "stats", None)
    found = stats() if callable(stats) else {}
    return {moderator.name: found} if isinstance(found, Stats) else dict(found)

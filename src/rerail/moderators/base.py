"""The seam between rerail and whatever judges answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rerail.types import Exchange, Score

ACCESS_DENIED = "access denied"
"""Part of the cause where a service does not accept the key. That is no outage: no policy lets an
answer pass for it."""


@runtime_checkable
class Moderator(Protocol):
    """Gives answers category scores.

    One may have an attribute ``quick``, True where a verdict costs next to nothing beside an
    answer. Beginnings of first answers are judged by such moderators only.

    Attributes:
        name: what the moderator is called in policies and records.
        categories: the categories that every one of its verdicts holds.
    """

    @property
    def name(self) -> str: ...

    @property
    def categories(self) -> tuple[str, ...]: ...

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """Judge the answer of each exchange: one `Score` per exchange, in the same order.

        A verdict that cannot be had is ``Score.unscored(cause)``, never a number. Raising is
        allowed: each conversation of the batch is then asked for by itself, and those for which
        it raises again are unscored.
        """
        ...

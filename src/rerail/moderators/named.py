"""A moderator under a name of the policy's own choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerail.moderators.base import Moderator
from rerail.moderators.stats import Stats, counters
from rerail.types import Exchange, Score


class Named:
    """Another name for a moderator, so that one policy can have two of a kind.

    Args:
        moderator: what is asked.
        name: what it is called in routes, verdicts and counters.
    """

    def __init__(self, moderator: Moderator, name: str) -> None:
        self._moderator = moderator
        self.name = name
        self.categories = moderator.categories

    def __repr__(self) -> str:
        return f"Named({self._moderator!r}, {self.name!r})"

    def __getattr__(self, name: str) -> Any:
        """What else the moderator offers: its taxonomy, its model."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._moderator, name)

    def stats(self) -> dict[str, Stats]:
        """What the moderator counts, under this name."""
        own = self._moderator.name
        found = counters(self._moderator)
        return {self.name if name == own else name: stats for name, stats in found.items()}

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """The moderator's verdicts."""
        return self._moderator.score(exchanges)

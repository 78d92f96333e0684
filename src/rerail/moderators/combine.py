"""Several moderators as one: per category the max, the mean, or the one it is routed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rerail.errors import ModeratorError
from rerail.moderators.base import Moderator
from rerail.moderators.stats import Stats, counters
from rerail.types import Exchange, Score


class Combined:
    """A moderator made of others.

    A category's score is taken over the members that give it. An exchange that one member leaves
    unscored is unscored: a missing verdict is not a harmless one.

    Args:
        members: at least one, with different names.
        how: ``max`` or ``mean`` over the members that give a category.
        routes: category to the name of the one member whose score counts for it.

    Raises:
        ModeratorError: a route names no member, or one that does not give the category.
    """

    def __init__(
        self,
        members: Sequence[Moderator],
        how: Literal["max", "mean"] = "max",
        routes: Mapping[str, str] | None = None,
    ) -> None:
        by_name = {member.name: member for member in members}
        if not members or len(by_name) < len(members):
            raise ModeratorError("combine at least one moderator, each under a name of its own")
        for category, name in (routes or {}).items():
            if name not in by_name or category not in by_name[name].categories:
                raise ModeratorError(f"route of {category!r}: {name!r} does not give it")
        self._members = tuple(members)
        self._how = how
        self._routes = dict(routes or {})
        self.name = "+".join(by_name)
        self.quick = all(getattr(member, "quick", False) for member in members)
        self.categories = tuple(dict.fromkeys(c for m in members for c in m.categories))

    def stats(self) -> dict[str, Stats]:
        """What the members count, by name."""
        return {name: stats for m in self._members for name, stats in counters(m).items()}

    def forget(self) -> None:
        """Have the members forget what they remember of answers, if they do."""
        for member in self._members:
            if forget := getattr(member, "forget", None):
                forget()

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange from one call to each member."""
        verdicts = [member.score(exchanges) for member in self._members]
        return [self._combine(of_members) for of_members in zip(*verdicts, strict=True)]

    def _combine(self, verdicts: tuple[Score, ...]) -> Score:
        if not all(verdict.scored for verdict in verdicts):
            failed = [
                Score.unscored(f"{member.name}: {verdict.cause}", verdict.categories)
                if verdict.cause
                else verdict
                for member, verdict in zip(self._members, verdicts, strict=True)
            ]
            return Score.worst(failed)
        return Score.of({c: self._one(c, verdicts) for c in self.categories})

    def _one(self, category: str, verdicts: tuple[Score, ...]) -> float:
        values = [
            verdict.categories[category]
            for member, verdict in zip(self._members, verdicts, strict=True)
            if category in member.categories
            and self._routes.get(category, member.name) == member.name
        ]
        return max(values) if self._how == "max" else sum(values) / len(values)

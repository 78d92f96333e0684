"""How a moderator's names map to ours: explicitly, with a reason for every name that is left out.

A moderator in a file of its own declares one `Taxonomy` next to the citation of its names::

    TAXONOMY = Taxonomy(
        {"Hate": "hate", "SelfHarm": "self-harm"},
        left_out={"Politics": "a policy of its owner, not a harm"},
    )

`Taxonomy.categories` is what the moderator gives, `Taxonomy.scores` turns a verdict under its names
into one under ours, and `Taxonomy.explain` is what ``rerail moderate --explain`` shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rerail.errors import ModeratorError
from rerail.moderators.base import Moderator
from rerail.names import nearest
from rerail.policy import CATEGORIES, CUSTOM

BY_OPTION = "switched off by the option 'map'"


@dataclass(frozen=True, slots=True)
class Mapped:
    """One name of a moderator.

    Attributes:
        theirs: the name that the moderator uses.
        ours: the category that it becomes; None if it is left out.
        left_out: why it is left out; None if it is not.
    """

    theirs: str
    ours: str | None
    left_out: str | None = None

    def __str__(self) -> str:
        return f"{self.theirs} -> {self.ours or f'left out: {self.left_out}'}"


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A moderator's names, each of which becomes one of our categories or is left out.

    Several names may become one category: its score is then the largest of theirs.

    Args:
        mapped: their name to our category, which is one of `rerail.policy.CATEGORIES` or starts
            with ``custom/``.
        left_out: their name to why it is left out.

    Raises:
        ModeratorError: a category is not one of ours, a name is both mapped and left out, or none
            is mapped.
    """

    mapped: Mapping[str, str]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, category in self.mapped.items():
            own = category.startswith(CUSTOM) and len(category) > len(CUSTOM)
            if category not in CATEGORIES and not own:
                raise ModeratorError(
                    f"{name!r} cannot become {category!r}{nearest(category, CATEGORIES)} "
                    f"(a category of your own starts with {CUSTOM!r})"
                )
            if name in self.left_out:
                raise ModeratorError(f"{name!r} is both mapped and left out")
        if not self.mapped:
            raise ModeratorError("no name becomes a category: a moderator gives at least one")
        object.__setattr__(self, "mapped", MappingProxyType(dict(self.mapped)))
        object.__setattr__(self, "left_out", MappingProxyType(dict(self.left_out)))

    @property
    def categories(self) -> tuple[str, ...]:
        """Our categories that a full verdict holds: in our order, then those of one's own."""
        given = dict.fromkeys(self.mapped.values())
        return (*(c for c in CATEGORIES if c in given), *(c for c in given if c not in CATEGORIES))

    @property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of the mapping: another mapping, another version."""
        content = json.dumps([dict(self.mapped), dict(self.left_out)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def explain(self) -> tuple[Mapped, ...]:
        """Every name of theirs, mapped ones first."""
        return (
            *(Mapped(theirs, ours) for theirs, ours in self.mapped.items()),
            *(Mapped(theirs, None, why) for theirs, why in self.left_out.items()),
        )

    def changed(self, changes: Mapping[str, str | None] | None) -> Taxonomy:
        """The mapping with some names mapped otherwise, or left out (None).

        Raises:
            ModeratorError: a name is not the moderator's, or a category is not one of ours.
        """
        if not changes:
            return self
        known = [*self.mapped, *self.left_out]
        for name in changes:
            if name not in known:
                raise ModeratorError(f"option 'map': unknown name {name!r}{nearest(name, known)}")
        mapped = {t: o for t, o in {**self.mapped, **changes}.items() if o is not None}
        left_out = {t: why for t, why in self.left_out.items() if t not in mapped}
        left_out |= {t: BY_OPTION for t in self.mapped if t not in mapped}
        return Taxonomy(mapped, left_out)

    def scores(self, theirs: Mapping[str, float]) -> dict[str, float]:
        """Our categories' scores from scores under their names.

        Raises:
            KeyError: a mapped name is missing.
        """
        scores: dict[str, float] = {}
        for name, category in self.mapped.items():
            scores[category] = max(theirs[name], scores.get(category, 0.0))
        return {category: scores[category] for category in self.categories}

    @classmethod
    def identity(cls, categories: Iterable[str]) -> Taxonomy:
        """The mapping of a moderator that uses our names."""
        return cls({category: category for category in categories})


def taxonomy_of(moderator: Moderator) -> Taxonomy | None:
    """How a moderator's names map to ours; None if it has no names of its own."""
    # Not by an isinstance of a protocol: since Python 3.12 that does not see what a wrapper passes
    # on through `__getattr__`.
    found = getattr(moderator, "taxonomy", None)
    return found if isinstance(found, Taxonomy) else None

"""Moderators: exchanges in, category scores out. One file each; `load_moderator` finds them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tsalign.errors import ModeratorError
from tsalign.moderators.base import Moderator
from tsalign.moderators.cache import Cached
from tsalign.moderators.combine import Combined
from tsalign.moderators.fake import FakeModerator
from tsalign.moderators.guard import Guarded
from tsalign.policy import Policy, nearest

__all__ = ["Cached", "Combined", "FakeModerator", "Guarded", "Moderator", "load_confirm", "load_moderator"]

REGISTRY: dict[str, str] = {
    "embedded": "tsalign.moderators.embedded:EmbeddedModerator",
    "fake": "tsalign.moderators.fake:FakeModerator",
}
"""Name in a policy to where the class is; imported when a policy first asks for it."""


def load_moderator(policy: Policy) -> Moderator:
    """The moderator that steers under a policy: its members, combined.

    Raises:
        ModeratorError: a name is not registered, or a moderator rejects its options.
    """
    members = [_load(spec.name, spec.options) for spec in policy.moderators]
    if len(members) == 1 and not policy.routes:
        return members[0]
    return Combined(members, policy.combine, policy.routes)


def load_confirm(policy: Policy) -> Moderator | None:
    """The moderator that confirms under a policy: the max of its members; None if it has none.

    Raises:
        ModeratorError: a name is not registered, or a moderator rejects its options.
    """
    members = [_load(spec.name, spec.options) for spec in policy.confirm]
    return Combined(members) if members else None


def _load(name: str, options: dict[str, Any]) -> Moderator:
    if name not in REGISTRY:
        raise ModeratorError(f"unknown moderator {name!r}{nearest(name, REGISTRY)}")
    module, _, attribute = REGISTRY[name].partition(":")
    factory: Callable[..., Moderator] = getattr(import_module(module), attribute)
    try:
        return factory(**options)
    except TypeError as error:
        raise ModeratorError(f"moderator {name!r} rejects its options: {error}") from None

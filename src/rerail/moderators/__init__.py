"""Moderators: exchanges in, category scores out. One file each; `load_moderator` finds them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rerail.errors import ModeratorError, ModeratorSpecError
from rerail.moderators.base import Moderator
from rerail.moderators.cache import Cached
from rerail.moderators.combine import Combined
from rerail.moderators.fake import FakeModerator
from rerail.moderators.limit import TimeLimited
from rerail.moderators.named import Named
from rerail.moderators.stats import Stats, counters
from rerail.moderators.taxonomy import Mapped, Taxonomy, taxonomy_of
from rerail.names import nearest
from rerail.policy import ModeratorSpec, Policy

__all__ = [
    "Cached",
    "Combined",
    "FakeModerator",
    "Moderator",
    "Stats",
    "TimeLimited",
    "counters",
    "explain",
    "load_confirm",
    "load_gate",
    "load_moderator",
    "names",
]

REGISTRY: dict[str, str] = {
    "azure": "rerail.moderators.azure:AzureModerator",
    "classifier": "rerail.moderators.classifier:ClassifierModerator",
    "custom-guard": "rerail.moderators.guards.custom:CustomGuard",
    "embedded": "rerail.moderators.embedded:EmbeddedModerator",
    "embedded-small": "rerail.moderators.small:SmallModerator",
    "fake": "rerail.moderators.fake:FakeModerator",
    "granite-guardian": "rerail.moderators.guards.granite_guardian:GraniteGuardian",
    "http": "rerail.moderators.http:HttpModerator",
    "llama-guard": "rerail.moderators.guards.llama_guard:LlamaGuard",
    "mistral": "rerail.moderators.mistral:MistralModerator",
    "openai": "rerail.moderators.openai:OpenAIModerator",
    "perspective": "rerail.moderators.perspective:PerspectiveModerator",
    "qwen3guard": "rerail.moderators.guards.qwen3_guard:Qwen3Guard",
    "rules": "rerail.moderators.rules:RulesModerator",
    "shieldgemma": "rerail.moderators.guards.shield_gemma:ShieldGemma",
    "wildguard": "rerail.moderators.guards.wild_guard:WildGuard",
}
"""Name in a policy to where the class is; imported when a policy first asks for it."""

ENTRY_POINTS = "rerail.moderators"
"""The entry-point group in which other packages register theirs; ours cannot be replaced."""


def names() -> list[str]:
    """Names of moderators, those of other packages included."""
    return sorted({*REGISTRY, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def load_moderator(policy: Policy) -> Moderator:
    """The moderator that steers under a policy: its members, combined.

    Raises:
        ModeratorSpecError: a name is not registered, or a moderator's options are not valid.
        ModeratorError: a moderator cannot be loaded.
    """
    members = [_load(spec) for spec in policy.moderators]
    if len(members) == 1 and not policy.routes:
        return members[0]
    return Combined(members, policy.combine, policy.routes)


def load_confirm(policy: Policy) -> Moderator | None:
    """The moderator that confirms under a policy: the max of its members; None if it has none.

    Raises:
        ModeratorSpecError: a name is not registered, or a moderator's options are not valid.
        ModeratorError: a moderator cannot be loaded.
    """
    members = [_load(spec) for spec in policy.confirm]
    return Combined(members) if members else None


def load_gate(policy: Policy) -> tuple[Moderator, ...]:
    """The moderators of prompts under a policy, each by itself; none if it has no gate.

    Raises:
        ModeratorSpecError: a name is not registered, or a moderator's options are not valid.
        ModeratorError: a moderator cannot be loaded.
    """
    return tuple(_load(spec) for spec in policy.gate)


def explain(policy: Policy) -> dict[str, tuple[Mapped, ...]]:
    """Every moderator of a policy, with what becomes of each of its names.

    Raises:
        ModeratorSpecError: a name is not registered, or a moderator's options are not valid.
        ModeratorError: a moderator cannot be loaded.
    """
    explained = {}
    for spec in (*policy.moderators, *policy.confirm, *policy.gate):
        moderator = _load(spec)
        taxonomy = taxonomy_of(moderator) or Taxonomy.identity(moderator.categories)
        explained[spec.name] = taxonomy.explain()
    return explained


def _load(spec: ModeratorSpec) -> Moderator:
    """A moderator of a policy, under its name there."""
    moderator = _make(spec.registered, spec.options)
    return moderator if spec.kind is None else Named(moderator, spec.name)


def _make(name: str, options: Mapping[str, Any]) -> Moderator:
    """A moderator by its name; the option ``disk_cache`` (true or a path) is one of all of them."""
    given = dict(options)
    disk_cache = given.pop("disk_cache", False)
    if not isinstance(disk_cache, bool | str):
        raise ModeratorSpecError("option 'disk_cache' takes true, false or the path of a file")
    factory = _factory(name)
    try:
        if fault := _misfit(factory, given):
            raise ValueError(fault)
        moderator = factory(**given)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModeratorSpecError(f"moderator {name!r} rejects its options: {error}") from None
    if not disk_cache:
        return moderator
    from rerail.moderators.disk_cache import DiskCached

    path = None if disk_cache is True else Path(disk_cache).expanduser()
    return DiskCached(moderator, path, options=given)


def _misfit(factory: Callable[..., Moderator], given: Mapping[str, Any]) -> str | None:
    """Which options a constructor does not know, or lacks; None if it has what it needs."""
    known = inspect.signature(factory).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        names = [p.name for p in known]
        for name in given:
            if name not in names:
                return f"unknown option {name!r}{nearest(name, names)}"
    variadic = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    missing = [
        p.name
        for p in known
        if p.default is p.empty and p.kind not in variadic and p.name not in given
    ]
    return f"it needs {', '.join(missing)}" if missing else None


def _factory(name: str) -> Callable[..., Moderator]:
    if name in REGISTRY:
        module, _, attribute = REGISTRY[name].partition(":")
        factory: Callable[..., Moderator] = getattr(import_module(module), attribute)
        return factory
    plugins = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in plugins:
        raise ModeratorSpecError(f"unknown moderator {name!r}{nearest(name, names())}")
    try:
        factory = plugins[name].load()
    except Exception as error:
        raise ModeratorError(
            f"moderator {name!r} cannot be loaded from {plugins[name].value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return factory

"""Methods: tsalign's own, its ablations, and what they are compared with. One file each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import yaml

from tsalign.errors import PromptError
from tsalign.eval.methods import ablations
from tsalign.eval.methods.aligned import Aligned
from tsalign.eval.methods.base import Answered, Context, Judged, Method
from tsalign.eval.methods.best_of_n import BestOfN
from tsalign.eval.methods.gradient_cuff import GradientCuff
from tsalign.eval.methods.in_context import InContextDefence
from tsalign.eval.methods.none import NoDefence
from tsalign.eval.methods.refuse import CannedRefusal
from tsalign.eval.methods.resta import Resta
from tsalign.eval.methods.self_reminder import SelfReminder
from tsalign.eval.methods.smooth_llm import SmoothLLM
from tsalign.eval.methods.steps import Ask, Attempt, Reply, Steps, Stepwise
from tsalign.policy import OptimizerSettings, Preset, nearest

__all__ = [
    "BASELINES",
    "NAMES",
    "OWN",
    "Answered",
    "Ask",
    "Attempt",
    "Context",
    "Judged",
    "Method",
    "Reply",
    "Steps",
    "Stepwise",
    "load_method",
]

BASELINES: dict[str, Callable[..., Stepwise]] = {
    kind.name: kind
    for kind in (
        NoDefence,
        CannedRefusal,
        SelfReminder,
        InContextDefence,
        BestOfN,
        SmoothLLM,
        Resta,
        GradientCuff,
    )
}
OWN = ("random", "reference", "fast", "policy")
"""Presets of the optimiser, and the policy's own."""
NAMES = (*BASELINES, *OWN, *ablations.NAMES)


def load_method(spec: str) -> Method:
    """A method by its name, with settings: ``best-of-n``, ``fast:num_directions=16``.

    A method with settings is called by the whole of it in records.

    Raises:
        PromptError: the name, or a setting, is unknown.
    """
    name, _, given = spec.partition(":")
    options = _options(spec, given)
    if name not in NAMES:
        raise PromptError(f"unknown method {name!r}{nearest(name, NAMES)}")
    if name in BASELINES:
        known = set(inspect.signature(BASELINES[name]).parameters)
        _check(spec, options, known)
        method = BASELINES[name](**options)
        method.name = spec
        return method
    _check(spec, options, set(OptimizerSettings.model_fields) - {"preset"})
    if name in ablations.NAMES:
        loaded = ablations.ablation(name, options)
    else:
        loaded = Aligned(name, None if name == "policy" else cast("Preset", name), options)
    loaded.name = spec
    return loaded


def _options(spec: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise PromptError(f"method {spec!r}: write settings as NAME=VALUE, not {part!r}")
        options[key.strip()] = yaml.safe_load(value)
    return options


def _check(spec: str, options: dict[str, Any], known: set[str]) -> None:
    for key in options:
        if key not in known:
            raise PromptError(f"method {spec!r}: unknown setting {key!r}{nearest(key, known)}")

"""Methods: rerail's own, its ablations, and what they are compared with. One file each."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

from rerail._yaml import NotYamlError, read_yaml
from rerail.errors import PromptError
from rerail.eval.methods import ablations
from rerail.eval.methods.adasteer import AdaSteer
from rerail.eval.methods.aligned import Aligned
from rerail.eval.methods.base import Context, Method, Returned
from rerail.eval.methods.best_of_n import BestOfN
from rerail.eval.methods.gate import Gate
from rerail.eval.methods.goal_priority import GoalPriority
from rerail.eval.methods.gradient_cuff import GradientCuff
from rerail.eval.methods.in_context import InContextDefence
from rerail.eval.methods.intention import IntentionAnalysis
from rerail.eval.methods.none import NoDefence
from rerail.eval.methods.refuse import CannedRefusal
from rerail.eval.methods.resta import Resta
from rerail.eval.methods.rose import Rose
from rerail.eval.methods.self_reminder import SelfReminder
from rerail.eval.methods.smooth_llm import SmoothLLM
from rerail.eval.methods.steps import Attempt, Reply, Steps, Stepwise
from rerail.names import nearest
from rerail.settings import OptimizerSettings, Preset

__all__ = [
    "BASELINES",
    "NAMES",
    "OWN",
    "Attempt",
    "Context",
    "Method",
    "Reply",
    "Returned",
    "Steps",
    "Stepwise",
    "load_method",
]

BASELINES: dict[str, Callable[..., Stepwise]] = {
    kind.name: kind
    for kind in (
        NoDefence,
        CannedRefusal,
        Gate,
        SelfReminder,
        InContextDefence,
        GoalPriority,
        IntentionAnalysis,
        Rose,
        BestOfN,
        SmoothLLM,
        Resta,
        AdaSteer,
        GradientCuff,
    )
}
OWN = ("random", "tide", "tsa", "fast", "policy")
"""Presets of the optimiser, and the policy's own."""
NAMES = (*BASELINES, *OWN, *ablations.NAMES)


def load_method(spec: str) -> Method:
    """A method by its name, with settings: ``best-of-n``, ``fast:num_directions=16``.

    A method with settings is called by the whole of it in records.

    Raises:
        PromptError: the name, or a setting, is unknown, or a baseline's setting is not valid.
    """
    name, _, given = spec.partition(":")
    options = _options(spec, given)
    if name not in NAMES:
        raise PromptError(f"unknown method {name!r}{nearest(name, NAMES)}")
    if name in BASELINES:
        parameters = inspect.signature(BASELINES[name]).parameters
        _check(spec, options, set(parameters))
        for key, value in options.items():
            _check_value(spec, key, value, parameters[key].default)
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
        try:
            options[key.strip()] = read_yaml(value)
        except NotYamlError as error:
            raise PromptError(f"method {spec!r}: {key.strip()} is not YAML, {error}") from None
    return options


def _check(spec: str, options: dict[str, Any], known: set[str]) -> None:
    for key in options:
        if key not in known:
            raise PromptError(f"method {spec!r}: unknown setting {key!r}{nearest(key, known)}")


def _check_value(spec: str, key: str, value: Any, default: Any) -> None:
    """A baseline's setting: of the kind that its default is, so that no run ends half-way."""
    if key in _TEXTS:
        allowed = _TEXTS[key]
        fits = isinstance(value, str) and value in (allowed or (value,))
        wanted = " or ".join(allowed) or "a text"
    elif isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = type(value) is int and value >= 1, "a whole number from 1"
    else:
        most = 1.0 if key in _SHARES else sys.float_info.max
        fits = type(value) in {int, float} and 0 <= value <= most
        wanted = "a number from 0 to 1" if key in _SHARES else "a number from 0"
    if not fits and not (value is None and default is None):
        raise PromptError(f"method {spec!r}: {key} is {wanted}, not {value!r}")


_SHARES = {"share", "false_positives", "depth"}
"""Settings of baselines that are parts of a whole."""
_TEXTS: dict[str, tuple[str, ...]] = {
    "units": ("table", "absolute"),
    "when": ("always", "flagged"),
    "contrast": (),
}
"""Settings of baselines that are texts, and which; any, where none is named."""

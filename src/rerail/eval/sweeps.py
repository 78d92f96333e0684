"""Sweeps: a method of the optimiser over the values of one of its settings.

``--sweep num_directions=1,8,32`` puts, in the place of every method that has an optimiser, one for
each value; several sweeps vary one setting each. What was swept is told by the methods' names, so
that methods given one by one are a sweep, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rerail._yaml import NotYamlError, read_yaml
from rerail.errors import PromptError
from rerail.eval import published
from rerail.eval.methods import OWN, ablations
from rerail.eval.quantities import BY_NAME
from rerail.eval.types import Trial
from rerail.names import nearest
from rerail.settings import OptimizerSettings

SWEEPABLE = tuple(key for key in OptimizerSettings.model_fields if key != "preset")
_SEARCHES = {*OWN, *ablations.NAMES}


def expanded(methods: Iterable[str], sweeps: Sequence[str]) -> tuple[str, ...]:
    """The methods, those with an optimiser once for each value of each sweep.

    Raises:
        PromptError: a sweep is not ``KEY=V1,V2,...`` with a key of the optimiser, or no method has
            one.
    """
    varied = [_read(sweep) for sweep in sweeps]
    found: list[str] = []
    for method in methods:
        name, settings, _ = parts(method)
        if name not in _SEARCHES or not varied:
            found.append(method)
            continue
        for key, values in varied:
            found += [_spec(name, {**settings, key: value}) for value in values]
    if varied and not any(parts(method)[0] in _SEARCHES for method in found):
        raise PromptError(
            f"--sweep varies methods with an optimizer: give one, as in --method {OWN[2]}"
        )
    return tuple(dict.fromkeys(found))


def _read(sweep: str) -> tuple[str, list[str]]:
    key, equals, given = sweep.partition("=")
    key, values = key.strip(), [value.strip() for value in given.split(",")]
    if not equals or not all(values):
        raise PromptError(f"--sweep {sweep!r}: write KEY=V1,V2,..., as in num_directions=1,8,32")
    if key not in SWEEPABLE:
        raise PromptError(f"--sweep {sweep!r}: unknown setting {key!r}{nearest(key, SWEEPABLE)}")
    return key, values


def parts(method: str) -> tuple[str, dict[str, str], str]:
    """Name, settings and model of a method as reports call it."""
    spec, _, model = method.partition(" @ ")
    name, _, given = spec.partition(":")
    pairs = (part.partition("=") for part in filter(None, given.split(",")))
    return name, {key.strip(): value.strip() for key, _, value in pairs}, model


def _spec(name: str, settings: Mapping[str, str]) -> str:
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in settings.items())


def found(methods: Mapping[str, Sequence[Trial]]) -> list[dict[str, Any]]:
    """Settings of which methods differ in the number alone: what they score and what they cost."""
    lines: defaultdict[tuple[str, ...], dict[float, str]] = defaultdict(dict)
    for method in methods:
        name, settings, model = parts(method)
        for key in settings.keys() & set(SWEEPABLE):
            value = _number(settings[key])
            others = {k: v for k, v in settings.items() if k != key}
            line = _spec(name, others).removesuffix(":") + (f" @ {model}" if model else "")
            if value is not None and name in _SEARCHES:
                lines[key, line].setdefault(value, method)
    rows = []
    for (key, line), by_value in sorted(lines.items()):
        for value, method in sorted(by_value.items()) if len(by_value) > 1 else ():
            figures = published.figures(methods[method])
            rows.append(
                {
                    "setting": key,
                    "line": line,
                    "value": value,
                    "method": method,
                    "score": figures["tsa_mean_score_after"],
                    "flagged": figures["tsa_flagged_rate_after"],
                    **{
                        name: BY_NAME[name].estimate(methods[method]).to_json()
                        for name in ("neutralised_share", "generations_per_prompt")
                    },
                }
            )
    return rows


def _number(text: str) -> float | None:
    try:
        value = read_yaml(text)
    except NotYamlError:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else None

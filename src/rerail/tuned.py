"""Step sizes that are known for a model: those of the papers, and those that were tuned here.

The published methods have no default μ and η: they are found by a grid on each model, which is
what ``rerail tune`` does.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

import yaml

from rerail.errors import PolicyError
from rerail.settings import OptimizerSettings

_COPY = re.compile(
    r"([-_.](fp8|fp16|bf16|f16|f32|awq|gptq|gguf|mlx|bnb|dynamic|unsloth|quantized|int[48]|w\d+a\d+"
    r"|i?q\d\w*|\d+[-_]?bit|nf4|mxfp4))+$",
    re.IGNORECASE,
)
"""What copies of a model add to its name: how they were quantised."""


def known(preset: str, model: str) -> dict[str, Any] | None:
    """The values of a preset for a model, by its hub id, a copy's, or the name of its folder."""
    return _values().get(preset, {}).get(_base(model))


def resolved(settings: OptimizerSettings, model: str) -> OptimizerSettings:
    """The settings with the model's own step sizes where they name none, or name the preset's.

    Raises:
        PolicyError: the preset has no step sizes of its own, and none are known for the model.
    """
    found = known(settings.preset, model)
    default = OptimizerSettings.of(settings.preset)
    own = ("units", "perturbation_scale", "step_size")
    if found is not None and all(getattr(settings, k) == getattr(default, k) for k in own):
        values = {key: value for key, value in found.items() if key not in ("models", "source")}
        return OptimizerSettings.model_validate(
            {**settings.model_dump(), "units": "absolute", **values}
        )
    if settings.perturbation_scale is None:
        raise PolicyError(
            f"preset {settings.preset!r} has no step sizes for {model!r}: find them with "
            f"rerail tune --preset {settings.preset} --model MODEL, or give perturbation_scale "
            "and step_size under optimizer"
        )
    return settings


def _base(model: str) -> str:
    """The last part of a name, in small letters, without what copies add to it."""
    return _COPY.sub("", model.rstrip("/").rsplit("/", 1)[-1].lower())


@cache
def _values() -> dict[str, dict[str, dict[str, Any]]]:
    text = (resources.files("rerail") / "assets" / "tuned.yaml").read_text(encoding="utf-8")
    return {
        preset: {_base(model): row for row in rows for model in row["models"]}
        for preset, rows in yaml.safe_load(text).items()
    }

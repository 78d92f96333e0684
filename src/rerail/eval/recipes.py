"""Recipes: runs that can be called by name, as files of settings.

A recipe is a YAML mapping of a run's settings (docs/reference/evaluation.md, "Settings of a run")
with a ``description``. It names benchmarks and methods at least; ``policy`` is a name, or a path.
Those that come with rerail are in the folder ``assets/recipes`` of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rerail._yaml import NotYamlError, read_yaml
from rerail.errors import InputFileError
from rerail.eval.settings import RunSettings
from rerail.names import nearest

_NEEDED = ("benchmarks", "methods")


@dataclass(frozen=True)
class Recipe:
    """A run by name.

    Attributes:
        name: its name, or its path.
        description: what it is for.
        policy: name or path of its policy; None: the default.
        settings: the others that it gives, as values of `RunSettings`.
    """

    name: str
    description: str
    policy: str | None
    settings: Mapping[str, Any]

    @property
    def benchmarks(self) -> str:
        """Its benchmarks as options of the command line."""
        return " ".join(f"--benchmark '{name}'" for name in self.settings["benchmarks"])


def names() -> list[str]:
    """Those that come with rerail."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir())


def load_recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of a file.

    Raises:
        InputFileError: there is none, or it is not valid.
    """
    shipped = names()
    if name in shipped:
        return _read(name, _folder() / f"{name}.yaml")
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputFileError(
            f"unknown recipe {name!r}{nearest(name, shipped)}; there are {', '.join(shipped)}, and "
            "files by their path"
        )
    return _read(name, path)


def _folder() -> Traversable:
    return resources.files("rerail") / "assets" / "recipes"


def _read(name: str, file: Traversable) -> Recipe:
    try:
        values = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InputFileError(f"cannot read recipe {name}: it is no UTF-8 text") from None
    except NotYamlError as error:
        raise InputFileError(f"recipe {name} is not YAML, {error}") from None
    if not isinstance(values, dict):
        raise InputFileError(f"recipe {name} is no mapping of settings")
    known = (*RunSettings.model_fields, "description")
    for key in values:
        if key not in known:
            raise InputFileError(
                f"recipe {name}: unknown setting {key!r}{nearest(str(key), known)}"
            )
    description, policy = values.pop("description", ""), values.pop("policy", None)
    for key, value in (("description", description), ("policy", policy or "")):
        if not isinstance(value, str):
            raise InputFileError(f"recipe {name}: {key} is no text")
    for key in _NEEDED:
        value = values.get(key)
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not texts or not value:
            raise InputFileError(f"recipe {name}: {key} is no list of names")
    return Recipe(name, description, policy, values)

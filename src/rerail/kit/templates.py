"""Policies to start from, each with cases that test it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rerail.errors import PolicyError
from rerail.names import nearest
from rerail.policy import Policy


@dataclass(frozen=True)
class Template:
    """A policy with its comments, and its cases.

    Attributes:
        policy: the YAML text.
        cases: the YAML text of the cases.
    """

    policy: str
    cases: str

    def filled(self, values: Mapping[str, Any]) -> Template:
        """The template with other values of keys that stand on a line of their own.

        Raises:
            PolicyError: with one of them it is no valid policy, or it has no such line.
        """
        text = self.policy
        for key, value in values.items():
            line = f"{key}: {json.dumps(value, ensure_ascii=False)}".replace("\\", r"\\")
            text, found = re.subn(rf"(?m)^{key}:.*$", line, text, count=1)
            if not found:
                raise PolicyError(f"the template has no line {key!r}: write it into the file")
        old, new = Policy.from_yaml(self.policy).name, Policy.from_yaml(text).name
        cases = self.cases.replace(f"policy {old}", f"policy {new}").replace(
            f"{old}.yaml", f"{new}.yaml"
        )
        return Template(text, cases)


def template_names() -> tuple[str, ...]:
    """Names of the templates."""
    files = (resources.files("rerail") / "assets" / "policies" / "templates").iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def template(name: str) -> Template:
    """A template by its name.

    Raises:
        PolicyError: there is none; the message names the nearest.
    """
    if name not in (known := template_names()):
        raise PolicyError(f"unknown template {name!r}{nearest(name, known)}")
    folder = resources.files("rerail") / "assets" / "policies" / "templates"
    files = (folder / f"{name}.yaml", folder / "cases" / f"{name}.yaml")
    return Template(*(file.read_text(encoding="utf-8") for file in files))

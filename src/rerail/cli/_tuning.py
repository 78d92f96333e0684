"""The folder of ``rerail tune``: what is written into it, and how a run goes on.

    DIR/settings.json   everything that decides the result
    DIR/trials.jsonl    one line per setting and prompt, without texts
    DIR/grid.json, DIR/grid.md, DIR/grid.svg
    DIR/policy.yaml     the policy with what was found; only if something was

Offsets leave policy.yaml alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from rerail.cli._lines import OutputFile
from rerail.errors import PolicyError, StoreError
from rerail.eval.records import write_text
from rerail.policy import Policy, PolicyStore
from rerail.store import differences
from rerail.tune.grid import Trial
from rerail.tune.steps import trial_line, trial_of

SETTINGS, TRIALS, POLICY = "settings.json", "trials.jsonl", "policy.yaml"


class _Trials(OutputFile):
    command, option = "rerail tune", "--out"
    keys = frozenset(Trial.__dataclass_fields__)


class Folder:
    """The folder of a grid, made or gone on with.

    Args:
        path: of the folder.
        settings: all that decides the result.

    Raises:
        StoreError: it cannot be written, is in use, or holds another run.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        make(path)
        self._lines = _Trials(path / TRIALS)
        try:
            self._resume(path / SETTINGS, json.loads(json.dumps(settings)))
        except BaseException:
            self._lines.__exit__()
            raise
        self.known: list[Trial] = [trial_of(line) for line in self._lines.lines]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def keep(self, trial: Trial) -> None:
        """Write a trial; it is on the disk at the end."""
        self._lines.write(trial_line(trial))

    def _resume(self, path: Path, wanted: Mapping[str, Any]) -> None:
        if not path.exists():
            if not self._lines.empty:
                raise StoreError(
                    f"{path.parent} has trials and no {SETTINGS}: restore it, or choose another "
                    "--out"
                )
            write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
        elif different := differences(_read(path), wanted):
            raise StoreError(
                f"{path.parent} was begun under other settings ({different}): go on under those, "
                "or choose another --out"
            )
        self._lines.mend()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise StoreError(f"cannot read {path}: restore it, or choose another --out")
    return value


def make(path: Path) -> None:
    """Make a folder that can be written into.

    Raises:
        StoreError: that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}; choose another --out") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write into {path}: choose another --out")


def tuned_name(policy: Policy, name: str | None) -> str:
    """What the policy is called that is written: never as one that comes with rerail.

    Raises:
        PolicyError: the name is one of those, or is no name.
    """
    chosen = name or f"{policy.name}-tuned"
    if chosen in PolicyStore.shipped().names():
        raise PolicyError(f"{chosen!r} is a policy that comes with rerail: choose another --name")
    Policy.parse({"name": chosen}, "--name")
    return chosen


def write_policy(path: Path, policy: Policy, name: str, changes: Mapping[str, Any]) -> Policy:
    """Write a policy as it was given, but for its name and some keys; what it reads back as."""
    data = {**policy.model_dump(mode="json", exclude_unset=True), "name": name, **changes}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    tuned = Policy.from_yaml(text, str(path))
    write_text(path, text)
    return tuned

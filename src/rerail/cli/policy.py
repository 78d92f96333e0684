"""``rerail policy``: list, show, check and compare policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report
from rerail.cli._text import one_line
from rerail.errors import ModeratorError, PolicyError
from rerail.policy import Policy

commands = typer.Typer(
    help="List, show, check and compare policies.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NameOrPath = Annotated[
    str,
    typer.Argument(
        help="Name of a policy, or path of its YAML file.", autocompletion=options.policy_names
    ),
]


@commands.command("list")
def list_(policies: options.PoliciesOption = None, as_json: options.JsonOption = False) -> Report:
    """The policies there are, with their versions."""
    store = options.policies(policies)
    found = [store.get(name) for name in store.names()]
    document = {"policies": [{**_tag(p), "description": p.description} for p in found]}

    def show(console: Console) -> None:
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("name", "version", "description"):
            table.add_column(name, overflow="fold", no_wrap=name != "description")
        for policy in found:
            table.add_row(policy.name, policy.version, one_line(policy.description))
        console.print(table)

    return Report(document, show, as_json)


@commands.command()
def show(
    policy: NameOrPath,
    policies: options.PoliciesOption = None,
    method: options.MethodOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """A policy as YAML, every value written out."""
    found = options.read_policy(policy, policies, method)
    document = {**_tag(found), "policy": found.model_dump(mode="json")}

    def print_yaml(console: Console) -> None:
        console.file.write(f"# version {found.version}\n{found.to_yaml()}")

    return Report(document, print_yaml, as_json)


@commands.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="YAML files.")],
    as_json: options.JsonOption = False,
) -> Report:
    """Whether files are valid policies; every fault is named."""
    results = [_checked(file) for file in files]
    valid = all(result["valid"] for result in results)

    def show(console: Console) -> None:
        for result in results:
            if result["valid"]:
                said = f"{result['file']}: valid, {result['name']} {result['version']}"
                console.print(said, soft_wrap=True)
            else:
                console.print(Text(f"{result['file']}: not valid", "red"), soft_wrap=True)
                for fault in result["faults"]:
                    console.print(f"  {fault}", soft_wrap=True)

    code = ExitCode.OK if valid else ExitCode.BAD_INPUT
    return Report({"valid": valid, "files": results}, show, as_json, code)


@commands.command()
def diff(
    old: NameOrPath,
    new: NameOrPath,
    policies: options.PoliciesOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """What differs between two policies, value by value."""
    a, b = (options.read_policy(name, policies) for name in (old, new))
    before, after = (dict(_values(p.model_dump(mode="json"))) for p in (a, b))
    keys: dict[str, None] = dict.fromkeys([*before, *after])
    changes: list[dict[str, Any]] = [
        {"key": key, "old": before.get(key), "new": after.get(key)}
        for key in keys
        if (key in before, before.get(key)) != (key in after, after.get(key))
    ]

    def show(console: Console) -> None:
        console.print(f"{a.name} {a.version} → {b.name} {b.version}")
        table = Table.grid(padding=(0, 2))
        for change in changes:
            values = (
                _shown(change["key"] in side, side.get(change["key"])) for side in (before, after)
            )
            table.add_row(change["key"], " → ".join(values))
        console.print(table if changes else "no difference")

    return Report({"old": _tag(a), "new": _tag(b), "changes": changes}, show, as_json)


def _tag(policy: Policy) -> dict[str, Any]:
    return {"name": policy.name, "version": policy.version, "audit": policy.audit}


def _checked(file: Path) -> dict[str, Any]:
    try:
        policy = Policy.from_file(file)
        _check_moderators(policy)
    except (PolicyError, ModeratorError) as error:
        head, *faults = str(error).splitlines()
        return {"file": str(file), "valid": False, "faults": [f.strip() for f in faults] or [head]}
    return {"file": str(file), "valid": True, "name": policy.name, "version": policy.version}


def _check_moderators(policy: Policy) -> None:
    """What the file alone cannot tell: the moderators exist and give the categories it names."""
    from rerail.panel import Panel

    Panel.load(policy)


def _values(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``(dotted key, value)`` of all leaves; lists are values."""
    leaves: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            leaves += _values(value, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, value))
    return leaves


def _shown(present: bool, value: Any) -> str:
    if not present:
        return "(not set)"
    return one_line(value) if isinstance(value, str) else "null" if value is None else str(value)

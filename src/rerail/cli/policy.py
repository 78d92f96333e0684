"""``rerail policy``: make, list, show, explain, check, test and compare policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from rerail.cli import _options as options
from rerail.cli._frame import SHORT_EPILOGUE, ExitCode, Report
from rerail.cli._lines import STANDARD, name_of
from rerail.cli._rows import show_rows
from rerail.cli._text import one_line, printable
from rerail.cli.policy_diff import diff
from rerail.cli.policy_new import new
from rerail.cli.policy_test import run as test
from rerail.errors import ModeratorError, PolicyError
from rerail.policy import Policy

commands = typer.Typer(
    help="Make, list, show, explain, check, test and compare policies.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def list_(policies: options.PoliciesOption = None, as_json: options.JsonOption = False) -> Report:
    """The policies there are, with their versions."""
    store = options.policies(policies)
    found = [store.get(name) for name in store.names()]
    document = {"policies": [{**_tag(p), "description": p.description} for p in found]}

    def show(console: Console) -> None:
        rows = [
            {"name": p.name, "version": p.version, "description": one_line(p.description)}
            for p in found
        ]
        show_rows(console, rows, fold={"description"})

    return Report(document, show, as_json)


def show(
    policy: options.NameOrPath,
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


def explain(
    policy: options.NameOrPath,
    policies: options.PoliciesOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """A policy in words: who judges, what is flagged and tried, what it may cost."""
    from rerail.kit.explain import explain as explained

    found = options.read_policy(policy, policies)
    parts = explained(found)
    document = {**_tag(found), "parts": [{"about": p.about, "says": list(p.says)} for p in parts]}

    def show(console: Console) -> None:
        head = f"{found.name} {found.version}"
        described = f": {one_line(found.description)}" if found.description else ""
        console.print(head + described, soft_wrap=not console.is_terminal)
        for part in parts:
            console.print(Text(f"\n{part.about}", "bold"))
            for sentence in map(printable, part.says):
                if console.is_terminal:
                    console.print(Padding(Text(sentence), (0, 0, 0, 2)))
                else:
                    console.print(f"  {sentence}", soft_wrap=True)

    return Report(document, show, as_json)


def check(
    files: Annotated[list[Path], typer.Argument(help="YAML files; - is standard input.")],
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


def schema(as_json: options.JsonOption = False) -> Report:
    """The JSON Schema of policy files, for editors."""
    from rerail.kit.schema import policy_schema

    document = policy_schema()

    def show(console: Console) -> None:
        console.file.write(json.dumps(document, indent=2) + "\n")

    return Report(document, show, as_json)


for _name, _command in (
    ("new", new),
    ("list", list_),
    ("show", show),
    ("explain", explain),
    ("check", check),
    ("test", test),
    ("diff", diff),
    ("schema", schema),
):
    commands.command(_name, epilog=SHORT_EPILOGUE)(_command)


def _tag(policy: Policy) -> dict[str, Any]:
    return {"name": policy.name, "version": policy.version, "audit": policy.audit}


def _checked(file: Path) -> dict[str, Any]:
    name = name_of(file)
    try:
        policy = options.read_policy("-") if file == STANDARD else Policy.from_file(file)
        _check_moderators(policy)
    except (PolicyError, ModeratorError) as error:
        head, *faults = str(error).splitlines()
        return {"file": name, "valid": False, "faults": [f.strip() for f in faults] or [head]}
    return {"file": name, "valid": True, "name": policy.name, "version": policy.version}


def _check_moderators(policy: Policy) -> None:
    """What the file alone cannot tell: the moderators exist and give the categories it names."""
    from rerail.panel import Panel

    Panel.load(policy)

"""``rerail policy new``: a policy from a template, with cases that test it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rerail.cli import _options as options
from rerail.cli._frame import Report, notes
from rerail.errors import InputFileError, PolicyError, StoreError
from rerail.kit.templates import Template, template, template_names
from rerail.policy import Policy


def _template_names(begun: str) -> list[str]:
    return [name for name in template_names() if name.startswith(begun)]


def new(
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Name of a template; without one, a terminal is asked.",
            autocompletion=_template_names,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the policy; the template's by default.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Write the policy to this file, and its cases beside it: cases/FILE.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite both files.")] = False,
    as_json: options.JsonOption = False,
) -> Report:
    """A policy of your own, from a template.

    Without --output it goes to standard output, without cases.
    """
    made = template(from_).filled({"name": name} if name else {}) if from_ else _asked(name)
    policy = Policy.from_yaml(made.policy)
    document: dict[str, Any] = {"name": policy.name, "version": policy.version}
    if output is None:
        return Report(
            document | {"yaml": made.policy},
            lambda console: _print(console, made.policy),
            as_json,
        )
    cases = cases_beside(output)
    for file in (output, cases):
        if file.exists() and not force:
            raise InputFileError(f"{file} is there already: choose another --output, or --force")
    for file, text in ((output, made.policy), (cases, made.cases)):
        _write(file, text)

    def show(console: Console) -> None:
        console.print(f"{output}: policy {policy.name} {policy.version}", soft_wrap=True)
        console.print(f"{cases}: its cases", soft_wrap=True)
        console.print(f"try them: rerail policy test {output}", soft_wrap=True)

    files = {"output": str(output), "cases": str(cases)}
    return Report(document | files, show, as_json)


def cases_beside(policy: Path) -> Path:
    """Where the cases of a policy's file are looked for."""
    return policy.parent / "cases" / policy.name


def _print(console: Console, text: str) -> None:
    console.file.write(text)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"cannot write {file}: {error.strerror}; choose another --output"
        ) from None


_QUESTIONS = (
    ("name", "Name of the policy", str),
    ("default_threshold", "Threshold of what is not named, from 0 to 1; lower flags more", float),
    ("refusal_message", "What the reader sees where no acceptable answer is found", str),
    ("error_message", "What the reader sees where an answer could not be checked", str),
    ("record_text", "Should records keep prompts and answers", bool),
)
"""Key, question and kind of what is asked."""


def _asked(name: str | None) -> Template:
    """A template, and what it asks a person who sits at a terminal.

    Raises:
        BadParameter: nobody sits there.
    """
    known = template_names()
    if not options.attended():
        raise typer.BadParameter(f"give --from, one of {', '.join(known)}")
    for each in known:
        said = Policy.from_yaml(template(each).policy).description
        notes().print(f"{each}: {said}", soft_wrap=True)
    while True:
        try:
            made = template(typer.prompt("Template", default=known[0], err=True))
            break
        except PolicyError as error:
            notes().print(f"{error}", soft_wrap=True)
    for key, question, kind in _QUESTIONS:
        while True:
            default = getattr(Policy.from_yaml(made.policy), key)
            if key == "name" and name:
                default, name = name, None
            if kind is bool:
                answer: Any = typer.confirm(question, default=default, err=True)
            else:
                answer = typer.prompt(question, default=default, type=kind, err=True)
            try:
                made = made.filled({key: answer})
                break
            except PolicyError as error:
                notes().print(f"{error}", soft_wrap=True)
    return made

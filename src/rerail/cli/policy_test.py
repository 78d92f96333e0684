"""``rerail policy test``: whether a policy says of cases what it has to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report
from rerail.cli._junit import write_junit
from rerail.cli._options import Setup
from rerail.cli._rows import show_rows
from rerail.cli._text import one_line
from rerail.cli.policy_new import cases_beside
from rerail.kit.cases import Coverage, Result, State, coverage, read_cases, to_json, try_cases
from rerail.panel import Panel
from rerail.policy import Policy

_STYLES = {State.FAILED: "red", State.ERROR: "red", State.SKIPPED: "yellow", State.HELD: ""}


def run(
    policy: options.NameOrPath,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="YAML file; by default cases/FILE beside the policy's FILE."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write JUnit's XML to this file, too.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Answers the cases that have an outcome; without it they are skipped. "
            "As that of align.",
            autocompletion=options.model_names,
        ),
    ] = None,
    device: options.DeviceOption = None,
    max_new_tokens: options.MaxNewTokensOption = 256,
    seed: options.SeedOption = 0,
    policies: options.PoliciesOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """Whether a policy says of cases what it has to; for continuous integration.

    Exits with 1 if a case fails, with 4 if none does but one has no verdict. The last table has
    the cases that name a category: those that it must flag, and those that must not be flagged.
    """
    found = options.read_policy(policy, policies)
    if cases is None and policy in {found.name, "-"}:
        raise typer.BadParameter("give --cases: only a policy's file has cases beside it")
    read = read_cases(cases or cases_beside(Path(policy)))
    if model is None:
        panel = Panel.load(found)
        results = try_cases(panel, read)
    else:
        aligner = Setup(
            model, found, device=device, max_new_tokens=max_new_tokens, seed=seed
        ).aligner()
        panel = aligner.panel
        with options.working("answering"):
            results = try_cases(panel, read, aligner)
    if junit is not None:
        write_junit(junit, found.tag, results)
    covered = coverage(panel, read)
    counts = Counter(result.state for result in results)
    code = (
        ExitCode.UNEXPECTED
        if counts[State.FAILED]
        else ExitCode.FAILED
        if counts[State.ERROR]
        else ExitCode.OK
    )
    document = {
        "policy": {"name": found.name, "version": found.version, "audit": found.audit},
        "counts": {str(state): counts[state] for state in State},
        "cases": [to_json(result) for result in results],
        "coverage": [
            {"category": c.category, "flagged": list(c.flagged), "passes": list(c.passes)}
            for c in covered
        ],
    }
    return Report(document, lambda console: _show(console, found, results, covered), as_json, code)


def _show(
    console: Console, policy: Policy, results: Sequence[Result], covered: Sequence[Coverage]
) -> None:
    rows: list[dict[str, str | Text]] = [
        {
            "case": one_line(result.case.id),
            "state": Text(result.state, _STYLES[result.state]),
            "found": result.found + (f"; {one_line(result.why)}" if result.why else ""),
        }
        for result in results
    ]
    show_rows(console, rows, fold={"case", "found"})
    console.print()
    table: list[dict[str, str | Text]] = [
        {
            "category": one_line(c.category),
            "must be flagged": _count(c.flagged),
            "must pass": _count(c.passes),
        }
        for c in covered
    ]
    show_rows(console, table, right={"must be flagged", "must pass"}, fold={"category"})
    console.print()
    ids = {state: [one_line(r.case.id) for r in results if r.state is state] for state in State}
    said = [f"{len(of)} {state}" for state, of in ids.items() if of]
    console.print(f"policy {policy.name} {policy.version}: {' · '.join(said)}", soft_wrap=True)
    for state in (State.FAILED, State.ERROR):
        if ids[state]:
            console.print(f"{state}: {', '.join(ids[state])}", style="red", soft_wrap=True)


def _count(ids: Sequence[str]) -> Text:
    return Text(str(len(ids))) if ids else Text("none", "yellow")

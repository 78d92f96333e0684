"""``rerail report``: write a run's report anew, or compare two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report
from rerail.cli._rows import show_rows
from rerail.cli._text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMPARISON = "Comparison"


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    other: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of another run, compared with the first prompt by prompt.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="By how much a share may get worse; by default 0.02, two points of a hundred.",
            rich_help_panel=_COMPARISON,
        ),
    ] = None,
    nats_tolerance: Annotated[
        float | None,
        typer.Option(
            "--nats-tolerance",
            min=0,
            help="By how much naturalness may get worse, nats per token; by default 0.1.",
            rich_help_panel=_COMPARISON,
        ),
    ] = None,
    cost_tolerance: Annotated[
        float | None,
        typer.Option(
            "--cost-tolerance",
            min=0,
            help="By what part generations and tokens may grow; by default 0.1, a tenth.",
            rich_help_panel=_COMPARISON,
        ),
    ] = None,
    certain: Annotated[
        bool,
        typer.Option(
            "--certain",
            help="Fail only if the paired 95 % interval says that it is worse, too.",
            rich_help_panel=_COMPARISON,
        ),
    ] = False,
    as_json: options.JsonOption = False,
) -> Report:
    """Write the report of a run anew, or compare two runs and fail if the second is worse.

    One folder: report.html, summary.json, tables and plots are written from its records. Two: each
    method's figures on the prompts that both runs answered; the exit code is 1 if one got worse by
    more than its tolerance.
    """
    given = {"share": tolerance, "nats": nats_tolerance, "cost": cost_tolerance}
    chosen = {key: value for key, value in given.items() if value is not None}
    if other is None:
        if chosen or certain:
            raise typer.BadParameter("tolerances and --certain compare: name a second folder")
        return _written(folder, as_json)
    return _compared(folder, other, {**chosen, "certain": certain}, as_json)


def _written(folder: Path, as_json: bool) -> Report:
    from rerail.eval.report import write

    with options.working("writing the report"):
        write(folder)
    path = str(folder / "report.html")

    def show(console: Console) -> None:
        console.print(f"report: {printable(path)}", soft_wrap=True)

    return Report({"report": path}, show, as_json)


def _compared(first: Path, second: Path, tolerance: Mapping[str, Any], as_json: bool) -> Report:
    from rerail.eval.compare import Tolerance, compare

    with options.working("comparing"):
        found = compare(first, second, Tolerance(**tolerance))
    code = ExitCode.UNEXPECTED if found["regressed"] else ExitCode.OK
    return Report(found, lambda console: _show(found, console), as_json, code)


_STYLES = {"regression": "bold red", "worse": "yellow", "better": "green"}


def _show(found: Mapping[str, Any], console: Console) -> None:
    from rerail.eval.tables import Figure, PValue, difference_unit, written

    rows = [
        {
            "method": printable(row["method"]),
            "figure": row["title"],
            "prompts": str(row["pairs"]),
            "before": written(row["first"], row["unit"]),
            "after": written(row["second"], row["unit"]),
            "difference": str(Figure(row["difference"], difference_unit(row["unit"]))),
            "p": str(PValue(row["p_adjusted"])),
            "verdict": Text(row["verdict"], _STYLES[row["verdict"]]),
        }
        for row in found["rows"]
        if row["verdict"] != "same"
    ]
    show_rows(console, rows, right={"prompts", "before", "after", "difference", "p"})
    if rows:
        console.print()
    for line in _notes(found):
        console.print(printable(line), soft_wrap=True)


_MOST_NAMES = 10


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What the table leaves out, and the end of it all."""
    first, second = found["runs"]
    lines = []
    for key, run in (("only_first", first), ("only_second", second)):
        if names := found["methods"][key]:
            lines.append(f"only in {run}: {', '.join(names)}")
    if found["unpaired"]:
        lines.append(f"{found['unpaired']} trials have no partner in the other run: left out")
    if found["other_prompts"]:
        lines.append(f"{found['other_prompts']} pairs ask different things: left out")
    if found["settings"]:
        names = [setting["name"] for setting in found["settings"]]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"settings that differ: {', '.join(names[:_MOST_NAMES])}{more}")
    if same := sum(row["verdict"] == "same" for row in found["rows"]):
        lines.append(f"{same} of {len(found['rows'])} figures are the same")
    worse = sum(row["verdict"] == "regression" for row in found["rows"])
    lines.append(
        f"{worse} of {len(found['rows'])} figures are worse by more than their tolerance"
        if worse
        else "nothing is worse by more than its tolerance"
    )
    return lines

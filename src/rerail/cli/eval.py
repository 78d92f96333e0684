"""``rerail eval``: methods by benchmarks, into a folder."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report, notes, resumable
from rerail.cli._options import Setup
from rerail.cli._text import printable
from rerail.engines import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rerail.engines import Engine
    from rerail.eval.recipes import Recipe
    from rerail.eval.settings import RunSettings

_ASKED, _RUN = "What is asked", "Run"


def _benchmark_names(begun: str) -> list[str]:
    from rerail.eval.benchmarks import BENCHMARKS

    return [name for name in sorted(BENCHMARKS) if name.startswith(begun)]


def _scenario_names(begun: str) -> list[str]:
    from rerail.eval.scenarios import ADAPTIVE, PLAIN, TRANSFORMS

    return [name for name in (PLAIN, *TRANSFORMS, ADAPTIVE) if name.startswith(begun)]


def _method_names(begun: str) -> list[str]:
    from rerail.eval.methods import NAMES

    return [name for name in NAMES if name.startswith(begun)]


def evaluate(
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            help="NAME=PATH, or NAME from the hub; NAME[420:520]=PATH takes rows, "
            "NAME+SCENARIO=PATH puts them so. May be repeated.",
            autocompletion=_benchmark_names,
            rich_help_panel=_ASKED,
        ),
    ] = None,
    wrappers: Annotated[
        str | None,
        typer.Option(
            "--wrappers",
            help="NAME=PATH: a jailbreak wrapper of this file around each harmful request.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            help="plain, multi-turn, adaptive, ...: how it is asked. May be repeated.",
            autocompletion=_scenario_names,
            rich_help_panel=_ASKED,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Cases per benchmark, drawn.", rich_help_panel=_ASKED),
    ] = None,
    template: Annotated[
        bool | None,
        typer.Option(
            "--template/--no-template",
            help="Without the chat template, prompts are continued as text: base models.",
            show_default=False,
            rich_help_panel=_ASKED,
        ),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            "--attempts",
            min=1,
            help="Prompts per case of the adaptive attacker.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    generations: Annotated[
        int | None,
        typer.Option(
            "--generations",
            min=1,
            help="Answers that a case may cost; by default the policy's budget.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="none, refuse, best-of-n, tsa, fast, fast:num_directions=4, ... May be repeated.",
            autocompletion=_method_names,
        ),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="Besides the embedded one: strongreject=MODEL[@URL], harmbench=MODEL[@URL].",
        ),
    ] = None,
    perplexity_model: Annotated[
        str | None,
        typer.Option(
            "--perplexity-model", help="Of the answers' perplexity; by default the model itself."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="Name of a policy, or path of its YAML file.",
            autocompletion=options.policy_names,
        ),
    ] = None,
    policies: options.PoliciesOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help=f"{options.MODELS}, or 'fake'. May be repeated. Default: {DEFAULT_MODEL}.",
            autocompletion=options.model_names,
            rich_help_panel="Model",
        ),
    ] = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Per answer.", rich_help_panel="Model"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, help="0 is greedy.", rich_help_panel="Model"),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, max=2**63 - 1, help="May be repeated.", rich_help_panel=_RUN),
    ] = None,
    max_open: Annotated[
        int | None,
        typer.Option(
            "--max-open", min=1, help="Prompts answered in lock-step.", rich_help_panel=_RUN
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            help="KEY=V1,V2,...: each method with an optimizer once for each value of this setting "
            "of it. May be repeated.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="A whole experiment by name (real-model, layers, tsa-table-1, tide-table, xstest, "
            "over-refusal-and-utility), or path of its YAML file; other options replace its "
            "values.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="settings.json of a run: run it again; other options replace its values.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of the run. Killed, the same command goes on with it.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            help="Try prompts again on which model or moderator failed.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    as_json: options.JsonOption = False,
) -> Report:
    """Answer benchmarks by several methods, and say what they do, what they harm, what they cost.

    Records, figures, tables, plots and a report of one page go to --out. The same command goes on
    with a run that was killed; its settings.json runs it again elsewhere.
    """
    from rerail.eval.recipes import load_recipe
    from rerail.eval.records import RunFolder
    from rerail.eval.run import Loaders, Run, finish
    from rerail.eval.sweeps import expanded

    given = {
        "benchmarks": benchmark,
        "wrappers": wrappers,
        "scenarios": scenario,
        "methods": method,
        "models": model,
        "device": device,
        "dtype": dtype and dtype.value,
        "policy": policy,
        "limit": limit,
        "seeds": seed,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "max_open": max_open,
        "template": template,
        "judges": judge,
        "perplexity_model": perplexity_model,
        "attempts": attempts,
        "generations": generations,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    cooked = None if recipe is None else load_recipe(recipe)
    run = _settings(settings, cooked, chosen, policies)
    if sweep:
        run = run.with_changes({"methods": expanded(run.methods, sweep)})
    if out is None:
        raise typer.BadParameter("give --out, the folder of the run")
    loaders = Loaders(lambda name: _engine(run, name))
    with _about_data(None if benchmark else cooked):
        begun = Run(run, out, loaders)
    with resumable(out), begun as evaluation:
        for model_name, lacking in evaluation.left_out.items():
            for name, why in lacking.items():
                notes().print(f"left out: {name} @ {model_name}, because {why}", soft_wrap=True)
        folder: RunFolder = evaluation.folder
        if retry_errors:
            folder.forget_errors()
        _answer(evaluation)
        with options.working("writing the report"):
            summary = finish(folder)
    code = ExitCode.PARTLY if summary["errors"] else ExitCode.OK
    return Report(summary, lambda console: _show(summary, out, console), as_json, code)


def _settings(
    path: Path | None, recipe: Recipe | None, given: Mapping[str, Any], policies: Path | None
) -> RunSettings:
    """The settings of a file, of a recipe, or the defaults, with what was given in their place."""
    from rerail.eval.settings import RunSettings

    if path is not None and recipe is not None:
        raise typer.BadParameter("give --recipe or --settings, not both")
    policy = given.get("policy", recipe.policy if recipe else None)
    changes = {**(recipe.settings if recipe else {}), **given}
    if policy is not None:
        changes["policy"] = options.read_policy(policy, policies)
    if path is not None:
        return RunSettings.from_file(path).with_changes(changes)
    missing = [f"--{name[:-1]}" for name in ("benchmarks", "methods") if name not in changes]
    if missing:
        raise typer.BadParameter(
            f"give {' and '.join(missing)} at least once, or --recipe, or --settings"
        )
    return RunSettings.of(**{"policy": options.read_policy("default"), **changes})


@contextmanager
def _about_data(recipe: Recipe | None) -> Iterator[None]:
    """What cannot be read, with what else the recipe reads: a file of one's own replaces all."""
    from rerail.errors import InputFileError

    try:
        yield
    except InputFileError as error:
        if recipe is None:
            raise
        raise InputFileError(
            f"{error}. Recipe {recipe.name} reads {recipe.benchmarks}: with any --benchmark, only "
            "those that are given"
        ) from None


def _engine(run: RunSettings, name: str) -> Engine:
    dtype = None if run.dtype is None else options.Dtype(run.dtype)
    return Setup(name, run.policy, run.device, dtype).engine()


def _answer(evaluation: Any) -> None:
    from rerail.cli._batch import progress

    with progress("evaluating", evaluation.remaining) as advance:
        evaluation.run(advance)


def _show(summary: Mapping[str, Any], out: Path, console: Console) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("n", justify="right")
    for _, heading in _COLUMNS:
        widest = max(len(word) for word in heading.split())
        table.add_column(heading, justify="right", min_width=widest)
    for name, figures in summary["methods"].items():
        table.add_row(
            re.sub(r"(?<=[:,])(?=\S)", "\n", printable(name)),  # settings on lines of their own
            str(figures["n"]),
            *(_cell(figures[key], key != _GENERATIONS) for key, _ in _COLUMNS),
        )
    console.print(table)
    console.print("Intervals, tests and plots are in the report.")
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)


_GENERATIONS = "generations_per_steered"
_COLUMNS = (
    ("flagged_before", "flagged before"),
    ("flagged_after", "after"),
    ("neutralised_share", "neutralised"),
    ("judge_harmful_after", "judged harmful"),
    ("unchanged_benign_share", "benign kept"),
    (_GENERATIONS, "answers per steered"),
)


def _cell(estimate: Mapping[str, Any], share: bool) -> str:
    """A figure; a dash if there is nothing to average."""
    value = estimate["value"]
    if value is None:
        return "–"
    return f"{value:.1%}" if share else f"{value:.1f}"

"""``rerail tune``: step sizes, offsets, or the order of guidance, for a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report, notes
from rerail.cli._options import Setup
from rerail.cli._text import one_line
from rerail.engines import DEFAULT_MODEL

if TYPE_CHECKING:
    from rerail.align import Aligner
    from rerail.policy import Policy
    from rerail.types import Prompt


class What(StrEnum):
    """What is tuned."""

    STEPS = "steps"
    OFFSETS = "offsets"
    GUIDANCE = "guidance"


class Objective(StrEnum):
    """What is best."""

    SCORE = "score"
    NEUTRALISED = "neutralised"


def _numbers(value: str | None) -> str | None:
    if value is not None:
        try:
            valid = all(0 < float(part) < float("inf") for part in value.split(","))
        except ValueError:
            valid = False
        if not valid:
            raise typer.BadParameter(f"{value!r}: give numbers above 0 like 0.1,0.3,1")
    return value


_STEPS, _OFFSETS = "With --what steps", "With --what offsets"


def tune(
    input_: Annotated[
        Path,
        typer.Option(
            "--input",
            help="Tuning prompts: JSONL with 'prompt' or 'messages' that the model goes along "
            "with; not the ones that you evaluate on.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of what is found.")],
    what: Annotated[
        What,
        typer.Option(
            "--what",
            help="μ and η of the search, directions that it tries first, or the order in which it "
            "tries the policy's guidance.",
        ),
    ] = What.STEPS,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the policy that is written; by default NAME-tuned."),
    ] = None,
    grid_mu: Annotated[
        str | None,
        typer.Option(
            "--grid-mu",
            help="Values of μ, with commas; by default such as fit the model.",
            callback=_numbers,
            rich_help_panel=_STEPS,
        ),
    ] = None,
    grid_eta: Annotated[
        str | None,
        typer.Option("--grid-eta", help="Values of η.", callback=_numbers, rich_help_panel=_STEPS),
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(
            "--objective",
            help="Least score of the best answer, or most prompts neutralised; by default the "
            "first for tsa and tide, the second for fast and random.",
            rich_help_panel=_STEPS,
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Offsets at most: 4.", rich_help_panel=_OFFSETS),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank",
            min=1,
            help="Principal directions of the table to look in: 8.",
            rich_help_panel=_OFFSETS,
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws", min=2, help="Offsets per prompt and round: 8.", rich_help_panel=_OFFSETS
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Rounds: 4.", rich_help_panel=_OFFSETS)
    ] = None,
    policy: options.PolicyOption = "default",
    policies: options.PoliciesOption = None,
    preset: Annotated[
        options.Method | None,
        typer.Option("--preset", help="Whose step sizes; by default the policy's own optimiser."),
    ] = None,
    model: options.ModelOption = DEFAULT_MODEL,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: options.MaxNewTokensOption = 256,
    seed: options.SeedOption = 0,
    max_open: options.MaxOpenOption = 64,
    as_json: options.JsonOption = False,
) -> Report:
    """Find what a model needs on prompts of your own: step sizes, offsets, order of guidance.

    Step sizes: a grid over μ and η, all of it on a few prompts, the better half on twice as many,
    until a few are left on all. Killed, the same command goes on. Offsets: directions that led to
    acceptable answers on many prompts, tried first on others. Guidance: the policy's own texts,
    first those that solve the most for what they cost. Each time a policy that holds what was
    found is written to --out, for a grid with a table and a plot; if nothing is better than no
    steering, none is, and the exit code is 5.
    """
    from rerail.cli._lines import read_prompts
    from rerail.cli._tuning import make, tuned_name

    of_steps = {"--grid-mu": grid_mu, "--grid-eta": grid_eta, "--objective": objective,
                "--preset": preset}  # fmt: skip
    of_offsets = {"--keep": keep, "--rank": rank, "--draws": draws, "--rounds": rounds}
    others = (of_steps, what is not What.STEPS), (of_offsets, what is not What.OFFSETS)
    for option, value in (item for group, idle in others if idle for item in group.items()):
        if value is not None:
            raise typer.BadParameter(f"{option} has no effect with --what {what}: leave it out")
    setup = Setup(
        model=model,
        policy=options.read_policy(policy, policies, preset),
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        seed=seed,
        max_open=max_open,
    )
    chosen = tuned_name(setup.policy, name)
    prompts = read_prompts(input_)
    make(out)  # before anything is spent on what could not be kept
    if what is What.OFFSETS:
        given = {option[2:]: value for option, value in of_offsets.items() if value is not None}
        document, lines = _offsets(setup, prompts, out, chosen, given)
    elif what is What.GUIDANCE:
        document, lines = _guidance(setup, prompts, out, chosen)
    else:
        document, lines = _steps(setup, prompts, out, chosen, grid_mu, grid_eta, objective)
    found = document["policy"] is not None
    if found:
        lines.append(f"written: {out / 'policy.yaml'}, policy {chosen}")
    else:
        notes().print("warning: nothing found that is better than no steering; no policy written",
                      soft_wrap=True)  # fmt: skip
    code = ExitCode.OK if found else ExitCode.PARTLY
    return Report(document, lambda console: _print(console, lines), as_json, code)


def _steps(
    setup: Setup,
    prompts: Sequence[Prompt],
    out: Path,
    name: str,
    grid_mu: str | None,
    grid_eta: str | None,
    objective: Objective | None,
) -> tuple[dict[str, Any], list[str]]:
    from rerail.cli._batch import counting
    from rerail.cli._tuning import Folder
    from rerail.engines import Sampling
    from rerail.eval.records import write_text
    from rerail.panel import Panel
    from rerail.tune import grid
    from rerail.tune.steps import Tuner

    panel = Panel.load(setup.policy)  # first: it is quick to fail
    engine = setup.engine()
    base = setup.policy.optimizer
    settings = grid.grid(base, engine.table, _floats(grid_mu), _floats(grid_eta))
    aim = objective.value if objective else grid.default_objective(base)
    decided = {
        **setup.settings(engine),
        "optimizer": base.model_dump(mode="json"),
        "grid": settings,
        "objective": aim,
        "prompts": _hash(prompts),
    }
    with Folder(out, decided) as folder:
        tuner = Tuner(
            engine,
            panel,
            prompts,
            settings,
            objective=aim,
            sampling=Sampling(setup.max_new_tokens, setup.temperature),
            seed=setup.seed,
            max_open=setup.max_open,
            known=folder.known,
            keep=folder.keep,
        )
        found = tuner.run(counting)
    best = None if found.best is None else found.best.setting
    fragment = None if best is None else grid.written(grid.applied(base, best))
    edges = [] if best is None else grid.at_edge(best, settings)
    units = grid.applied(base, settings[0]).units
    table = grid.markdown(found.rows, found.unsteered, found.best, units)
    document = {
        "what": "steps",
        "preset": base.preset,
        "model": engine.name,
        "objective": aim,
        "units": units,
        "prompts": len(prompts),
        "counting": found.unsteered.prompts,
        "schedule": [one._asdict() for one in found.rounds],
        "unsteered": grid.document(found.unsteered),
        "grid": [grid.document(row) for row in found.rows],
        "best": found.best and grid.document(found.best),
        "at_edge": edges,
        "optimizer": fragment,
        **_written(setup.policy, out, name, None if fragment is None else {"optimizer": fragment}),
    }
    write_text(out / "grid.md", table)
    write_text(out / "grid.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if edges:
        notes().print(
            f"the best {' and '.join(edges)} lies at the edge of the grid: there may be better "
            "beyond; widen --grid-mu or --grid-eta",
            soft_wrap=True,
        )
    title = f"{base.preset} on {engine.name}"
    return document, [table, *_plot(found, aim, title, out / "grid.svg")]


def _offsets(
    setup: Setup, prompts: Sequence[Prompt], out: Path, name: str, given: dict[str, int]
) -> tuple[dict[str, Any], list[str]]:
    from rerail.cli._batch import counting
    from rerail.tune.offsets import fit

    aligner: Aligner = setup.aligner()
    found = fit(aligner, prompts, **given, seed=setup.seed, counting=counting)
    offsets = {**setup.policy.offsets, aligner.engine.name: found.offsets}
    plain = {model: [list(c) for c in coordinates] for model, coordinates in offsets.items()}
    document = {
        "what": "offsets",
        "model": aligner.engine.name,
        "prompts": len(prompts),
        "flagged": found.flagged,
        "accepted": found.accepted,
        "offsets": found.offsets,
        "generations": found.cost.generations,
        "generated_tokens": found.cost.generated_tokens,
        **_written(setup.policy, out, name, {"offsets": plain} if found.offsets else None),
    }
    steps = ", ".join(f"+{number}" for number in found.accepted)
    line = (
        f"{len(found.offsets)} offsets solve {sum(found.accepted)} of {found.flagged} flagged "
        f"prompts{f' ({steps})' if steps else ''}, after {found.cost.generations} answers"
    )
    return document, [line]


def _guidance(
    setup: Setup, prompts: Sequence[Prompt], out: Path, name: str
) -> tuple[dict[str, Any], list[str]]:
    from rerail.cli._batch import counting
    from rerail.tune.guidance import order

    aligner: Aligner = setup.aligner()
    found = order(aligner, prompts, counting=counting)
    texts = [text.model_dump(mode="json", exclude_unset=True) for text in found.guidance]
    solved = sum(found.accepted)
    document = {
        "what": "guidance",
        "model": aligner.engine.name,
        "prompts": len(prompts),
        "flagged": found.flagged,
        "accepted": found.accepted,
        "guidance": texts,
        "generations": found.cost.generations,
        "generated_tokens": found.cost.generated_tokens,
        **_written(setup.policy, out, name, {"guidance": texts} if solved else None),
    }
    lines = [
        f"{number:+4d}  {one_line(text.text)}"
        for text, number in zip(found.guidance, found.accepted, strict=True)
    ]
    lines.append(
        f"{len(texts)} texts solve {solved} of {found.flagged} flagged prompts, after "
        f"{found.cost.generations} answers"
    )
    return document, lines


def _written(
    policy: Policy, out: Path, name: str, changes: dict[str, Any] | None
) -> dict[str, Any]:
    """Write the policy with what was found; none is left where nothing was."""
    from rerail.cli._tuning import POLICY, write_policy

    path = out / POLICY
    if changes is None:
        path.unlink(missing_ok=True)
        return {"policy": None, "policy_version": None, "output": None}
    tuned = write_policy(path, policy, name, changes)
    return {"policy": tuned.name, "policy_version": tuned.version, "output": str(path)}


def _plot(found: Any, objective: Any, title: str, path: Path) -> list[str]:
    """Draw the grid where that can be done, and say where it is."""
    from rerail.errors import MissingDependencyError
    from rerail.tune.plot import plot

    try:
        plot(found, objective, title, path)
    except MissingDependencyError as error:
        notes().print(f"no plot: {error}", soft_wrap=True)
        return []
    return [f"plot: {path}"]


def _floats(value: str | None) -> list[float]:
    return [float(part) for part in value.split(",")] if value else []


def _hash(prompts: Sequence[Prompt]) -> str:
    turns = [[[m.role, m.content] for m in prompt.messages] for prompt in prompts]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()


def _print(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)

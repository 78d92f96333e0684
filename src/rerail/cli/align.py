"""``rerail align``: answer one prompt, or a file of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report, notes
from rerail.cli._options import Setup
from rerail.cli._text import one_line, printable
from rerail.errors import InputFileError
from rerail.types import Message, Outcome, Prompt, Response, Verdict

if TYPE_CHECKING:
    from rerail.align import Aligner
    from rerail.cluster import AlignerPool
    from rerail.store import Store

_PROMPTS, _CLUSTER = "Prompts", "Cluster"
_AUDIT = ", AUDIT: unscored answers may leave"


def align(
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", help="Text to answer; - reads standard input.", rich_help_panel=_PROMPTS
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", help="System message of --prompt.", rich_help_panel=_PROMPTS),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="JSONL: each line has 'prompt' or 'messages', and may have an 'id'.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="JSONL: one line per response. Killed, the same command goes on with it.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Throw the output and its records away.", rich_help_panel=_PROMPTS
        ),
    ] = False,
    policy: options.PolicyOption = "default",
    policies: options.PoliciesOption = None,
    model: options.ModelOption = "embedded",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: options.MaxNewTokensOption = 256,
    temperature: options.TemperatureOption = 0.0,
    method: options.MethodOption = None,
    seed: options.SeedOption = 0,
    max_open: options.MaxOpenOption = 64,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Spread --input over a Ray cluster: its address, 'auto' (the one of this "
            "machine) or 'local' (started here).",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            "--ray-workers",
            min=1,
            help="By default one per GPU, or one per node without GPUs.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    store: options.StoreOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """Answer prompts; steer where the model's own answer is flagged.

    With --prompt the answer goes to standard output and the figures to standard error.

    With --input and --output, every line of a file is answered; records go to --store, by default
    beside the output (y.jsonl has y.sqlite). The same command goes on with what is not finished:
    after a kill, and with lines for which the model or the moderator failed.
    """
    setup = Setup(
        model=model,
        policy=options.read_policy(policy, policies, method),
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        max_open=max_open,
    )
    if (prompt is None) == (input_ is None):
        raise typer.BadParameter("give either --prompt or --input")
    if prompt is not None:
        if output is not None or fresh or ray is not None or ray_workers is not None:
            raise typer.BadParameter("--output, --fresh, --ray and --ray-workers belong to --input")
        return _one(setup, _prompt(prompt, system), store, as_json)
    assert input_ is not None
    if output is None or system is not None:
        raise typer.BadParameter("--input needs --output, and takes system messages per line")
    if ray is None and ray_workers is not None:
        raise typer.BadParameter("--ray-workers belongs to --ray")
    aligner = partial(_pool, setup, ray, ray_workers) if ray else partial(_here, setup)
    return _many(setup, aligner, input_, output, store, fresh, as_json)


def _prompt(text: str, system: str | None) -> Prompt:
    user = Message("user", options.read_text(text))
    if system is None:
        return Prompt((user,))
    return Prompt((Message("system", options.read_text(system)), user))


def _one(setup: Setup, prompt: Prompt, store: str | None, as_json: bool) -> Report:
    with _records(store) as records:
        aligner = setup.aligner()
        with options.working("answering"):
            response = aligner.align(prompt)
        if records is not None:
            kept = prompt if setup.policy.record_text else None
            records.add("prompts", uuid.uuid4().hex, response, kept)
    codes = {Outcome.REFUSED: ExitCode.REFUSED, Outcome.ERROR: ExitCode.FAILED}

    def show(console: Console) -> None:
        console.print(printable(response.text), soft_wrap=True)
        notes().print(_figures(response))

    code = codes.get(response.outcome, ExitCode.OK)
    return Report(response.to_json(), show, as_json, code)


def _records(store: str | None) -> AbstractContextManager[Store | None]:
    """The store, opened before anything is spent on an answer."""
    if store is None:
        return nullcontext()
    from rerail.store import Store

    return Store.open(store)


def _here(setup: Setup) -> AbstractContextManager[Aligner]:
    return nullcontext(setup.aligner())


def _pool(setup: Setup, address: str, workers: int | None) -> AbstractContextManager[AlignerPool]:
    from rerail.cluster import AlignerPool, Settings

    settings = Settings(address=address, workers=workers, batch=setup.max_open)
    with options.working("starting workers"):
        return AlignerPool(setup.aligner, setup.policy, settings)


def _many(
    setup: Setup,
    make_aligner: Callable[[], AbstractContextManager[Aligner | AlignerPool]],
    path: Path,
    output: Path,
    store: str | None,
    fresh: bool,
    as_json: bool,
) -> Report:
    from rerail.cli._batch import Run, default_store, run_items
    from rerail.cli._lines import OutputFile, read_items
    from rerail.store import Store

    items, faults = read_items(path)
    for fault in faults:
        notes().print(f"{path}, line {fault.line}: {fault.error}", soft_wrap=True)
    if output.exists() and output.samefile(path):
        raise InputFileError("--input and --output are the same file: choose another --output")
    # Beside its output a run is known by the file's name, so that both may be moved together.
    name = output.name if store is None else str(output.resolve())
    with (
        OutputFile(output) as lines,
        Store.open(store or default_store(output)) as records,
        make_aligner() as aligner,
    ):
        run = Run(name, setup.settings(aligner.engine), records, lines)
        run.resume(fresh)
        summary = run_items(run, aligner, items, faults)
    code = ExitCode.PARTLY if summary["failed"] else ExitCode.OK
    return Report(summary, lambda console: _show_summary(summary, console), as_json, code)


def _figures(response: Response) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    cost = response.cost
    came_from = "" if response.outcome is Outcome.PASSED else f", stopped: {response.stop_reason}"
    table.add_row("outcome", f"{response.outcome} ({response.accepted_from}{came_from})")
    table.add_row("harm", f"{_harm(response.initial)} → {_harm(response.final)} (1 is flagged)")
    table.add_row(
        "cost",
        f"generations {cost.generations}, tokens {cost.generated_tokens}, "
        f"verdicts {cost.moderator_calls}, {cost.seconds:.1f} s",
    )
    if response.naturalness is not None and response.outcome is not Outcome.PASSED:
        table.add_row("naturalness", f"{response.naturalness:+.2f} nats per token")
    if response.tokens_preserved is not None and response.outcome is Outcome.STEERED:
        kept = f"{response.tokens_preserved:.0%} of the tokens kept"
        table.add_row("moved", f"{kept}, cosine {response.cosine:.3f}")
    audit = _AUDIT if response.policy.audit else ""
    table.add_row("policy", f"{response.policy.name} {response.policy.version}{audit}")
    table.add_row("model", f"{one_line(response.model)}, seed {response.seed}")
    if response.error is not None:
        table.add_row("error", one_line(response.error), style="red")
    return table


def _harm(verdict: Verdict | None) -> str:
    if verdict is None:
        return "none"
    return "unscored" if verdict.harm is None else f"{verdict.harm:.2f}"


def _show_summary(summary: dict[str, Any], console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    counted = " · ".join(f"{count} {outcome}" for outcome, count in summary["outcomes"].items())
    cost = summary["cost"]
    table.add_row("records", f"{summary['records']} ({summary['resumed']} were there before)")
    table.add_row("outcomes", counted)
    table.add_row("cost", f"{cost['generations']} generations, {cost['generated_tokens']} tokens")
    settings = summary["settings"]
    audit = _AUDIT if summary["audit"] else ""
    table.add_row("policy", f"{settings['policy']} {settings['policy_version']}{audit}")
    table.add_row("failed lines", _failed_lines(summary["failed"]))
    table.add_row("output", summary["output"])
    table.add_row("store", summary["store"])
    console.print(table)


def _failed_lines(failed: list[dict[str, Any]]) -> str:
    shown = ", ".join(str(fault["line"]) for fault in failed[:20])
    return (shown or "none") + (f" and {len(failed) - 20} more" if len(failed) > 20 else "")

"""``rerail align``: answer one prompt, or a file of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report, notes, resumable
from rerail.cli._lines import (
    STANDARD,
    Fault,
    Item,
    OutputFile,
    OutputStream,
    is_standard_output,
    is_stream,
    name_of,
    read_items,
    refuse_json,
)
from rerail.cli._options import Setup
from rerail.cli._text import one_line, printable
from rerail.engines import DEFAULT_MODEL
from rerail.errors import InputFileError
from rerail.types import Layer, Message, Outcome, Prompt, Response, Verdict

if TYPE_CHECKING:
    from rerail.align import Aligner
    from rerail.cluster import AlignerPool
    from rerail.store import Store

_PROMPTS, _CLUSTER = "Prompts", "Cluster"
_A_PROMPT = "a text to answer, --prompt or --input"
_AUDIT = ", AUDIT: unscored answers may leave"


def align(
    text: Annotated[
        str | None,
        typer.Argument(
            help="Text to answer; - or nothing reads standard input.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="The same, as an option.", rich_help_panel=_PROMPTS),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", help="System message of TEXT.", rich_help_panel=_PROMPTS),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="JSONL, - for standard input: each line has 'prompt' or 'messages', and may "
            "have an 'id', 'tools', 'tool_choice' and 'response_format'.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="JSONL: one line per response. Killed, the same command goes on with it. "
            "- is standard output; such a run cannot go on later.",
            rich_help_panel=_PROMPTS,
        ),
    ] = None,
    with_prompt: Annotated[
        bool,
        typer.Option(
            "--with-prompt",
            help="Each line of --output has its 'messages', too: `moderate --input` judges the "
            "answers to them.",
            rich_help_panel=_PROMPTS,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Throw the output and its records away.", rich_help_panel=_PROMPTS
        ),
    ] = False,
    policy: options.PolicyOption = "default",
    policies: options.PoliciesOption = None,
    model: options.ModelOption = DEFAULT_MODEL,
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

    Of one prompt the answer goes to standard output and the figures to standard error.

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
    given = [x for x in (options.not_a_file(text), prompt, input_) if x is not None]
    if len(given) > 1:
        raise typer.BadParameter("give one of TEXT, --prompt and --input")
    if input_ is None:
        if output is not None or fresh or with_prompt or ray is not None or ray_workers is not None:
            raise typer.BadParameter(
                "--output, --with-prompt, --fresh, --ray and --ray-workers belong to --input"
            )
        asked = options.read_text(str(given[0])) if given else options.piped_text(_A_PROMPT)
        return _one(setup, _prompt(asked, system), store, as_json)
    if output is None or system is not None:
        raise typer.BadParameter("--input needs --output, and takes system messages per line")
    if ray is None and ray_workers is not None:
        raise typer.BadParameter("--ray-workers belongs to --ray")
    aligner = partial(_pool, setup, ray, ray_workers) if ray else partial(_here, setup)
    batch = _Batch(input_, output, store, fresh, with_prompt)
    if is_stream(output) or is_standard_output(output):
        return _stream(setup, aligner, batch, as_json)
    return _many(setup, aligner, batch, as_json)


@dataclass(frozen=True)
class _Batch:
    """The options that say what is read and written, as given."""

    input: Path
    output: Path
    store: str | None
    fresh: bool
    with_prompt: bool

    def read(self) -> tuple[list[Item], list[Fault]]:
        """The prompts, and the lines without one, which are named."""
        items, faults = read_items(self.input)
        for fault in faults:
            said = f"{name_of(self.input)}, line {fault.line}: {fault.error}"
            notes().print(said, soft_wrap=True)
        return items, faults


def _prompt(text: str, system: str | None) -> Prompt:
    user = Message("user", text)
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
    batch: _Batch,
    as_json: bool,
) -> Report:
    from rerail.cli._batch import Run, default_store, run_items
    from rerail.store import Store

    output = batch.output
    items, faults = batch.read()
    if batch.input != STANDARD and output.exists() and output.samefile(batch.input):
        raise InputFileError("--input and --output are the same file: choose another --output")
    # Beside its output a run is known by the file's name, so that both may be moved together.
    name = output.name if batch.store is None else str(output.resolve())
    with (
        resumable(output),
        OutputFile(output) as lines,
        Store.open(batch.store or default_store(output)) as records,
        make_aligner() as aligner,
    ):
        settings = setup.settings(aligner.engine)
        if batch.with_prompt:
            settings["with_prompt"] = True
        run = Run(name, settings, records, lines, batch.with_prompt)
        run.begin(batch.fresh)
        summary = run_items(run, aligner, items, faults)
    return _summarised(summary, as_json)


def _stream(
    setup: Setup,
    make_aligner: Callable[[], AbstractContextManager[Aligner | AlignerPool]],
    batch: _Batch,
    as_json: bool,
) -> Report:
    from rerail.cli._batch import Run, run_items

    standard = is_standard_output(batch.output)
    if batch.fresh:
        raise typer.BadParameter("--fresh belongs to an --output that is a file")
    if as_json:
        refuse_json(batch.output)
    items, faults = batch.read()
    with (
        OutputStream(STANDARD if standard else batch.output) as lines,
        _records(batch.store) as records,
        make_aligner() as aligner,
    ):
        notes().print(f"--output {batch.output} is no file: this run cannot go on later")
        name = f"stream {uuid.uuid4().hex}"
        run = Run(name, setup.settings(aligner.engine), records, lines, batch.with_prompt)
        run.begin()
        summary = run_items(run, aligner, items, faults)
    return _summarised(summary, as_json, aside=standard)


def _summarised(summary: dict[str, Any], as_json: bool, aside: bool = False) -> Report:
    """The summary; ``aside``, on standard error, where standard output has the lines."""
    code = ExitCode.PARTLY if summary["failed"] else ExitCode.OK
    return Report(
        summary,
        lambda console: _show_summary(summary, notes() if aside else console),
        as_json,
        code,
    )


def _figures(response: Response) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    cost = response.cost
    came_from = "" if response.outcome is Outcome.PASSED else f", stopped: {response.stop_reason}"
    table.add_row("outcome", f"{response.outcome} ({response.accepted_from}{came_from})")
    if response.layer is not Layer.NONE or response.noted:
        noted = f", noted: {', '.join(response.noted)}" if response.noted else ""
        table.add_row("layer", f"{response.layer}{noted}")
    table.add_row("harm", f"{_harm(response.initial)} → {_harm(response.final)} (1 is flagged)")
    table.add_row(
        "cost",
        f"generations {cost.generations}, tokens {cost.generated_tokens}, "
        f"verdicts {cost.moderator_calls}, {cost.seconds:.1f} s",
    )
    if response.naturalness is not None and response.outcome is not Outcome.PASSED:
        table.add_row("naturalness", f"{response.naturalness:+.2f} nats per token")
    if response.reasoning is not None:
        table.add_row("reasoning", printable(response.reasoning))
    elif response.reasoning_tokens:
        table.add_row("reasoning", f"{response.reasoning_tokens} tokens, withheld")
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
    table.add_row("lines", _failed_lines(summary["failed"]))
    table.add_row("output", summary["output"])
    table.add_row("store", summary["store"] or "none")
    console.print(table)


def _failed_lines(failed: list[dict[str, Any]]) -> str:
    if not failed:
        return "no failed line"
    shown = ", ".join(str(fault["line"]) for fault in failed[:_MOST_LINES])
    more = f" and {len(failed) - _MOST_LINES} more" if len(failed) > _MOST_LINES else ""
    return f"{len(failed)} failed line{'s' if len(failed) > 1 else ''}: {shown}{more}"


_MOST_LINES = 20

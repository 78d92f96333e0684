"""``rerail bench``: what steering costs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rerail.cli import _options as options
from rerail.cli._frame import Report
from rerail.cli._options import Method, Setup
from rerail.engines import DEFAULT_MODEL


def _sizes(value: str | None) -> str | None:
    parts = [] if value is None else value.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{value!r}: give whole numbers like 1,8,64,512")
    return value


def bench(
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="JSONL with 'prompt' or 'messages'; else the demo's prompts."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Prompts at most; of the demo's, evenly over the kinds."
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes",
            help="Prompts at once, with commas; by default 1,8,64,512, and 1,8 of streams.",
            callback=_sizes,
        ),
    ] = None,
    method: Annotated[
        list[Method] | None,
        typer.Option("--method", help="Only this method; may be repeated."),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", min=1, help="Of each time that is measured.")
    ] = 3,
    soak: Annotated[
        int | None,
        typer.Option("--soak", min=1, help="Only measure memory over N requests."),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Only measure streams under release: window beside release: whole, on benign "
            "prompts where none are given.",
        ),
    ] = False,
    policy: options.PolicyOption = "default",
    policies: options.PoliciesOption = None,
    model: options.ModelOption = DEFAULT_MODEL,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: options.MaxNewTokensOption = 128,
    seed: options.SeedOption = 0,
    as_json: options.JsonOption = False,
) -> Report:
    """Measure the cost of steering beside plain generation and beside the published loop.

    Prints a Markdown table of ratios with 95 % intervals. Run it on a machine that does nothing
    else.
    """
    from rerail.bench import SIZES, STREAM_SIZES, Bench, markdown, stream_markdown
    from rerail.bench import soak as soaked
    from rerail.cli._lines import read_prompts
    from rerail.demo import KINDS, demo_prompts
    from rerail.moderators import load_confirm, load_gate, load_moderator

    if stream and soak is not None:
        raise typer.BadParameter("--stream and --soak measure different things: give one of them")
    if method and (stream or soak is not None):
        only = "--stream" if stream else "--soak"
        raise typer.BadParameter(f"{only} measures the policy's own search: leave --method out")
    setup = Setup(
        model=model,
        policy=options.read_policy(policy, policies),
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    if input_ is None:
        kinds = ("benign",) if stream else KINDS
        prompts = [p.prompt for p in demo_prompts(kinds, limit, toy=options.is_toy(model))]
    else:
        prompts = read_prompts(input_)[:limit]
    if soak is not None:
        with options.working(f"answering {soak} requests"):
            figures = soaked(setup.aligner(), prompts, soak)
        return Report(figures, lambda console: _print_soak(console, figures), as_json)
    moderator, confirm = load_moderator(setup.policy), load_confirm(setup.policy)
    what = Bench(
        setup.engine(),
        moderator,
        setup.policy,
        prompts,
        confirm=confirm,
        gate=load_gate(setup.policy),
        max_new_tokens=max_new_tokens,
        repetitions=repetitions,
        seed=seed,
    )
    at_once = [int(size) for size in sizes.split(",")] if sizes else None
    if stream:
        with options.steps() as told:
            measured = what.stream(at_once or STREAM_SIZES, told)
        table = stream_markdown(measured)
        return Report(measured, lambda console: console.print(table, soft_wrap=True), as_json)
    chosen = list(dict.fromkeys(m.value for m in method)) if method else None
    with options.steps() as said:
        document = what.run(chosen, at_once or SIZES, said)
    return Report(
        document, lambda console: console.print(markdown(document), soft_wrap=True), as_json
    )


def _print_soak(console: Console, figures: dict[str, Any]) -> None:
    before, after = figures["resident_mib_before"], figures["resident_mib_after"]
    course = figures["resident_mib"]
    console.print(
        f"{figures['requests']} requests: {before:.1f} MiB before, {after:.1f} MiB after, "
        f"{min(course):.1f} to {max(course):.1f} MiB on the way; "
        f"{figures['growth_bytes_per_request']:.0f} bytes per request"
    )

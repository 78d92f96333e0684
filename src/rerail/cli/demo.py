"""``rerail demo``: real prompts, before and after."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report, notes
from rerail.cli._options import Setup
from rerail.cli._text import MASK, one_line
from rerail.engines import DEFAULT_MODEL, EMBEDDED
from rerail.types import Outcome, Response, StopReason

if TYPE_CHECKING:
    from rerail.demo import Checks, Result
    from rerail.panel import Panel


QUICK = "quick"
"""Name of the policy for the toy model."""


class Kind(StrEnum):
    """Kinds of the demo's prompts."""

    PLAIN = "plain"
    WRAPPED = "wrapped"
    BENIGN = "benign"
    RUDE = "rude"


_TITLES = {
    "plain": "harmful requests, plainly asked",
    "wrapped": "harmful requests in jailbreak wrappers",
    "benign": "benign requests",
    "rude": "requests that provoke a rude answer",
}
_COLOURS = {
    Outcome.PASSED: "cyan",
    Outcome.STEERED: "green",
    Outcome.REFUSED: "yellow",
    Outcome.ERROR: "red",
}
_READABLE = 240
"""Characters of a steered answer that are shown."""

_LEGEND = f"""\
› prompt   ✗ first answer, withheld   ✓ what left   {MASK} masked: see --show-text
1.80 → 0.20: harm of the first answer and of what left, flagged from 1"""


def demo(
    kind: Annotated[
        list[Kind] | None, typer.Option("--kind", help="Only this kind; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Prompts at most, evenly over the kinds.")
    ] = None,
    show_text: Annotated[
        bool,
        typer.Option("--show-text", help="Show harmful prompts and flagged first answers too."),
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help=f"Name of a policy, or path of its YAML file. Default: default, or {QUICK} where "
            f"the model is {EMBEDDED}.",
            autocompletion=options.policy_names,
        ),
    ] = None,
    policies: options.PoliciesOption = None,
    model: options.ModelOrNoneOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: options.MaxNewTokensOption = 64,
    temperature: options.TemperatureOption = 0.0,
    method: options.MethodOption = None,
    seed: options.SeedOption = 0,
    max_open: options.MaxOpenOption = 16,
    as_json: options.JsonOption = False,
) -> Report:
    """Run real prompts through a model, and steer where its answers are flagged.

    Shows each prompt with the model's first answer and the answer that left, then the figures.
    Every answer that left is judged once more by a moderator loaded afresh, answers that passed
    are compared with plain generation, and the weights' hash is taken before and after.

    The model is smollm2-safe where none is named, or, where that is neither installed nor to be
    downloaded, the toy that comes along.
    """
    from rerail.demo import KINDS, demo_prompts, summarise
    from rerail.panel import Panel

    read = partial(options.read_policy, folder=policies, method=method)
    named = None if policy is None else read(policy)  # first: it is quick to fail
    model = model or _found(DEFAULT_MODEL)
    toy = options.is_toy(model)
    setup = Setup(
        model=model,
        policy=named or read(QUICK if toy else "default"),
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        max_open=max_open,
    )
    prompts = demo_prompts([k.value for k in kind] if kind else KINDS, limit, toy=toy)
    panel = Panel.load(setup.policy)  # afresh: what left is judged once more
    results, checks, seconds = _run(setup, panel, prompts)
    document = {
        "method": setup.policy.optimizer.preset,
        "policy": asdict(setup.policy.tag),
        "model": results[0].response.model if results else model,
        "seed": seed,
        **summarise(results, checks, seconds),
        "results": [_row(result) for result in results],
    }

    def show(console: Console) -> None:
        console.print(_before_and_after(results, panel, show_text))
        console.print(_figures(document))

    code = ExitCode.OK if checks.kept else ExitCode.UNEXPECTED
    return Report(document, show, as_json, code)


def _found(model: str) -> str:
    """The model, or the one that comes along where it is not to be had; that is told."""
    from rerail.engines import own_folder
    from rerail.errors import ModelNotThereError

    try:
        with options.working(f"looking for {model}"):
            own_folder(model)
    except ModelNotThereError as error:
        notes().print(f"{error}. The demo goes on with {EMBEDDED}, a toy", soft_wrap=True)
        return EMBEDDED
    return model


def _run(setup: Setup, panel: Panel, prompts: Sequence[Any]) -> tuple[list[Result], Checks, float]:
    from rerail.cli._batch import counting, progress
    from rerail.demo import (
        Checks,
        Result,
        emitted_borderline,
        emitted_flagged,
        identical_share,
        with_naturalness,
    )

    aligner = setup.aligner()
    before = aligner.engine.weights_sha256()
    started = time.perf_counter()
    found: dict[int, Result] = {}
    with progress("aligning", len(prompts)) as advance:
        for index, response in aligner.align_iter(p.prompt for p in prompts):
            found[index] = Result(prompts[index], response)
            advance(response)
    seconds = time.perf_counter() - started
    results = [
        Result(prompt, with_naturalness(aligner.engine, prompt.prompt, response))
        for prompt, response in (found[index] for index in sorted(found))
    ]
    passed = sum(r.response.outcome is Outcome.PASSED for r in results)
    with counting("checking what passed", passed) as advanced:
        identical = identical_share(
            aligner.engine, aligner.sampling, results, lambda: advanced("", 1)
        )
    with options.working("checking what left"):
        checks = Checks(
            before,
            aligner.engine.weights_sha256(),
            emitted_flagged(panel, results),
            emitted_borderline(panel, results),
            identical,
        )
    return results, checks, seconds


def _row(result: Result) -> dict[str, Any]:
    prompt, response = result
    return {
        "id": prompt.id,
        "kind": prompt.kind,
        "source": prompt.source,
        **response.to_json(),
    }


def _before_and_after(results: Sequence[Result], panel: Panel, show_text: bool) -> Group:
    parts: list[Any] = []
    for kind, title in _TITLES.items():
        of_kind = [result for result in results if result.prompt.kind == kind]
        if of_kind:
            parts += [Rule(Text(f"{len(of_kind)} {title}", "bold"), style="dim", align="left")]
            parts += [_table(of_kind, panel, show_text), Text()]
    return Group(*parts, Text(_LEGEND, "dim", no_wrap=True, overflow="ellipsis"))


def _table(results: Iterable[Result], panel: Panel, show_text: bool) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=11, no_wrap=True)
    table.add_column(ratio=1)
    for result in results:
        table.add_row(_margin(result.response), _lines(result, panel, show_text))
    return table


def _margin(response: Response) -> Text:
    """Outcome, harm before and after, generations: one line under the other."""
    lines = [Text(str(response.outcome), f"bold {_COLOURS[response.outcome]}")]
    harms = [_harm(v) for v in (response.initial, response.final) if v is not None]
    if response.outcome is Outcome.PASSED:
        harms = harms[:1]
    lines.append(Text(" → ".join(harms), "dim"))
    if response.outcome is not Outcome.PASSED:
        lines.append(Text(f"{response.cost.generations} answers", "dim"))
    return Text("\n").join(lines)


def _harm(verdict: Any) -> str:
    return "–" if verdict.harm is None else f"{verdict.harm:.2f}"


def _lines(result: Result, panel: Panel, show_text: bool) -> Group:
    """Prompt, first answer unless it passed, and what left: a line each, a steered one more."""
    from rerail.demo import HARMFUL_KINDS

    prompt, response = result
    asked = one_line(prompt.prompt.messages[-1].content)
    if prompt.kind in HARMFUL_KINDS and not show_text:
        asked = f"{MASK} {prompt.id}, {prompt.source}"
    lines = [Text(f"› {asked}", "dim")]
    if response.outcome is not Outcome.PASSED:
        lines.append(Text(f"✗ {_withheld(response, panel, show_text)}", "red"))
    left = one_line(response.text)
    whole = response.outcome is Outcome.STEERED
    if whole:
        left = textwrap.shorten(left, _READABLE, placeholder=" …")
    lines.append(Text.assemble(("✓ ", f"bold {_COLOURS[response.outcome]}"), left))
    for line in lines[:-1] if whole else lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _withheld(response: Response, panel: Panel, show_text: bool) -> str:
    verdict = response.initial
    if verdict is None:
        refused = response.stop_reason is StopReason.GATE
        return one_line("the gate refused it" if refused else response.error or "no answer")
    if verdict.harm is None:
        said = f"unscored: {verdict.unscored}"
    elif verdict.flagged:
        said = f"{panel.decisive(verdict.scores)} {verdict.harm:.1f}×"
    else:
        said = str(response.evaluations[0].rejection)
    if show_text and response.evaluations:
        return f"{said}: {one_line(response.evaluations[0].generation.text)}"
    return f"{MASK} {one_line(said)}"


def _figures(document: Mapping[str, Any]) -> Group:
    policy = document["policy"]
    audit = " (audit)" if policy["audit"] else ""
    title = f"{document['method']} · {policy['name']} {policy['version']}{audit} · "
    title += one_line(document["model"])
    return Group(
        Text(),
        Rule(Text(title, "bold"), style="dim", align="left"),
        _by_kind(document),
        Text(),
        _summary(document),
    )


def _by_kind(document: Mapping[str, Any]) -> Table:
    names = ("prompts", "passed", "flagged", "steered", "refused", "error")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    rows = {**document["by_kind"], "all": document}
    for kind, counts in rows.items():
        style = "bold" if kind == "all" else None
        table.add_row(kind, *(str(counts[name]) for name in names), style=style)
    return table


def _summary(d: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")

    def figure(value: str, meaning: str, promise: bool | None = None) -> None:
        style = {None: "bold", True: "bold green", False: "bold red"}[promise]
        table.add_row(Text(value, style), meaning)

    same = d["weights_sha256_before"] == d["weights_sha256_after"]
    identical = d["benign_identical"]
    figure(_percent(d["neutralised_share"]), "of the flagged first answers neutralised")
    figure(_number(d["generations_per_steered"], 1), "answers generated per steered one")
    figure(_number(d["generated_tokens_per_steered"], 0), "tokens generated per steered answer")
    figure(_number(d["naturalness_median"], 2), "naturalness of the steered answers, median")
    figure(_percent(d["steered_refusal_share"]), "of the steered answers refuse")
    figure(_percent(d["steered_on_topic_share"]), "of them refuse the request or speak of it")
    figure(_percent(d["tokens_preserved_min"]), "of a steered prompt's tokens kept, at least")
    left = d["emitted_flagged"]
    figure(str(left), "flagged among the answers that left, judged afresh", left == 0)
    near = d["emitted_borderline"]
    figure(str(near), "among the steered ones not clearly harmless, judged afresh", near == 0)
    as_plain = "of the passed answers identical to plain generation"
    figure(_percent(identical), as_plain, identical in {None, 1.0})
    weights = f"weights before and after, sha256 {d['weights_sha256_after'][:12]}"
    if d["weights_sha256_after"]:
        figure("same" if same else "CHANGED", weights, same)
    else:
        figure("–", "weights: behind a text API, not to be hashed")
    figure(f"{d['seconds']:.1f} s", "of alignment")
    return table


def _percent(share: float | None) -> str:
    """A share that is not whole is never shown as whole."""
    if share is None:
        return "–"
    return "100 %" if share == 1 else f"{min(share, 0.999):.1%}".replace("%", " %")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

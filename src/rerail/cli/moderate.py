"""``rerail moderate``: what a policy's moderator makes of texts and answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from rerail._yaml import NotYamlError, read_yaml
from rerail.cli import _options as options
from rerail.cli._frame import ExitCode, Report, notes
from rerail.cli._lines import (
    Fault,
    has_prompt,
    id_of,
    name_of,
    prompt_of,
    read_objects,
    text_of,
)
from rerail.cli._rows import show_rows
from rerail.cli._text import one_line
from rerail.errors import InputFileError
from rerail.moderators import Stats, explain, names
from rerail.panel import Panel
from rerail.policy import ModeratorSpec, Policy
from rerail.types import Exchange, Prompt, ToolCall, said

_BATCH = 64
_TEXTS = "Texts"
_GIVEN = "TEXT, --prompt with --answer, --input"


def _moderator_names(begun: str) -> list[str]:
    return [name for name in names() if name.startswith(begun)]


def moderate(
    words: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            help="Text to judge by itself; - or nothing reads standard input.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            help="The same, as an option.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="What was asked, with --answer.", rich_help_panel=_TEXTS),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option("--answer", help="What was answered.", rich_help_panel=_TEXTS),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="JSONL, - for standard input: each line has 'text' or 'answer', and 'prompt' or "
            "'messages' if it answers one. What `align --with-prompt` writes is such a file. Where "
            "lines have a 'label', a table of labels and verdicts is shown, too.",
            rich_help_panel=_TEXTS,
        ),
    ] = None,
    moderator: Annotated[
        str | None,
        typer.Option(
            "--moderator",
            help="A moderator by its name, in place of the policy's.",
            autocompletion=_moderator_names,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="An option of --moderator as NAME=VALUE, the value in YAML; may be repeated.",
        ),
    ] = None,
    explain_: Annotated[
        bool, typer.Option("--explain", help="Show how each moderator's names map to ours.")
    ] = False,
    policy: options.PolicyOption = "default",
    policies: options.PoliciesOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """Score texts by category, and say which a policy flags.

    Harm is the largest score in units of its threshold: 1 and above is flagged. What could not be
    scored is shown as unscored, with the cause; it is never a number. A text by itself and the
    same text as an answer to a prompt may get different scores.
    """
    alone = next((x for x in (options.not_a_file(words), text) if x is not None), None)
    given = [words, text, prompt if answer is None else answer, input_, explain_ or None]
    if len(given) - given.count(None) > 1:
        raise typer.BadParameter(f"give one of {_GIVEN}, or --explain")
    chosen = options.read_policy(policy, policies)
    if moderator is not None:
        spec = ModeratorSpec(name=moderator, options=_options(option or ()))
        changes = {"moderators": (spec,), "routes": {}, "confirm": (), "gate": (), "actions": {}}
        chosen = chosen.model_copy(update=changes)
    elif option:
        raise typer.BadParameter("--option belongs to --moderator")
    if explain_:
        return _explanation(chosen, as_json)
    if input_ is not None:
        return _many(chosen, input_, as_json)
    if prompt is None and answer is None:
        judged = options.piped_text(_GIVEN) if alone is None else options.read_text(alone)
        return _one(Panel.load(chosen), Exchange((), judged), as_json)
    if prompt is None or answer is None:
        raise typer.BadParameter("--prompt and --answer belong together")
    asked = Prompt.of(options.read_text(prompt))
    exchange = Exchange(asked.messages, options.read_text(answer))
    return _one(Panel.load(chosen), exchange, as_json)


def _options(given: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as a policy file would have them."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name or name in found:
            raise typer.BadParameter(f"--option takes NAME=VALUE, each name once, not {pair!r}")
        try:
            found[name] = read_yaml(value)
        except NotYamlError as error:
            raise typer.BadParameter(f"--option {name}: the value is not YAML, {error}") from None
    return found


def _explanation(policy: Policy, as_json: bool) -> Report:
    explained = explain(policy)

    def show(console: Console) -> None:
        for name, mapped in explained.items():
            console.print(name, *(f"  {each}" for each in mapped), sep="\n", markup=False)

    document = {name: [asdict(each) for each in mapped] for name, mapped in explained.items()}
    return Report(document, show, as_json, ExitCode.OK)


def _verdicts(panel: Panel, exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    return [judged.verdict.to_json() for judged in panel.judge(exchanges)]


def _head(panel: Panel) -> dict[str, Any]:
    """What judged, for a JSON document."""
    return {
        "policy": asdict(panel.policy.tag),
        "moderator": panel.name,
        "confirm_moderator": panel.confirm_name,
        "thresholds": dict(panel.all_thresholds),
    }


def _reason(panel: Panel, verdict: Mapping[str, Any]) -> str:
    """Why an exchange is flagged: the category that decides, and its harm."""
    unconfirmed = "not confirmed: " if verdict["confirmed"] is False else ""
    return f"{unconfirmed}{panel.decisive(verdict['scores'])}, harm {verdict['harm']:.2f}"


def _asked(panel: Panel) -> dict[str, dict[str, Any]]:
    return {name: asdict(stats) for name, stats in panel.asked().items()}


def _one(panel: Panel, exchange: Exchange, as_json: bool) -> Report:
    (verdict,) = _verdicts(panel, [exchange])

    def show(console: Console) -> None:
        if verdict["scores"]:
            show_rows(console, _scores(panel, verdict), right={"score", "threshold", "harm"})
        console.print(_sentence(panel, verdict))

    code = ExitCode.OK if verdict["unscored"] is None else ExitCode.FAILED
    conversation = bool(exchange.messages)
    document = {**_head(panel), **verdict, "conversation": conversation, "asked": _asked(panel)}
    return Report(document, show, as_json, code)


def _scores(panel: Panel, verdict: Mapping[str, Any]) -> list[dict[str, str | Text]]:
    scores = verdict["scores"]
    thresholds, flags = panel.all_thresholds, panel.flags(scores)
    rows: list[dict[str, str | Text]] = []
    for category in sorted(scores, key=scores.__getitem__, reverse=True):
        score, threshold = scores[category], thresholds.get(category)
        limit = "off" if threshold is None else f"{threshold:.3f}"
        harm = "" if threshold is None else f"{score / threshold:.2f}"
        style = "dim" if threshold is None else "red" if flags[category] else ""
        figures = {"category": category, "score": f"{score:.3f}", "threshold": limit, "harm": harm}
        rows.append({key: Text(value, style) for key, value in figures.items()})
    return rows


def _sentence(panel: Panel, verdict: Mapping[str, Any]) -> str:
    by = f"under policy {panel.policy.name} {panel.policy.version}"
    if verdict["flagged"]:
        return f"flagged {by}: {_reason(panel, verdict)}"
    if verdict["unscored"] is not None:
        return f"unscored {by}: {one_line(verdict['unscored'])}"
    return f"not flagged {by}: harm {verdict['harm']:.2f}"


def _many(policy: Policy, path: Path, as_json: bool) -> Report:
    rows, faults = read_objects(path, "text", _line)
    panel = Panel.load(policy)
    console = notes()
    results: list[dict[str, Any]] = []
    started = time.perf_counter()
    for batch in track(
        list(_batches(rows)), "scoring", console=console, disable=not console.is_terminal
    ):
        verdicts = _verdicts(panel, [exchange for *_, exchange in batch])
        results += [
            {
                "line": line,
                "id": name,
                "label": label,
                "conversation": bool(exchange.messages),
                **verdict,
            }
            for (line, name, label, exchange), verdict in zip(batch, verdicts, strict=True)
        ]
    for fault in faults:
        notes().print(f"{name_of(path)}, line {fault.line}: {fault.error}", soft_wrap=True)
    unscored = [Fault(r["line"], r["unscored"]) for r in results if r["unscored"] is not None]
    document = {
        **_head(panel),
        "texts": len(results),
        "flagged": sum(result["flagged"] for result in results),
        "unscored": len(unscored),
        "labels": _by_label(results),
        "texts_per_second": len(results) / (time.perf_counter() - started) if results else None,
        "asked": _asked(panel),
        "failed": [fault._asdict() for fault in sorted([*faults, *unscored])],
        "results": results,
    }
    code = ExitCode.PARTLY if document["failed"] else ExitCode.OK
    return Report(document, lambda console: _show_many(panel, document, console), as_json, code)


def _by_label(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many texts of each label are flagged, are not, and are unscored."""
    counts: dict[str, dict[str, int]] = {}
    for result in results:
        if result["label"] is not None:
            kind = "unscored" if result["unscored"] is not None else "not_flagged"
            row = counts.setdefault(
                result["label"], dict.fromkeys(("flagged", "not_flagged", "unscored"), 0)
            )
            row["flagged" if result["flagged"] else kind] += 1
    return dict(sorted(counts.items()))


_Line = tuple[int, str | int | None, str | None, Exchange]
"""A line's number, id, label and what is judged."""


def _line(number: int, data: Mapping[str, Any]) -> _Line:
    given = [key for key in ("text", "answer") if data.get(key) is not None]
    if len(given) != 1:
        raise InputFileError("needs either 'text' or 'answer'")
    messages = prompt_of(data).messages if has_prompt(data) else ()
    if not messages and given == ["answer"]:
        raise InputFileError("'answer' needs the 'prompt' or the 'messages' that it answers")
    label = data.get("label")
    if label is not None and not isinstance(label, str):
        raise InputFileError("'label' is a text")
    calls = data.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InputFileError("'tool_calls' must be a list")
    text = said(text_of(data, given[0]), list(map(ToolCall.of, calls)))
    return number, id_of(data), label, Exchange(messages, text)


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]


def _show_many(panel: Panel, document: Mapping[str, Any], console: Console) -> None:
    rows = [_result_row(panel, result) for result in document["results"]]
    show_rows(console, rows, right={"line"}, fold={"id", "verdict"})
    if document["labels"]:
        counts = [_label_row(label, of) for label, of in document["labels"].items()]
        show_rows(console, counts, right=counts[0].keys() - {"label"}, fold={"label"})
    tag = panel.policy.tag
    console.print(
        f"{document['texts']} texts, {document['flagged']} flagged, {document['unscored']} "
        f"unscored, {len(document['failed']) - document['unscored']} unusable lines; "
        f"policy {tag.name} {tag.version}{_speed(document)}"
    )
    for name, stats in panel.asked().items():
        console.print(_cost(name, stats))


def _result_row(panel: Panel, result: Mapping[str, Any]) -> dict[str, str | Text]:
    if result["flagged"]:
        verdict = Text(_reason(panel, result), "red")
    elif result["unscored"] is not None:
        verdict = Text(f"unscored: {one_line(result['unscored'])}", "yellow")
    else:
        verdict = Text(f"harm {result['harm']:.2f}")
    name = "" if result["id"] is None else one_line(str(result["id"]))
    return {"line": str(result["line"]), "id": name, "verdict": verdict}


def _label_row(label: str, counts: Mapping[str, int]) -> dict[str, str]:
    scored = counts["flagged"] + counts["not_flagged"]
    return {
        "label": one_line(label),
        "flagged": str(counts["flagged"]),
        "not flagged": str(counts["not_flagged"]),
        "unscored": str(counts["unscored"]),
        "flagged, share": f"{counts['flagged'] / scored:.1%}" if scored else "",
    }


def _cost(name: str, stats: Stats) -> str:
    """Requests, what they carried and how long they took: what a service bills, and its pace."""
    mean = stats.seconds / stats.requests if stats.requests else 0.0
    return (
        f"{one_line(name)}: {stats.requests} requests ({stats.retries} retries), "
        f"{stats.characters:,} characters; {mean:.2f} s a request, "
        f"{stats.slowest:.2f} s the slowest"
    )


def _speed(document: Mapping[str, Any]) -> str:
    rate = document["texts_per_second"]
    return "" if rate is None else f"; {rate:,.0f} texts/s"

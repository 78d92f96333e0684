"""``rerail audit``: query and export what a server recorded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rerail.cli import _options as options
from rerail.cli._frame import Report
from rerail.cli._lines import is_standard_output, refuse_json
from rerail.cli._rows import show_rows
from rerail.cli._text import one_line
from rerail.cli.serve import default_store
from rerail.errors import StoreError
from rerail.server.export import Format, write
from rerail.types import Outcome


def audit(
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Path or SQLAlchemy URL of the records. Default: serve.sqlite in the user's "
            "data folder.",
        ),
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option("--outcome", help="Of the answers.")] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Name of a policy.", autocompletion=options.policy_names),
    ] = None,
    since: options.SinceOption = None,
    item: Annotated[str | None, typer.Option("--id", help="Id of a response.")] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Records shown; an export has no limit by default."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Write the records to this file; - is standard output."),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Of --output.")] = Format.JSONL,
    policies: Annotated[
        bool, typer.Option("--policy-changes", help="Who changed which policy, instead.")
    ] = False,
    as_json: options.JsonOption = False,
) -> Report:
    """What a server did: interventions, the latest first, or changes of policies.

    Texts are there only where the policy has record_text.
    """
    if output is not None and as_json:
        refuse_json(output)
    from rerail.server.records import RUN_PREFIX
    from rerail.server.records import as_json as public

    if store is None and not default_store().is_file():
        raise StoreError(f"there is no store at {default_store()}: give --store, a path or a URL")
    with options.recorded(store or str(default_store()), "--store") as records:
        name = records.name  # a URL without its password
        if policies:
            found = [_change(c) for c in reversed(records.policy_changes(policy))]
            found = found[: limit or None]
        else:
            wanted = limit if limit is not None or output is not None else 50
            matching = records.find(
                run_prefix=RUN_PREFIX,
                since=options.since(since),
                outcome=outcome and outcome.value,
                policy=policy,
                item=item,
                limit=wanted,
            )
            found = [public(record) for record in matching]
    standard = output is not None and is_standard_output(output)
    if output is not None and not standard:
        _export(found, output, format_)
    key = "policy_changes" if policies else "interventions"
    document: dict[str, Any] = {"store": name, "count": len(found)}
    document |= {"output": str(output)} if output is not None else {key: found}

    def show(console: Console) -> None:
        if standard:
            write(found, console.file, format_, console.encoding)
        elif output is not None:
            console.print(f"{len(found)} records in {output}", soft_wrap=True)
        elif not found:
            console.print("no record matches")
        else:
            rows = [_change_row(c) if policies else _row(c) for c in found]
            show_rows(console, rows, right={"generations"})

    return Report(document, show, as_json)


def _change(change: Any) -> dict[str, Any]:
    return {
        "at": change.at.isoformat(),
        "name": change.name,
        "version": change.version,
        "action": change.action,
        "by": change.by,
        "yaml": change.yaml,
    }


def _export(found: list[dict[str, Any]], output: Path, format_: Format) -> None:
    try:
        with output.open("w", encoding="utf-8", newline="") as file:
            write(found, file, format_)
    except OSError as error:
        raise StoreError(
            f"cannot write {output}: {error.strerror}; choose another --output"
        ) from None


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "at": record["at"][:19],
        "outcome": record["outcome"],
        "layer": record["layer"] or "",
        "harm": f"{_harm(record['harm_before'])} → {_harm(record['harm_after'])}",
        "generations": str(record["generations"]),
        "policy": f"{record['policy']} {record['version']}",
        "tenant": one_line(record["tenant"]),
        "id": one_line(record["id"]),
    }


def _change_row(change: Mapping[str, Any]) -> dict[str, str]:
    return {
        "at": change["at"][:19],
        "policy": change["name"],
        "version": change["version"],
        "action": change["action"],
        "by": one_line(change["by"]),
    }


def _harm(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"

"""``rerail policy diff``: what differs between two policies, and for which recorded answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rerail.cli import _options as options
from rerail.cli._frame import Report
from rerail.cli._rows import show_rows
from rerail.cli._text import one_line
from rerail.errors import PolicyError
from rerail.policy import Policy, PolicyStore

if TYPE_CHECKING:
    from rerail.store import Store


def diff(
    old: options.NameOrPath,
    new: options.NameOrPath,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            help="Path or SQLAlchemy URL of records: what would become of them under either.",
        ),
    ] = None,
    since: options.SinceOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Of the records, the latest.")
    ] = None,
    policies: options.PoliciesOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """What differs between two policies, value by value, and with --on for whom.

    Recorded texts are judged anew under both; where none were recorded, the recorded scores are
    held against the thresholds. Nothing is steered anew, and no text is shown.
    """
    if on is None and (since is not None or limit is not None):
        raise typer.BadParameter("--since and --limit belong to --on")
    a, b = (options.read_policy(name, policies) for name in (old, new))
    before, after = (dict(_values(p.model_dump(mode="json"))) for p in (a, b))
    keys: dict[str, None] = dict.fromkeys([*before, *after])
    changes: list[dict[str, Any]] = [
        {"key": key, "old": before.get(key), "new": after.get(key)}
        for key in keys
        if (key in before, before.get(key)) != (key in after, after.get(key))
    ]
    document: dict[str, Any] = {"old": _tag(a), "new": _tag(b), "changes": changes}
    if on is not None:
        document["replay"] = _replayed(a, b, on, options.since(since), limit)

    def show(console: Console) -> None:
        console.print(f"{a.name} {a.version} → {b.name} {b.version}")
        lines = {
            change["key"]: " → ".join(
                _shown(change["key"] in side, side.get(change["key"])) for side in (before, after)
            )
            for change in changes
        }
        if console.is_terminal:
            table = Table.grid(padding=(0, 2))
            for line in lines.items():
                table.add_row(*line)
            console.print(table)
        else:
            for key, values in lines.items():
                console.print(f"{key}: {values}", soft_wrap=True)
        if not changes:
            console.print("no difference")
        if on is not None:
            _show_replay(console, document["replay"])

    return Report(document, show, as_json)


def _replayed(
    old: Policy, new: Policy, location: str, since: datetime | None, limit: int | None
) -> dict[str, Any]:
    from rerail.kit.replay import EXAMPLES, Replay, panels, summarise
    from rerail.server.records import RUN_PREFIX

    first, second = panels(old, new)
    with options.recorded(location, "--on") as records:
        replay = Replay(first, second, _known(records))
        with options.working("replaying"):
            found = summarise(replay.of(records.find(since=since, limit=limit)), RUN_PREFIX)
        name = records.name
    return {
        "store": name,
        **asdict(found),
        "unjudged": [
            {"reason": reason, "count": len(ids), "examples": list(ids[:EXAMPLES])}
            for reason, ids in found.unjudged.items()
        ],
    }


def _known(records: Store) -> dict[tuple[str, str], Policy]:
    """Policies by name and version: the shipped ones, and those that a server noted."""
    shipped = PolicyStore.shipped()
    known = {(name, shipped.get(name).version): shipped.get(name) for name in shipped.names()}
    for change in records.policy_changes():
        try:
            policy = Policy.from_yaml(change.yaml)
        except PolicyError:  # of an older rerail
            continue
        if policy.version == change.version:
            known[change.name, change.version] = policy
    return known


def _show_replay(console: Console, replay: Mapping[str, Any]) -> None:
    console.print()
    judged = replay["by_texts"] + replay["by_scores"]
    console.print(
        f"{replay['records']} records of {replay['store']}: {judged} judged "
        f"({replay['by_texts']} by their texts, {replay['by_scores']} by their scores), "
        f"{judged - replay['unchanged']} would come to something else",
        soft_wrap=True,
    )
    changed = [
        {
            "tenant": one_line(c["tenant"]),
            "recorded": c["recorded"],
            "old": c["old"],
            "new": c["new"],
            "count": str(c["count"]),
            "examples": " ".join(map(one_line, c["examples"])),
        }
        for c in replay["changes"]
    ]
    show_rows(console, changed, right={"count"}, fold={"tenant", "examples"})
    for reason in replay["unjudged"]:
        examples = " ".join(map(one_line, reason["examples"]))
        said = f"not judged, {reason['count']}: {one_line(reason['reason'])} ({examples})"
        console.print(said, soft_wrap=True)
    if replay["records"] and not replay["passed"]:
        console.print(
            "no answer that passed is among the records: what else the new policy would flag is "
            "not seen here (`rerail serve --record all` keeps them)",
            soft_wrap=True,
        )


def _tag(policy: Policy) -> dict[str, Any]:
    return {"name": policy.name, "version": policy.version, "audit": policy.audit}


def _values(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``(dotted key, value)`` of all leaves; lists are values."""
    leaves: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            leaves += _values(value, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, value))
    return leaves


def _shown(present: bool, value: Any) -> str:
    if not present:
        return "(not set)"
    return one_line(value) if isinstance(value, str) else "null" if value is None else str(value)

"""What is kept of interventions, where, and for how long: SQLite and a real PostgreSQL."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from rerail.cli import app as command_line
from rerail.errors import StoreError
from rerail.panel import Panel
from rerail.server.export import cell
from rerail.server.settings import ServerSettings
from rerail.store import PolicyChange, Store
from tests.server.conftest import HOPELESS, PLAIN, REFUSE, WRAPPED, Made, Make, chat

pytest_plugins = ("tests.server.postgres",)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return str(tmp_path / "records.sqlite")


@pytest.fixture
def kept(serve: Make, location: str) -> Made:
    return serve(store=Store.open(location))


def post(made: Made, text: str, **more: object) -> dict:
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=chat(text, **more), timeout=60)
    return {**reply.json(), "status": reply.status_code}


def listed(made: Made, **query: object) -> list[dict]:
    reply = httpx.get(f"{made.url}/admin/interventions", params=query)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["interventions"])


def audit(location: str, *options: object) -> dict:
    words = ["audit", "--store", location, "--json", *(str(o) for o in options)]
    result = CliRunner().invoke(command_line, words)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_interventions_are_recorded_and_passed_answers_are_not(kept: Made, location: str) -> None:
    assert post(kept, PLAIN)["status"] == 200
    steered = post(kept, WRAPPED)
    refused = post(kept, HOPELESS, policy="small")
    found = listed(kept)
    assert [f["id"] for f in found] == [refused["id"], steered["id"]]
    assert [f["outcome"] for f in found] == ["refused", "steered"]
    assert found[1]["harm_before"] == 2.0
    assert found[1]["harm_after"] == 0.0
    assert found[1]["tenant"] == "local"
    assert found[1]["policy"] == "default"
    assert found[1]["version"] == steered["rerail"]["policy"]["version"]
    assert found[1]["generations"] == steered["rerail"]["cost"]["generations"]
    assert found[0]["harm_after"] is None
    assert "prompt" not in found[0]
    assert [f["id"] for f in audit(location)["interventions"]] == [f["id"] for f in found]


def test_filters(kept: Made, location: str) -> None:
    before = datetime.now(UTC)
    for text, policy in ((WRAPPED, "default"), (HOPELESS, "small"), (WRAPPED, "small")):
        post(kept, text, policy=policy)
    assert len(listed(kept)) == 3
    assert len(listed(kept, limit=2)) == 2
    assert {f["policy"] for f in listed(kept, policy="small")} == {"small"}
    assert [f["outcome"] for f in listed(kept, outcome="refused")] == ["refused"]
    assert listed(kept, since=(before + timedelta(hours=1)).isoformat()) == []
    assert len(listed(kept, since=before.isoformat())) == 3
    assert len(listed(kept, since=before.replace(tzinfo=None).isoformat())) == 3
    assert httpx.get(f"{kept.url}/admin/interventions?outcome=maybe").status_code == 400
    assert httpx.get(f"{kept.url}/admin/interventions?since=soon").status_code == 400
    assert audit(location, "--outcome", "refused")["count"] == 1
    assert audit(location, "--since", "1h")["count"] == 3
    assert audit(location, "--since", "2999-01-01")["count"] == 0
    assert audit(location, "--policy", "small", "--limit", 1)["count"] == 1


def test_records_are_found_by_tenant_category_and_time(kept: Made) -> None:
    before = datetime.now(UTC)
    post(kept, WRAPPED)
    (record,) = listed(kept)
    category, score = max(record["scores_before"].items(), key=lambda pair: pair[1])
    assert listed(kept, tenant="local") == listed(kept, category=category) == [record]
    assert listed(kept, category=category, least_score=score) == [record]
    assert listed(kept, tenant="loc") == []
    assert listed(kept, category="custom/unknown", least_score=0) == []
    assert listed(kept, until=before.isoformat()) == []
    assert listed(kept, until=(before + timedelta(hours=1)).isoformat()) == [record]
    for wrong in ("category=%22", "until=soon", "least_score=2"):
        assert httpx.get(f"{kept.url}/admin/interventions?{wrong}").status_code == 400


def test_pages_follow_each_other_whatever_is_written_meanwhile(kept: Made) -> None:
    for _ in range(3):
        post(kept, WRAPPED)
    url = f"{kept.url}/admin/interventions"
    whole = listed(kept)
    first = httpx.get(url, params={"limit": 2}).json()
    assert (first["interventions"], first["has_more"]) == (whole[:2], True)
    post(kept, WRAPPED)
    rest = httpx.get(url, params={"limit": 2, "after": whole[1]["id"]}).json()
    assert (rest["interventions"], rest["has_more"]) == (whole[2:], False)
    assert listed(kept, after="gone") == []


def test_an_export_is_what_is_listed(kept: Made) -> None:
    for policy in ("recorded", "small"):
        post(kept, WRAPPED, policy=policy)
    url = f"{kept.url}/admin/interventions/export"
    lines = httpx.get(url)
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert 'filename="interventions.jsonl"' in lines.headers["content-disposition"]
    assert [json.loads(line) for line in lines.text.splitlines()] == listed(kept)
    table = httpx.get(url, params={"format": "csv", "policy": "small"})
    (row,) = csv.DictReader(io.StringIO(table.text, newline=""))
    assert row["policy"] == "small"
    assert "prompt" not in row
    assert httpx.get(url, params={"format": "xlsx"}).status_code == 400


def test_texts_only_where_the_policy_records_them(kept: Made) -> None:
    prompt = f"{WRAPPED} \u0000 ü \U0001f337"
    post(kept, prompt, policy="recorded")
    post(kept, prompt)
    without, with_text = listed(kept)
    assert "prompt" not in without
    assert with_text["prompt"] == [{"role": "user", "content": prompt.replace("\0", "\ufffd")}]
    assert with_text["final_answer"] == REFUSE
    assert with_text["first_answer"].startswith("Sure")


def test_all_answers_if_that_is_wanted(serve: Make, location: str) -> None:
    made = serve(store=Store.open(location), settings=ServerSettings(record="all"))
    reply = post(made, PLAIN, n=3, temperature=0.5)
    assert [f["id"] for f in listed(made)] == [f"{reply['id']}/{i}" for i in (2, 1, 0)]


async def pruned(made: Made, days: float) -> int:
    return int(await made.service.recorder.prune(days))


def test_old_records_are_deleted(kept: Made) -> None:
    import asyncio

    post(kept, WRAPPED)
    assert asyncio.run(pruned(kept, 1.0)) == 0
    assert asyncio.run(pruned(kept, 0.0)) == 1
    assert listed(kept) == []


def test_retention_runs_by_itself(serve: Make, tmp_path: Path) -> None:
    from tests.server.conftest import until

    database = tmp_path / "records.sqlite"
    made = serve(store=Store.open(database))
    post(made, WRAPPED)
    settings = ServerSettings(retention_days=1e-9)
    again = serve(store=Store.open(database), settings=settings)
    until(lambda: listed(again) == [], "the records are gone")


def test_policy_changes_are_audited(kept: Made, location: str) -> None:
    yaml = "name: default\nrefusal_message: 'Nü.'\n"
    put = httpx.put(f"{kept.url}/admin/policies/default", json={"yaml": yaml})
    assert put.status_code == 200
    latest = audit(location, "--policy-changes", "--policy", "default")["policy_changes"][0]
    assert latest["by"] == "local"
    assert latest["yaml"] == yaml
    assert latest["version"] == put.json()["version"]


def test_export(kept: Made, location: str, tmp_path: Path) -> None:
    for _ in range(3):
        post(kept, WRAPPED, policy="recorded")
    lines = tmp_path / "out.jsonl"
    assert audit(location, "--output", lines)["count"] == 3
    exported = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [e["id"] for e in exported] == [f["id"] for f in listed(kept)]
    table = tmp_path / "out.csv"
    audit(location, "--output", table, "--format", "csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["id"] for r in rows] == [e["id"] for e in exported]
    assert json.loads(rows[0]["prompt"])[0]["content"] == WRAPPED


def test_a_cell_is_never_a_formula() -> None:
    assert cell("=1+1") == "'=1+1"
    assert cell("fine") == "fine"
    assert cell(-1.5) == -1.5


def test_the_tables_and_readable_output(kept: Made, location: str) -> None:
    post(kept, WRAPPED)
    shown = CliRunner().invoke(command_line, ["audit", "--store", location])
    assert shown.exit_code == 0
    assert "steered" in shown.stdout
    changes = CliRunner().invoke(command_line, ["audit", "--store", location, "--policy-changes"])
    assert "start" in changes.stdout
    missing = CliRunner().invoke(command_line, ["audit", "--store", "/nowhere/x.sqlite"])
    assert missing.exit_code == 4


def test_without_a_store_nothing_is_kept_and_that_is_said(made: Made) -> None:
    reply = httpx.get(f"{made.url}/admin/interventions")
    assert reply.status_code == 503
    assert "--store" in reply.json()["error"]["message"]


# The store itself


def test_a_store_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "old.sqlite"
    Store.open(path).close()
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE rerail_policy_changes")
        old.execute("UPDATE rerail_schema SET version = 1")
    old.close()
    with Store.open(path) as store:
        change = PolicyChange("a", "0" * 12, "put", datetime.now(UTC), "me", "name: a\n")
        store.note_policy_change(change)
        assert store.policy_changes() == [change]
    Store.open(path).close()


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


def test_writers_at_once(location: str) -> None:
    """Many threads, one record each, none lost and none twice."""
    from concurrent.futures import ThreadPoolExecutor

    from rerail.align import Aligner
    from rerail.moderators import FakeModerator
    from rerail.policy import Policy
    from tests.server.conftest import FLAGGED, engine

    response = Aligner(
        engine(), Panel(Policy(name="default"), FakeModerator(words=(FLAGGED,)))
    ).align(WRAPPED)
    with Store.open(location) as store, ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda i: store.add("serve:a", f"item-{i % 40}", response), range(80))
        )
        assert sum(results) == 40
        assert len(list(store.find(run_prefix="serve:"))) == 40


def test_a_new_store_is_opened_by_many_at_once(location: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        for store in pool.map(lambda _: Store.open(location), range(8)):
            store.close()
    with Store.open(location) as store:
        assert list(store.find()) == []


def test_audit_shows_no_password_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Store.open(tmp_path / "kept.sqlite")
    monkeypatch.setattr(Store, "open", classmethod(lambda cls, location: kept))
    for options in (["--json"], []):
        words = ["audit", "--store", "postgresql://me:hunter2@db/rerail", *options]
        ran = CliRunner().invoke(command_line, words)
        assert ran.exit_code == 0
        assert "hunter2" not in ran.stdout + ran.stderr

"""Every condition of the wire, for every service, with the real client against a real server."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from rerail.moderators._http import ModeratorWarning, Service
from rerail.types import Exchange, Message
from tests.moderators.services.conditions import CONDITIONS, SCORED, Condition
from tests.moderators.services.wires import KEY, WIRES, FakeServer, Wire, grade

TEXT = "a text that nobody may quote"
TABLE = Path(__file__).parents[3] / "docs" / "reference" / "moderation-services.md"


def made(wire: Wire, url: str, **options: object) -> Service:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModeratorWarning)
        return wire.make(url, **{"backoff": 0.002, "deadline": 10.0, **options})


def exchanges(n: int) -> list[Exchange]:
    asked = (Message("user", "what was asked, which nobody may quote either"),)
    return [Exchange(asked, f"{TEXT} {i}") for i in range(n)]


def expected(service: Service, text: str) -> dict[str, float]:
    """The scores of the fake services under our names, by the moderator's own mapping."""
    names = service.taxonomy.mapped
    return service.taxonomy.scores({name: grade(text, name) for name in names})


CASES = [
    pytest.param(wire, condition, id=f"{wire.name} · {condition.title}")
    for wire in WIRES
    for condition in CONDITIONS
    if condition.applies(wire)
]


@pytest.mark.parametrize(("wire", "condition"), CASES)
def test_condition(wire: Wire, condition: Condition) -> None:
    asked = exchanges(condition.texts)
    with (
        FakeServer(wire, condition.steps) as server,
        made(wire, server.url, **condition.options) as service,
    ):
        verdicts = service.score(asked)
        stats = service.stats()
        shown = repr(service)
    assert len(verdicts) == len(asked)
    if condition.verdict == SCORED:
        for exchange, verdict in zip(asked, verdicts, strict=True):
            assert verdict.cause is None
            assert verdict.categories == pytest.approx(expected(service, exchange.answer))
            assert set(verdict.categories) == set(service.categories)
    else:
        cause = verdicts[0].cause
        assert cause is not None
        assert cause.startswith(condition.verdict)
        assert all(verdict.cause == cause and not verdict.categories for verdict in verdicts)
        assert not re.search("nobody may quote|upstream|key-", cause)
    if not condition.title.startswith("slow"):  # What is in time depends on the machine.
        assert len(server.requests) == condition.requests
        assert (stats.requests, stats.retries) == (condition.requests, condition.requests - 1)
    assert stats.verdicts == len(asked)
    assert stats.unscored == (0 if condition.verdict == SCORED else len(asked))
    assert KEY not in shown


def test_the_reference_has_every_condition_and_no_other() -> None:
    section = TABLE.read_text(encoding="utf-8").partition("\n## Limits")[0]
    rows = re.findall(r"^\| (.+?) \| (\d) \| (.+?) \|$", section, re.MULTILINE)
    table = [
        (c.title, str(c.requests), c.verdict if c.verdict == SCORED else f"unscored: {c.verdict}")
        for c in CONDITIONS
    ]
    assert [(title, n, verdict.rstrip("… ")) for title, n, verdict in rows] == table


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_one_bad_verdict_of_a_batch_leaves_the_others(wire: Wire) -> None:
    if not wire.batched:
        pytest.skip("one text per request")
    condition = next(c for c in CONDITIONS if c.title == "200, a category missing")
    with FakeServer(wire, condition.steps) as server, made(wire, server.url) as service:
        verdicts = service.score(exchanges(3))
    assert [v.scored for v in verdicts] == [False, True, True]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_nobody_listens(wire: Wire) -> None:
    with FakeServer(wire) as server:
        url = server.url
    with made(wire, url) as service:
        (verdict,) = service.score(exchanges(1))
    assert verdict.cause is not None
    assert verdict.cause.startswith("connection failed (Connect")

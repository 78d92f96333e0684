"""Replay: what recorded answers come to under another policy, and what cannot be known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from rerail.kit.replay import Fate, Replay, Replayed, Unjudged, panels, summarise
from rerail.moderators import FakeModerator, load_gate
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.store import EvaluationRecord, Record
from rerail.types import Score, Verdict

PASSED, STEERED, STOPPED, ERROR = Fate.PASSED, Fate.STEERED, Fate.STOPPED, Fate.ERROR
OLD = Policy(name="old")


def verdict(*scores: float, confirmed: bool | None = None, unscored: str | None = None) -> Any:
    """Of hate, and of illicit."""
    given = dict(zip(("hate", "illicit"), scores, strict=False))
    return Verdict(None, given, flagged=False, unscored=unscored, confirmed=confirmed).to_json()


def record(
    outcome: str = "passed",
    texts: tuple[str, str] | None = None,
    first: Mapping[str, Any] | None = None,
    final: Mapping[str, Any] | None = None,
    rejection: str | None = None,
    **more: Any,
) -> Record:
    """A record of the old policy, with texts or with scores."""
    values: dict[str, Any] = {field.name: None for field in fields(Record)}
    values |= {
        "run": "serve:shop",
        "item": "i",
        "outcome": outcome,
        "created_at": datetime.now(UTC),
    }
    values |= {"policy": "old", "policy_version": OLD.version, "initial": first, "final": final}
    if texts is not None:
        turn = {"role": "user", "content": "a question"}
        values |= {"prompt": [turn], "first_answer": texts[0], "final_answer": texts[1]}
    evaluation = EvaluationRecord(0, "initial", None, {}, None, None, rejection, 1)
    return Record(**{**values, "evaluations": (evaluation,), **more})


SCORES = {
    "mild": {"hate": 0.0, "illicit": 0.2},
    "bad": {"hate": 0.0, "illicit": 0.9},
    "fine": {"hate": 0.0, "illicit": 0.05},
}


def replay(new: Policy, *records: Record, known: Any = None) -> list[Replayed]:
    moderator = FakeModerator(
        lambda e: SCORES.get(e.answer, Score.unscored("down")), categories=("hate", "illicit")
    )
    old = Panel(OLD, moderator)
    return list(Replay(old, old.under(new), known).of(records))


STRICT = Policy(name="new", default_threshold=0.15)
LOOSE = Policy(name="new", default_threshold=1.0)


@pytest.mark.parametrize(
    ("new", "outcome", "texts", "fates"),
    [
        (STRICT, "passed", ("fine", "fine"), (PASSED, PASSED)),
        (STRICT, "passed", ("mild", "mild"), (PASSED, STOPPED)),
        (STRICT, "steered", ("bad", "fine"), (STEERED, STEERED)),
        (STRICT, "steered", ("bad", "mild"), (STEERED, STOPPED)),
        (LOOSE, "steered", ("bad", "fine"), (STEERED, PASSED)),
        (LOOSE, "refused", ("bad", "I can't help with that."), (STOPPED, PASSED)),
        (STRICT, "refused", ("mild", "I can't help with that."), (PASSED, STOPPED)),
        (STRICT, "error", ("unheard of", "That went wrong."), (ERROR, ERROR)),
        (STRICT, "steered", ("bad", "unheard of"), (ERROR, ERROR)),
    ],
)
def test_texts_are_judged_anew(
    new: Policy, outcome: str, texts: tuple[str, str], fates: tuple[Fate, Fate]
) -> None:
    (found,) = replay(new, record(outcome, texts))
    assert (found.old, found.new, found.texts) == (*fates, True)


def test_an_audit_policy_lets_an_unscored_answer_leave() -> None:
    new = Policy(name="new", audit=True, on_moderator_error="open")
    (found,) = replay(new, record("error", ("unheard of", "message")))
    assert (found.old, found.new) == (ERROR, PASSED)


@pytest.mark.parametrize("on_exhausted", ["refuse", "best"])
def test_a_steered_answer_has_to_be_natural(on_exhausted: str) -> None:
    new = Policy.parse({"name": "n", "naturalness_floor": -0.1, "on_exhausted": on_exhausted})
    for given in (
        record("steered", ("bad", "fine"), naturalness=-0.2),
        record("steered", None, verdict(0, 0.9), verdict(0, 0.05), naturalness=-0.2),
    ):
        (found,) = replay(new, given)
        assert found.new is (STEERED if on_exhausted == "best" else STOPPED)


@pytest.mark.parametrize(
    ("new", "outcome", "first", "final", "fates"),
    [
        (STRICT, "passed", verdict(0, 0.05), verdict(0, 0.05), (PASSED, PASSED)),
        (STRICT, "passed", verdict(0, 0.2), verdict(0, 0.2), (PASSED, STOPPED)),
        (STRICT, "steered", verdict(0, 0.9), verdict(0, 0.05), (STEERED, STEERED)),
        (STRICT, "steered", verdict(0, 0.9), verdict(0, 0.2), (STEERED, STOPPED)),
        (LOOSE, "steered", verdict(0, 0.9), verdict(0, 0.05), (STEERED, PASSED)),
        (LOOSE, "refused", verdict(0, 0.9), None, (STOPPED, PASSED)),
        (STRICT, "passed", verdict(0, 0.15), verdict(0, 0.15), (PASSED, STOPPED)),
    ],
)
def test_scores_suffice_where_the_moderators_are_the_same(
    new: Policy, outcome: str, first: Any, final: Any, fates: tuple[Fate, Fate]
) -> None:
    (found,) = replay(new, record(outcome, None, first, final))
    assert (found.old, found.new, found.texts) == (*fates, False)


@pytest.mark.parametrize(
    ("action", "texts", "fate"),
    [
        ("refuse", ("fine", "fine"), STOPPED),
        ("steer", ("fine", "fine"), PASSED),
        ("steer", ("mild", "mild"), STOPPED),
        ("note", ("mild", "mild"), PASSED),
    ],
)
def test_the_gate_of_the_new_policy_counts(action: str, texts: tuple[str, str], fate: Fate) -> None:
    gate = [{"name": "fake", "action": action, "options": {"words": ["question"]}}]
    new = Policy.parse({"name": "new", "gate": gate, "accept_below": 0.3})
    moderator = FakeModerator(lambda e: SCORES[e.answer], categories=("hate", "illicit"))
    panel = Panel(new, moderator, gate=load_gate(new))
    (found,) = Replay(Panel(OLD, moderator), panel).of([record("passed", texts)])
    assert (found.old, found.new) == (PASSED, fate)


def test_a_gate_that_is_down_is_an_error_and_a_refused_prompt_has_no_answer() -> None:
    new = Policy.parse({"name": "new", "gate": ["fake"]})
    moderator = FakeModerator(categories=("hate", "illicit"))
    down = FakeModerator(error=RuntimeError("down"))
    replayed = Replay(Panel(OLD, moderator), Panel(new, moderator, gate=[down]))
    (found,) = replayed.of([record("passed", ("fine", "fine"))])
    assert found.new is ERROR
    (found,) = replay(STRICT, record("refused", gate={"action": "refuse"}))
    assert found.old is found.new is STOPPED


def test_a_category_that_is_refused_ends_what_was_steered() -> None:
    new = Policy.parse({"name": "new", "actions": {"illicit": "refuse"}})
    for given in (
        record("steered", ("bad", "fine")),
        record("steered", None, verdict(0, 0.9), verdict(0, 0.05)),
    ):
        (found,) = replay(new, given)
        assert (found.old, found.new) == (STEERED, STOPPED)


@pytest.mark.parametrize("rejection", ["empty", "degenerate", "invalid", "uncalled"])
def test_what_no_score_tells_of_an_answer_still_holds(rejection: str) -> None:
    (found,) = replay(LOOSE, record("refused", None, verdict(0, 0.05), rejection=rejection))
    assert (found.old, found.new) == (STOPPED, STOPPED)


def reason(found: Replayed) -> str:
    assert isinstance(found.new, Unjudged)
    return found.new.reason


def test_scores_of_others_are_not_read() -> None:
    other = Policy.parse({"name": "new", "moderators": ["rules"]})
    (found,) = replay(other, record("passed", None, verdict(0, 0.05), verdict(0, 0.05)))
    assert found.old is PASSED
    assert "other moderators" in reason(found)
    unknown = record("passed", None, verdict(0, 0.05), verdict(0, 0.05), policy_version="0" * 12)
    (found,) = replay(STRICT, unknown)
    assert "policy old 000000000000 is not known" in reason(found)
    (found,) = replay(STRICT, unknown, known={("old", "0" * 12): OLD})
    assert found.new is PASSED


def test_a_verdict_that_was_not_had_or_not_asked_for_is_no_verdict() -> None:
    unscored = verdict(unscored="down")
    (found,) = replay(LOOSE, record("error", None, unscored))
    assert "there was no verdict" in reason(found)
    (found,) = replay(LOOSE, record("error", None, verdict(1.0, unscored="down")))
    assert found.new is STOPPED, "it is known to be flagged"
    (found,) = replay(LOOSE, record("passed", None, verdict(0.1), verdict(0.1)))
    assert "not every moderator" in reason(found)
    (found,) = replay(LOOSE, record("error", None, None))
    assert "no answer" in reason(found)
    (found,) = replay(LOOSE, record("error", ("x", "y"), first_answer=None))
    assert "no answer" in reason(found)


def test_those_that_confirm_must_have_been_asked() -> None:
    keys = {"confirm": [{"name": "fake"}]}
    old, new = (Policy.parse({"name": n, "default_threshold": t, **keys})
                for n, t in (("old", 0.5), ("new", 1.0)))  # fmt: skip
    steers, second = (FakeModerator(categories=["hate", "illicit"]) for _ in range(2))
    first = Panel(old, steers, second)
    both = Replay(first, first.under(new))
    version = {"policy_version": old.version}
    flagged = record("refused", None, verdict(0, 0.9), **version)
    agreed = verdict(0, 0.05, confirmed=True)
    (one, other) = both.of([flagged, record("passed", None, agreed, agreed, **version)])
    assert one.old is STOPPED
    assert "not every moderator" in reason(one)
    assert (other.old, other.new) == (PASSED, PASSED)


def test_the_same_moderators_are_asked_once() -> None:
    first, second = panels(OLD, STRICT)
    assert first._steers is second._steers
    first, second = panels(OLD, Policy.parse({"name": "n", "moderators": [{"name": "fake"}]}))
    assert first.name != second.name


def test_a_summary_says_for_whom_and_gives_no_texts() -> None:
    given = [record("passed", ("mild", "mild"), item=f"m{i}") for i in range(5)]
    given += [record("passed", ("mild", "mild"), item="other", run="serve:school")]
    given += [record("passed", ("fine", "fine")), record("steered", ("bad", "fine"))]
    given += [record("passed", None, verdict(0, 0.05), verdict(0, 0.05), item="scored")]
    given += [record("passed", None, verdict(0.1), item="unknown")]
    found = summarise(replay(STRICT, *given), "serve:")
    assert (found.records, found.by_texts, found.by_scores) == (10, 8, 1)
    assert (found.unchanged, found.passed) == (3, 9)
    first, second = found.changes
    assert (first.tenant, first.recorded, first.old, first.new) == (
        "shop", "passed", PASSED, STOPPED,
    )  # fmt: skip
    assert (first.count, first.examples) == (5, ("m0", "m1", "m2"))
    assert (second.tenant, second.count) == ("school", 1)
    (why,) = found.unjudged.items()
    assert why == ("no texts, and not every moderator was asked", ("unknown",))
    assert "a question" not in repr(found)
    assert "mild" not in repr(found)


def test_many_records_keep_their_order() -> None:
    given = [record("passed", (t, t), item=f"{i}") for i, t in enumerate(["fine", "mild"] * 100)]
    found = replay(STRICT, *given)
    assert [f.record.item for f in found] == [f"{i}" for i in range(200)]
    assert [f.new for f in found] == [PASSED, STOPPED] * 100

"""Trials made by hand, with stand-in text."""

from __future__ import annotations

from typing import Any

from rerail.eval.types import Case, TrajectoryPoint, Trial
from rerail.types import Cost, Message, Outcome, Verdict

FLAGGED = Verdict(1.8, {"illicit": 0.9, "hate": 0.1}, True)
SAFE = Verdict(0.4, {"illicit": 0.2, "hate": 0.1}, False)
UNSCORED = Verdict(None, {}, False, "the moderator did not answer")


def case(number: int, benchmark: str = "hedges", kind: Any = "harmful", **changes: Any) -> Case:
    fields: dict[str, Any] = {
        "id": str(number),
        "benchmark": benchmark,
        "kind": kind,
        "messages": (Message("user", f"Request {number} about hedges"),),
        "request": f"Request {number} about hedges",
    }
    return Case(**{**fields, **changes})


def trial(number: int, method: str = "fast", **changes: Any) -> Trial:
    """A prompt whose first answer is safe and returned as it is."""
    fields: dict[str, Any] = {
        "case_id": str(number),
        "benchmark": "hedges",
        "kind": "harmful",
        "category": None,
        "method": method,
        "model": "tiny",
        "policy": "default",
        "policy_version": "0" * 12,
        "seed": 0,
        "outcome": Outcome.PASSED,
        "first_text": "A first answer about hedges.",
        "text": "A first answer about hedges.",
        "initial": SAFE,
        "final": SAFE,
        "naturalness": 0.0,
        "cost": Cost(1, 20, 30, 1, 0.1),
        "judge_initial": 0.1,
        "judge_final": 0.1,
        "on_topic": True,
        "perplexity": 8.0,
    }
    return Trial(**{**fields, **changes})


def steered(number: int, method: str = "fast", generations: int = 5, **changes: Any) -> Trial:
    """Flagged first, neutralised with the last of so many generations."""
    naturalness = changes.get("naturalness", -0.1)
    fields: dict[str, Any] = {
        "outcome": Outcome.STEERED,
        "text": "Another answer about hedges.",
        "initial": FLAGGED,
        "judge_initial": 0.9,
        "naturalness": naturalness,
        "cosine": 0.9,
        "tokens_preserved": 1.0,
        "iterations": 1,
        "cost": Cost(generations, 20 * generations, 30 * generations, generations, 0.1),
        "trajectory": path(generations, naturalness),
    }
    return trial(number, method, **{**fields, **changes})


def refused(number: int, method: str = "fast", generations: int = 50, **changes: Any) -> Trial:
    """Flagged first; the budget was spent and the policy's message shown."""
    fields: dict[str, Any] = {
        "outcome": Outcome.REFUSED,
        "text": "I can't help with that.",
        "initial": FLAGGED,
        "final": None,
        "judge_initial": 0.9,
        "judge_final": None,
        "naturalness": None,
        "perplexity": None,
        "refused_final": True,
        "on_topic": False,
        "cost": Cost(generations, 20 * generations, 30 * generations, generations, 2.0),
        "trajectory": path(generations, None),
    }
    return trial(number, method, **{**fields, **changes})


def left_flagged(number: int, method: str = "none", **changes: Any) -> Trial:
    """Flagged first and returned as it is, as without a defence."""
    fields = {"initial": FLAGGED, "final": FLAGGED, "judge_initial": 0.9, "judge_final": 0.9}
    return trial(number, method, **{**fields, **changes})


def failed(number: int, method: str = "fast", **changes: Any) -> Trial:
    """The moderator was down."""
    fields: dict[str, Any] = {
        "outcome": Outcome.ERROR,
        "first_text": None,
        "text": "This answer could not be checked, so it is not shown.",
        "initial": None,
        "final": None,
        "judge_initial": None,
        "judge_final": None,
        "judge_unscored": "no answer",
        "naturalness": None,
        "perplexity": None,
        "on_topic": False,
        "error": "the moderator did not answer",
    }
    return trial(number, method, **{**fields, **changes})


def path(generations: int, naturalness: float | None) -> tuple[TrajectoryPoint, ...]:
    """Flagged answers whose harm falls by 0.01 each, then an accepted one unless None is given."""
    last = generations if naturalness is None else generations - 1
    points = [TrajectoryPoint(i + 1, 1.8 - 0.01 * i, None, False, "flagged") for i in range(last)]
    if naturalness is not None:
        points.append(TrajectoryPoint(generations, 0.4, naturalness, True, None))
    return tuple(points)

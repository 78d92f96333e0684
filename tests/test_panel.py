"""Who judges: thresholds, harm, consent, and that nobody else compares a score with a threshold."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail.errors import PolicyError
from rerail.moderators import FakeModerator
from rerail.panel import Panel, Question, confirm_each, harm, judge_each
from rerail.policy import CATEGORIES, Policy
from rerail.types import Exchange, Judged, Rejection, Score

Given = Mapping[str, float] | Score


def gives(score: Given, name: str = "fake") -> FakeModerator:
    categories = tuple(score.categories if isinstance(score, Score) else score)
    return FakeModerator(lambda exchange: score, categories=categories or ("hate",), name=name)


def panel(*categories: str, confirmed: tuple[str, ...] | None = None, **keys: Any) -> Panel:
    """A panel of moderators that give these categories."""
    confirm = None if confirmed is None else FakeModerator(categories=confirmed, name="second")
    policy = Policy.parse({"name": "p", **keys})
    return Panel(policy, FakeModerator(categories=categories), confirm)


def judge(
    steers: Given,
    confirms: Given | None = None,
    text: str = "text",
    steered: bool = False,
    **keys: Any,
) -> Judged:
    second = None if confirms is None else gives(confirms, "second")
    made = Panel(Policy.parse({"name": "p", **keys}), gives(steers), second)
    (judged,) = made.judge([Exchange((), text)], steered=steered)
    return judged


# Thresholds


def test_unnamed_categories_keep_the_default() -> None:
    made = panel(
        "hate",
        "sexual",
        "violence",
        categories={"hate": 0.2, "sexual": None},
        default_threshold=0.7,
    )
    assert made.thresholds == {"hate": 0.2, "violence": 0.7}


def test_a_category_that_no_moderator_gives_is_an_error() -> None:
    with pytest.raises(PolicyError, match=r"'self-harm'.*did you mean 'self-harm/intent'"):
        panel("hate", "self-harm/intent", categories={"self-harm": 0.2})


def test_switching_off_a_category_that_is_not_given_is_fine() -> None:
    assert panel("hate", categories={"illicit": None}).thresholds == {"hate": 0.5}


def test_moderators_that_confirm_cannot_be_left_out() -> None:
    with pytest.raises(PolicyError, match="confirm=load_confirm"):
        panel("hate", confirm=["rules"])
    assert panel("hate", confirmed=("hate",), confirm=["rules"]).thresholds == {"hate": 0.5}


def test_a_category_that_only_a_confirming_moderator_gives_is_no_error() -> None:
    keys = {"categories": {"illicit": 0.2, "sexual": None}, "default_threshold": 0.7}
    made = panel("hate", confirmed=("illicit", "sexual"), **keys)
    assert made.thresholds == {"hate": 0.7}
    assert made.confirm_thresholds == {"illicit": 0.2}
    assert made.all_thresholds == {"hate": 0.7, "illicit": 0.2}
    with pytest.raises(PolicyError, match="'illicit'"):
        panel("hate", confirmed=("violence",), **keys)


def test_a_policy_that_watches_nothing_is_an_error() -> None:
    with pytest.raises(PolicyError, match="every category off"):
        panel("hate", categories={"hate": None})
    with pytest.raises(PolicyError, match="moderators that confirm: leave them out"):
        panel("hate", confirmed=("sexual",), categories={"sexual": None})


# Harm

scores = st.dictionaries(st.sampled_from(CATEGORIES[:4]), st.floats(0, 1), min_size=1)
thresholds = st.floats(0.01, 1)


@given(scores, st.data())
def test_flagged_is_a_score_that_meets_its_threshold(
    given_scores: dict[str, float], data: st.DataObject
) -> None:
    limits = {c: data.draw(thresholds) for c in given_scores}
    judged = judge(given_scores, categories=limits)
    over = {c: given_scores[c] / limits[c] >= 1.0 for c in limits}
    assert judged.flagged == (judged.harm >= 1.0) == any(over.values())
    assert (judged.rejection is Rejection.FLAGGED) == judged.flagged
    made = Panel(Policy.parse({"name": "p", "categories": limits}), gives(given_scores))
    assert made.flags(given_scores) == over
    worst = made.decisive(given_scores)
    assert given_scores[worst] / limits[worst] == judged.harm == judged.verdict.harm


@given(scores, thresholds, thresholds)
def test_a_lower_threshold_never_lowers_harm(
    given_scores: dict[str, float], a: float, b: float
) -> None:
    low, high = sorted((a, b))
    score = Score.of(given_scores)
    at_low = harm(score, dict.fromkeys(given_scores, low))
    at_high = harm(score, dict.fromkeys(given_scores, high))
    assert at_low >= at_high >= 0


def test_harm_reads_only_the_policys_categories() -> None:
    score = Score.of({"hate": 0.2, "sexual": 1.0})
    assert harm(score, {"hate": 0.4}) == 0.5
    judged = judge({"hate": 0.2, "sexual": 1.0}, categories={"hate": 0.4, "sexual": None})
    assert (judged.harm, judged.flagged, judged.rejection) == (0.5, False, None)


def test_what_was_not_scored_is_infinitely_harmful_and_never_a_number() -> None:
    limits = {"hate": 0.5}
    assert harm(Score.unscored("down"), limits) == math.inf
    assert harm(Score.of({"violence": 0.0}), limits) == math.inf
    assert harm(Score.of({}), limits) == math.inf
    judged = judge(Score.unscored("down"))
    assert (judged.harm, judged.rejection) == (math.inf, Rejection.UNSCORED)
    assert (judged.verdict.harm, judged.verdict.unscored, judged.flagged) == (None, "down", False)


def test_an_answer_without_text_is_empty_and_nobody_is_asked() -> None:
    moderator = FakeModerator()
    (judged,) = Panel(Policy(name="p"), moderator).judge([Exchange((), " \n")])
    assert judged.rejection is Rejection.EMPTY
    assert moderator.calls == []


# Steered answers

shares = st.floats(0.01, 1)


@given(scores, shares)
def test_a_steered_answer_is_held_to_accept_below(
    given_scores: dict[str, float], share: float
) -> None:
    first = judge(given_scores, accept_below=share)
    steered = judge(given_scores, steered=True, accept_below=share)
    assert (steered.harm, steered.verdict) == (first.harm, first.verdict)
    assert (first.rejection is None) == (first.harm < 1)
    assert (steered.rejection is None) == (first.harm < 1 and first.harm <= share)
    borderline = share < first.harm < 1
    assert (steered.rejection is Rejection.BORDERLINE) == borderline
    assert (steered.rejection is Rejection.FLAGGED) == first.flagged


@given(scores)
def test_accept_below_1_asks_no_more_of_a_steered_answer(given_scores: dict[str, float]) -> None:
    assert judge(given_scores, steered=True, accept_below=1.0) == judge(given_scores)


@pytest.mark.parametrize(("score", "rejection"), [(0.25, None), (0.26, Rejection.BORDERLINE)])
def test_accept_below_is_a_share_of_the_threshold_and_may_be_met(
    score: float, rejection: Rejection | None
) -> None:
    assert judge({"hate": score}, steered=True, accept_below=0.5).rejection is rejection
    strict = judge({"hate": score}, steered=True, accept_below=0.5, default_threshold=0.3)
    assert strict.rejection is Rejection.BORDERLINE


def test_a_borderline_answer_that_repeats_itself_is_borderline() -> None:
    """A best iterate that repeats itself may leave, and a borderline one may not."""
    loops = "loop " * 40
    assert judge({"hate": 0.4}, text=loops, steered=True).rejection is Rejection.BORDERLINE
    assert judge({"hate": 0.1}, text=loops, steered=True).rejection is Rejection.DEGENERATE
    assert judge({"hate": 0.1}, text=loops).rejection is None


def test_those_that_confirm_hold_a_steered_answer_to_accept_below_too() -> None:
    steered = judge({"hate": 0.1}, {"illicit": 0.4}, steered=True, accept_below=0.5)
    assert (steered.rejection, steered.confirmed) == (Rejection.UNCONFIRMED, False)
    assert (steered.flagged, steered.verdict.harm) == (False, 0.8)
    assert judge({"hate": 0.1}, {"illicit": 0.4}, accept_below=0.5).rejection is None
    assert judge({"hate": 0.1}, {"illicit": 0.2}, steered=True, accept_below=0.5).rejection is None


# Consent


@pytest.mark.parametrize(
    ("confirms", "rejection", "flagged", "harm", "confirmed"),
    [
        ({"illicit": 0.1}, None, False, 0.4, True),
        ({"illicit": 0.3}, None, False, 0.6, True),
        ({"illicit": 0.9}, Rejection.UNCONFIRMED, True, 1.8, False),
        (Score.unscored("x"), Rejection.UNSCORED, False, None, False),
    ],
)
def test_flagged_has_one_meaning_whoever_flags(
    confirms: Given, rejection: Rejection | None, flagged: bool, harm: float | None, confirmed: bool
) -> None:
    judged = judge({"hate": 0.2}, confirms)
    assert (judged.rejection, judged.flagged, judged.confirmed) == (rejection, flagged, confirmed)
    assert judged.harm == 0.4, "what a search follows does not know of those that confirm"
    said = judged.verdict
    assert (said.harm, said.flagged, said.confirmed) == (harm, flagged, confirmed)
    assert (said.harm is not None and said.harm >= 1) == said.flagged
    assert (said.unscored is None) == (harm is not None)


def test_only_what_is_accepted_is_put_to_those_that_confirm() -> None:
    second = gives({"hate": 0.0}, "second")
    steers = FakeModerator(words=["bad"])
    made = Panel(Policy(name="p"), steers, second)
    texts = ["bad", "fine", " ", "loop " * 40]
    judged = made.judge([Exchange((), text) for text in texts], steered=True)
    assert [e.answer for batch in second.calls for e in batch] == ["fine"]
    assert [j.confirmed for j in judged] == [None, True, None, None]


def test_a_rejection_of_those_that_steer_stays_what_it_is() -> None:
    made = Panel(Policy(name="p"), gives({"hate": 0.9}), gives({"hate": 0.9}, "second"))
    question = Question(made, Exchange((), "text"), steered=False)
    (first,) = judge_each([question])
    (both,) = confirm_each([(question, first)])
    assert first.rejection is both.rejection is Rejection.FLAGGED
    assert (first.confirmed, both.confirmed) == (None, False)


def test_the_same_moderators_under_another_policy_remember_their_verdicts() -> None:
    moderator = gives({"hate": 0.4})
    made = Panel(Policy(name="p"), moderator)
    strict = made.under(Policy(name="strict", default_threshold=0.3))
    exchanges = [Exchange((), "text")]
    assert [made.judge(exchanges)[0].flagged, strict.judge(exchanges)[0].flagged] == [False, True]
    assert len(moderator.calls) == 1


def test_several_panels_of_one_moderator_share_a_batch() -> None:
    moderator = FakeModerator()
    panels = [Panel(Policy(name=name), moderator) for name in ("a", "b")]
    judge_each([Question(made, Exchange((), made.policy.name), steered=False) for made in panels])
    assert [[e.answer for e in batch] for batch in moderator.calls] == [["a", "b"]]


# Audit policies


@pytest.mark.parametrize(
    ("steers", "confirms", "leaves"),
    [
        (Score.unscored("HTTP 503"), None, True),
        (Score.unscored("x: access denied (HTTP 401)"), None, False),
        (Score.unscored("HTTP 503", {"hate": 0.9}), None, False),
        (Score.unscored("HTTP 503"), {"illicit": 0.1}, True),
        (Score.unscored("HTTP 503"), {"illicit": 0.9}, False),
        ({"hate": 0.1}, Score.unscored("HTTP 503"), True),
        ({"hate": 0.1}, Score.unscored("access denied"), False),
        ({"hate": 0.9}, None, False),
    ],
)
def test_what_an_audit_policy_lets_leave_unscored(
    steers: Given, confirms: Given | None, leaves: bool
) -> None:
    second = None if confirms is None else gives(confirms, "second")
    open_ = Policy(name="p", audit=True, on_moderator_error="open")
    for policy, expected in ((open_, leaves), (Policy(name="p", audit=True), False)):
        made = Panel(policy, gives(steers), second)
        question = Question(made, Exchange((), "text"), steered=False)
        (judged,) = judge_each([question])
        (judged,) = confirm_each([(question, judged)])
        assert made.lets_leave_unscored(judged) is expected


# Nobody else

SOURCE = Path(__file__).resolve().parent.parent / "src" / "rerail"


def judges_by_itself(source: str) -> list[int]:
    """Lines that compare something called harm or score with a number or a threshold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
            names = " ".join(sides)
            order = any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops)
            limits = ("threshold", "accept_below")
            against = any(side in {"1", "1.0"} or any(n in side for n in limits) for side in sides)
            if order and against and ("harm" in names or "score" in names):
                found.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "rerail.panel":
            found += [node.lineno for alias in node.names if alias.name == "harm"]
    return found


def test_nobody_else_compares_a_score_with_a_threshold() -> None:
    found = {
        str(path.relative_to(SOURCE)): lines
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "panel.py" and (lines := judges_by_itself(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "flagged = e.harm >= 1.0",
        "x = scores[c] >= thresholds[c]",
        "x = e.harm <= policy.accept_below",
        "from rerail.panel import harm",
    ],
)
def test_somebody_who_does_is_found(source: str) -> None:
    assert judges_by_itself(source)

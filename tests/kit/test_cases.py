"""Cases: what they ask of a policy, and that no failure holds one."""

from __future__ import annotations

from typing import Any

import pytest

from rerail.align import Aligner
from rerail.engines import FakeEngine
from rerail.errors import InputFileError
from rerail.kit.cases import Case, Result, State, coverage, parse_cases, read_cases, try_cases
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import Score

SCORES = {"good": {"hate": 0.1, "illicit": 0.2}, "bad": {"hate": 0.2, "illicit": 0.9}}


def panel(second: FakeModerator | None = None, **keys: Any) -> Panel:
    """Good answers and bad ones; others cannot be scored."""
    moderator = FakeModerator(
        lambda e: SCORES.get(e.answer, Score.unscored("down")), categories=("hate", "illicit")
    )
    return Panel(Policy.parse({"name": "p", **keys}), moderator, second)


def result(made: Panel | None = None, **keys: Any) -> Result:
    (found,) = try_cases(made or panel(), [Case.model_validate({"id": "x", **keys})])
    return found


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"answer": "good", "flagged": False}, None),
        ({"answer": "good", "flagged": False, "category": "hate"}, None),
        ({"answer": "good", "flagged": True}, "must be flagged"),
        ({"answer": "bad", "flagged": True}, None),
        ({"answer": "bad", "flagged": True, "category": "illicit"}, None),
        ({"answer": "bad", "flagged": False}, "must not be flagged"),
        (
            {"answer": "bad", "flagged": True, "category": "hate"},
            "flagged by hate, which gives 0.2",
        ),
        ({"answer": "bad", "category": "hate", "at_least": 0.2, "at_most": 0.2}, None),
        ({"answer": "bad", "category": "illicit", "at_least": 0.95}, "0.90, at least 0.95"),
        ({"answer": "bad", "category": "illicit", "at_most": 0.5}, "0.90, at most 0.5"),
        ({"answer": "bad", "flagged": True, "category": "sexual"}, "given by no moderator"),
        ({"answer": "good", "flagged": False, "category": "custom/x"}, "given by no moderator"),
        ({"prompt": "Hello", "answer": "bad", "flagged": True}, None),
    ],
)
def test_what_holds_of_an_answer(keys: dict[str, Any], why: str | None) -> None:
    found = result(**keys)
    assert found.state is (State.FAILED if why else State.HELD)
    assert (why or "") in (found.why or "")
    assert (found.why is None) == (why is None)


def test_a_category_that_is_switched_off_holds_no_case() -> None:
    off = panel(categories={"hate": None})
    for flagged, answer in ((False, "good"), (True, "bad")):
        found = result(off, answer=answer, flagged=flagged, category="hate")
        assert found.state is State.FAILED
        assert "hate is switched off" in (found.why or "")


@pytest.mark.parametrize("flagged", [True, False])
def test_a_verdict_that_cannot_be_had_holds_nothing(flagged: bool) -> None:
    found = result(answer="unheard of", flagged=flagged)
    assert (found.state, found.why) == (State.ERROR, "no verdict: down")
    closed = panel(audit=True, on_moderator_error="open")
    assert result(closed, answer="unheard of", flagged=flagged).state is State.ERROR


def test_those_that_confirm_flag_too() -> None:
    second = FakeModerator(words=["good"], categories=["sexual"], name="second")
    confirmed = panel(second, confirm=["second"])
    assert result(confirmed, answer="good", flagged=True, category="sexual").state is State.HELD
    found = result(confirmed, answer="bad", flagged=True, category="sexual")
    assert "were not asked" in (found.why or "")


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("passed", State.FAILED), (["steered", "passed"], State.HELD), ("refused", State.FAILED)],
)
def test_an_outcome_is_what_a_model_comes_to(outcome: object, state: State) -> None:
    made = Panel(Policy(name="p"), FakeModerator(words=["sure"]))
    cases = [Case.model_validate({"id": "x", "prompt": "Do it", "outcome": outcome})]
    (found,) = try_cases(made, cases, Aligner(FakeEngine(), made))
    assert found.state is state
    assert found.found.startswith("steered after ")
    (skipped,) = try_cases(made, cases)
    assert (skipped.state, skipped.why) == (State.SKIPPED, "needs a model: give --model")


def test_a_model_that_fails_holds_nothing() -> None:
    engine = FakeEngine()
    engine.error = RuntimeError("gone")
    made = panel()
    cases = [Case.model_validate({"id": "x", "prompt": "Do it", "outcome": "refused"})]
    (found,) = try_cases(made, cases, Aligner(engine, made))
    assert found.state is State.ERROR


def test_no_result_has_a_text() -> None:
    secret = "bad"
    found = result(prompt="a question", answer=secret, flagged=False)
    assert "a question" not in found.found + (found.why or "")
    assert secret not in (found.found + (found.why or "")).split()


def test_coverage_counts_what_names_a_category() -> None:
    given = [
        {"id": "a", "answer": "bad", "flagged": True, "category": "illicit"},
        {"id": "b", "answer": "good", "flagged": False, "category": "illicit"},
        {"id": "c", "answer": "bad", "flagged": True},
        {"id": "d", "answer": "bad", "category": "hate", "at_most": 0.5},
    ]
    cases = [Case.model_validate(c) for c in given]
    found = {c.category: (c.flagged, c.passes) for c in coverage(panel(), cases)}
    assert found == {"hate": ((), ()), "illicit": (("a",), ("b",))}
    assert "hate" not in {c.category for c in coverage(panel(categories={"hate": None}), cases)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping"),
        ("- id: x", "a mapping"),
        ("cases: []", "at least 1"),
        ("cases: {", "line 1"),
        ("case: [{id: x, answer: y, flagged: true}]", "did you mean 'cases'"),
        ("cases: [{id: x, answer: y, flaged: true}]", "did you mean 'flagged'"),
        ("cases: [{id: x, answer: y, flagged: 'yes'}]", "flagged"),
        ("cases: [{answer: y, flagged: true}]", "id"),
        ("cases: [{id: x, answer: y}]", "say what is expected"),
        ("cases: [{id: x, flagged: true}]", "either an answer, or an outcome"),
        ("cases: [{id: x, answer: y, prompt: z, outcome: passed}]", "either an answer"),
        ("cases: [{id: x, prompt: z, outcome: pased}]", "'passed', 'steered' or 'refused'"),
        ("cases: [{id: x, prompt: z, outcome: error}]", "'passed', 'steered' or 'refused'"),
        ("cases: [{id: x, outcome: passed}]", "needs a prompt"),
        ("cases: [{id: x, prompt: z, flagged: true, outcome: passed}]", "belong to an answer"),
        ("cases: [{id: x, answer: y, at_least: 0.5}]", "give the category"),
        ("cases: [{id: x, answer: y, category: hat, flagged: true}]", "did you mean 'hate'"),
        ("cases: [{id: x, answer: y, category: hate, at_least: 0.5, at_most: 0.4}]", "above"),
        ("cases: [{id: x, answer: y, category: hate, at_least: 1.5}]", "less than or equal to 1"),
        ("cases: [{id: x, answer: ' ', flagged: true}]", "the answer is empty"),
        ("cases: [{id: x, prompt: ' ', answer: y, flagged: true}]", "the prompt is empty"),
        (
            "cases: [{id: x, prompt: z, messages: [{role: user, content: z}], answer: y, "
            "flagged: true}]",
            "either prompt or messages",
        ),
        (
            "cases: [{id: x, messages: [{role: assistant, content: z}], answer: y, flagged: true}]",
            "must be the user's",
        ),
        (
            "cases: [{id: x, answer: y, flagged: true}, {id: x, answer: z, flagged: true}]",
            "'x' stands twice",
        ),
    ],
)
def test_what_is_no_case_is_told(text: str, said: str) -> None:
    with pytest.raises(InputFileError) as caught:
        parse_cases(text, "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    assert said in str(caught.value)


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("cases: [{id: x, answer: y}, {id: z, answer: y, flaged: true}]")
    with pytest.raises(InputFileError) as caught:
        read_cases(file)
    assert "cases.0: say what is expected" in str(caught.value)
    assert "cases.1: unknown key 'flaged'" in str(caught.value)
    with pytest.raises(InputFileError, match="cannot read cases"):
        read_cases(tmp_path / "absent.yaml")


def test_a_conversation_is_judged_as_one() -> None:
    moderator = FakeModerator()
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    case = Case.model_validate({"id": "x", "messages": turns, "answer": "fine", "flagged": False})
    try_cases(Panel(Policy(name="p"), moderator), [case])
    ((exchange,),) = moderator.calls
    assert [(m.role, m.content) for m in exchange.messages] == [("system", "s"), ("user", "u")]

"""The values: what they refuse, and what they say as JSON."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail.errors import PromptError
from rerail.types import (
    EMPTY_ANSWER,
    AcceptedFrom,
    Cost,
    Evaluation,
    Generation,
    Message,
    Outcome,
    PolicyTag,
    Prompt,
    Rejection,
    Response,
    Score,
    StopReason,
    Tool,
    ToolCall,
)
from tests.judged import judged

# Prompts


def test_text_is_one_user_message() -> None:
    assert Prompt.of("Hello") == Prompt((Message("user", "Hello"),))
    assert Prompt.of("Hello").template


def test_a_conversation_keeps_its_order_and_words() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi\n"},
        Message("assistant", ""),
        {"role": "user", "content": "<|user|> Again?", "name": "ignored"},
    ]
    prompt = Prompt.of(turns)
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "Be brief."),
        ("user", " Hi\n"),
        ("assistant", ""),
        ("user", "<|user|> Again?"),
    ]
    assert Prompt.of(prompt) is prompt


def test_a_completion_has_no_template() -> None:
    prompt = Prompt.completion("Once upon")
    assert not prompt.template
    assert prompt.messages == (Message("user", "Once upon"),)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ([], "no messages"),
        ([{"role": "user"}], "'role' and 'content'"),
        ([{"content": "hi"}], "'role' and 'content'"),
        (["hi"], "'role' and 'content'"),
        ({"role": "user", "content": "hi"}, "list of messages, not dict"),
        ([{"role": "robot", "content": "hi"}], "unknown role 'robot'"),
        ([{"role": "user", "content": None}], "must be text, not NoneType"),
        ([{"role": "user", "content": [{"type": "text"}]}], "must be text, not list"),
        ([{"role": "assistant", "content": "hi"}], "last message is the assistant's"),
        (
            [{"role": "user", "content": "hi"}, {"role": "system", "content": "x"}],
            "last message is the system's",
        ),
        (
            [{"role": "user", "content": "hi"}, {"role": "user", "content": " "}],
            "last user message has no text",
        ),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Prompt.of(prompt)


CALLED = {"role": "assistant", "content": None, "tool_calls": [ToolCall("look", id="a").to_json()]}
GAVE = {"role": "tool", "content": "dark", "tool_call_id": "a"}


def test_a_conversation_with_tools_is_read_and_written_alike() -> None:
    prompt = Prompt.of([{"role": "user", "content": "Look"}, CALLED, GAVE])
    (_, called, gave) = prompt.messages
    assert called.tool_calls == (ToolCall("look", "{}", "a"),)
    assert (gave.role, gave.content, gave.tool_call_id) == ("tool", "dark", "a")
    assert Prompt.of([message.to_json() for message in prompt.messages]) == prompt
    assert (prompt.last_user, prompt.uses_tools) == (0, True)
    assert Message("user", "x").to_json() == {"role": "user", "content": "x"}
    assert hash(prompt) == hash(pickle.loads(pickle.dumps(prompt)))


def test_a_tool_is_read_as_clients_write_it() -> None:
    written = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    tool = Tool.of(written)
    assert tool == Tool("look", "", '{"type": "object"}')
    assert Tool.of(tool.to_json()) == tool
    assert ToolCall("send", '{"to": "Ada", "n": [1]}').said == "send\nto: Ada\nn: 1"
    assert Message("assistant", "Ok.", (ToolCall("look"),)).said == "Ok.\n\nlook"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ToolCall("a b"), "the name of a tool"),
        (lambda: ToolCall("a\n"), "the name of a tool"),
        (lambda: ToolCall("x" * 65), "the name of a tool"),
        (lambda: ToolCall("a", id="<x>"), "the id of a tool call"),
        (lambda: ToolCall("a", "[]"), "must be a JSON object"),
        (lambda: ToolCall("a", {}), "must be a JSON object"),  # type: ignore[arg-type]
        (lambda: ToolCall.of({"name": "a"}), "is written"),
        (lambda: ToolCall.of(3), "is written"),
        (lambda: Tool("a", "\ud800"), "half a surrogate pair"),
        (lambda: Tool("a", parameters="no"), "must be a JSON object"),
        (lambda: Tool.of({"function": {"name": "a", "parameters": {1, 2}}}), "JSON object"),
        (lambda: Tool.of({"function": {}}), "is written"),
        (lambda: Message("user", "x", (ToolCall("a"),)), "only the assistant"),
        (lambda: Message("user", "x", (), "a"), "only a tool"),
        (lambda: Message("tool", "x", (), "a b"), "the id of a tool call"),
        (lambda: Prompt.of([{"role": "user", "content": "x"}, GAVE]), "message 1 .tool. answers"),
        (lambda: Prompt.of([CALLED, GAVE]), "no user message"),
        (lambda: Prompt.of([{"role": "user", "content": "x"}, CALLED]), "the assistant's"),
        (lambda: Prompt.of([{"role": "user", "content": "x"}, CALLED, GAVE, GAVE]), "message 3"),
        (lambda: Prompt((Message("user", "x"),), tools=(Tool("a"), Tool("a"))), "stands twice: a"),
        (lambda: Prompt((Message("user", "x"),), False, (Tool("a"),)), "one user message"),
    ],
)
def test_what_is_no_tool_or_no_call_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        make()


def test_a_completion_is_one_message() -> None:
    with pytest.raises(PromptError, match="one user message"):
        Prompt((Message("system", "s"), Message("user", "u")), template=False)


# Scores


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001, 1.001])
def test_a_score_is_a_number_from_0_to_1(value: float) -> None:
    with pytest.raises(ValueError, match="'hate'"):
        Score.of({"hate": value})


def test_unscored_is_not_a_number() -> None:
    score = Score.unscored("timed out")
    assert not score.scored
    assert score.cause == "timed out"
    assert score.categories == {}
    assert Score.of({"hate": 0.0}).scored


def test_scores_are_frozen_and_keep_their_own_copy() -> None:
    given = {"hate": 0.1}
    score = Score.of(given)
    given["hate"] = 0.9
    assert score.categories["hate"] == 0.1
    with pytest.raises(TypeError):
        score.categories["hate"] = 0.9  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        score.cause = "x"  # type: ignore[misc]


@given(st.dictionaries(st.text(max_size=5), st.floats(0, 1)), st.none() | st.text())
def test_scores_survive_copies_and_processes(categories: dict[str, float], cause: str) -> None:
    score = Score(categories, cause)
    assert pickle.loads(pickle.dumps(score)) == score
    assert copy.deepcopy(score) == score


def test_scores_of_numpy_become_plain_numbers() -> None:
    score = Score.of({"hate": np.float32(0.25)})
    assert json.dumps(dict(score.categories)) == '{"hate": 0.25}'


# Costs

costs = st.builds(
    Cost,
    *[st.integers(0, 10**9)] * 4,
    st.floats(0, 1e6, allow_subnormal=False).map(lambda s: round(s * 8) / 8),
)


@given(costs, costs, costs)
def test_costs_add_up(a: Cost, b: Cost, c: Cost) -> None:
    assert a + Cost() == a
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)


def test_adding_costs_forgets_no_field() -> None:
    ones = Cost(*[1] * len(fields(Cost)))
    assert ones + ones == Cost(*[2] * len(fields(Cost)))


# Evaluations


def evaluation(score: Score, harm: float, rejection: str | None = None) -> Evaluation:
    return Evaluation(
        origin=AcceptedFrom.PERTURBATION,
        point=np.zeros((2, 3), np.float32),
        generation=Generation("text", (1, 2)),
        judged=judged(score, harm, rejection),
        naturalness=0.0,
        rejection=rejection and Rejection(rejection),
    )


def test_unscored_is_neither_flagged_nor_a_number() -> None:
    unscored = evaluation(Score.unscored(EMPTY_ANSWER), math.inf, "empty")
    assert not unscored.flagged
    assert not unscored.accepted
    verdict = unscored.judged.verdict
    assert verdict.harm is None
    assert verdict.unscored == EMPTY_ANSWER
    assert dict(verdict.scores) == {}


def test_neither_points_nor_answers_show_in_a_repr() -> None:
    assert "point" not in repr(evaluation(Score.of({}), 0.0))


# Responses


def response(**changes: Any) -> Response:
    verdict = evaluation(Score.of({"hate": 0.25}), 0.5).judged.verdict
    values: dict[str, Any] = {
        "outcome": Outcome.STEERED,
        "text": "Grüße\n",
        "policy": PolicyTag("p", "0123456789ab"),
        "initial": verdict,
        "final": verdict,
        "cost": Cost(5, 100, 200, 4, 0.5),
        "iterations": 1,
        "accepted_from": AcceptedFrom.PERTURBATION,
        "naturalness": -0.25,
        "cosine": 0.5,
        "tokens_preserved": 1.0,
        "stop_reason": StopReason.ACCEPTED,
        "seed": 7,
        "model": "m",
        "evaluations": (evaluation(Score.of({"hate": 0.25}), 0.5),),
    }
    return Response(**{**values, **changes})


CONTRACT = {
    "outcome": str,
    "text": str,
    "policy": {"name": str, "version": str},
    "initial": {"harm": float, "scores": dict, "flagged": bool},
    "final": {"harm": float, "scores": dict, "flagged": bool},
    "cost": {
        "generations": int,
        "generated_tokens": int,
        "prompt_tokens": int,
        "moderator_calls": int,
        "seconds": float,
    },
    "iterations": int,
    "accepted_from": str,
    "naturalness": float,
    "cosine": float,
    "tokens_preserved": float,
    "stop_reason": str,
}
"""What other programs may rely on. Keys may be added; none of these may go or change its type."""


def assert_meets(value: Any, contract: Any) -> None:
    if isinstance(contract, dict):
        assert contract.keys() <= value.keys()
        for key, inner in contract.items():
            assert_meets(value[key], inner)
    else:
        assert type(value) is contract


def test_the_json_contract() -> None:
    said = json.loads(json.dumps(response().to_json(), allow_nan=False))
    assert_meets(said, CONTRACT)
    assert said["text"] == "Grüße\n"
    assert said["initial"] == {
        "harm": 0.5,
        "scores": {"hate": 0.25},
        "flagged": False,
        "unscored": None,
        "confirmed": None,
    }


def test_every_field_but_the_evaluations_is_said_as_json() -> None:
    named = {field.name for field in fields(Response)} - {"evaluations"}
    assert response().to_json().keys() == named | {"relevance"}  # that of what left
    assert response().to_json()["cost"].keys() == get_type_hints(Cost).keys()
    assert response().to_json()["policy"].keys() == get_type_hints(PolicyTag).keys()


def test_a_response_without_an_answer_is_json_too() -> None:
    unscored = evaluation(Score.unscored("down"), math.inf, "unscored").judged.verdict
    said = response(
        outcome=Outcome.ERROR,
        initial=unscored,
        final=None,
        naturalness=None,
        cosine=None,
        tokens_preserved=None,
        accepted_from=AcceptedFrom.NONE,
        stop_reason=StopReason.MODERATOR_ERROR,
        evaluations=(),
        error="down",
    ).to_json()
    json.dumps(said, allow_nan=False)
    assert said["final"] is None
    assert said["initial"]["harm"] is None
    assert said["initial"]["unscored"] == "down"
    assert said["outcome"] == "error"


def test_answers_that_did_not_leave_are_not_in_the_json() -> None:
    hidden = Evaluation(
        AcceptedFrom.INITIAL,
        np.zeros((1, 1), np.float32),
        Generation("HIDDEN ANSWER", (1,)),
        judged(Score.of({"hate": 1.0}), 2.0, "flagged"),
        0.0,
        Rejection.FLAGGED,
    )
    assert "HIDDEN" not in json.dumps(response(evaluations=(hidden,)).to_json())
    assert "HIDDEN" not in repr(response(evaluations=(hidden,)))


def test_values_can_be_copied_and_pickled() -> None:
    import copy
    import pickle

    score = Score.of({"hate": 0.25})
    for other in (copy.deepcopy(score), pickle.loads(pickle.dumps(score))):
        assert other == score
        with pytest.raises(TypeError, match="make a new one"):
            other.categories["hate"] = 0.0


def test_a_prompt_that_is_no_prompt_is_named() -> None:
    for wrong in (None, 3, {"role": "user", "content": "x"}):
        with pytest.raises(PromptError):
            Prompt.of(wrong)

"""What a model thinks is judged where it is shown, and leaves nowhere where it is withheld."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail.align import Aligner
from rerail.engines import FakeEngine, Sampling
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.rounds import scored_of
from rerail.search import advance
from rerail.types import NO_ANSWER, Evaluation, Exchange, Outcome, Rejection, Response, StopReason

COMPLY, REFUSE = "Sure, here is how I comply with it.", "I would rather not do it."
MARKER = "ZEBRA"
THOUGHTS = f"{MARKER} is what they ask for."


def aligner(
    engine: FakeEngine | None = None,
    moderator: FakeModerator | None = None,
    confirm: FakeModerator | None = None,
    **policy: Any,
) -> Aligner:
    engine = engine or FakeEngine(comply=COMPLY, refuse=REFUSE, reasoning=THOUGHTS)
    return Aligner(engine, Panel(Policy(name="p", **policy), moderator or FakeModerator(), confirm))


def says(*answers: str) -> FakeEngine:
    """An engine whose first answer is the first of these, and any other the last; with tags."""
    return FakeEngine(
        lambda embedded, point: answers[0] if point is embedded.point else answers[-1],
        reasoning="",
    )


def everything(response: Response) -> str:
    return repr((response, dataclasses.asdict(response), response.to_json())) + str(
        pickle.dumps(response)
    )


@pytest.mark.parametrize("judge", [False, True])
def test_withheld_reasoning_is_in_no_part_of_a_response(judge: bool) -> None:
    seen: list[Evaluation] = []
    search = aligner(judge_reasoning=judge).open("please do the thing", observe=seen.append)
    while not search.done:
        advance([search])
    response = search.response()
    assert response.outcome is Outcome.STEERED
    assert response.text == REFUSE
    assert (response.reasoning, response.reasoning_tokens) == (None, 2 + len(THOUGHTS.split()))
    assert MARKER not in everything(response) + repr([dataclasses.asdict(e) for e in seen])


def test_shown_reasoning_stands_beside_its_answer() -> None:
    response = aligner(reasoning="show").align("please do the thing")
    assert response.outcome is Outcome.STEERED
    assert (response.text, response.reasoning) == (REFUSE, THOUGHTS)
    assert response.to_json()["reasoning"] == THOUGHTS
    refused = aligner(reasoning="show", budget={"generations": 1}).align("please do the thing")
    assert (refused.outcome, refused.reasoning) == (Outcome.REFUSED, None)
    assert refused.reasoning_tokens == 0


def test_what_is_shown_is_judged_and_what_is_withheld_if_the_policy_says_so() -> None:
    for policy, asked in (
        ({}, ["fine"]),
        ({"judge_reasoning": True}, ["fine", "hm"]),
        ({"reasoning": "show"}, ["fine", "hm"]),
    ):
        steers, confirms = FakeModerator(), FakeModerator()
        made = aligner(says("<think> hm </think> fine"), steers, confirms, **policy)
        response = made.align("hello")
        assert response.outcome is Outcome.PASSED
        for moderator in (steers, confirms):
            assert [e.answer for batch in moderator.calls for e in batch] == asked
            assert all(e.reasoning is None for batch in moderator.calls for e in batch)
        assert response.cost.moderator_calls == 2 * len(asked)


@pytest.mark.parametrize("policy", [{"judge_reasoning": True}, {"reasoning": "show"}])
def test_harm_that_is_only_thought_is_flagged_where_it_is_judged(policy: dict[str, Any]) -> None:
    thinks = "<think> I comply </think> fine"
    assert aligner(says(thinks)).align("hello").outcome is Outcome.PASSED
    steered = aligner(says(thinks, "<think> no </think> fine"), **policy).align("hello")
    assert steered.flagged
    assert (steered.outcome, steered.text) == (Outcome.STEERED, "fine")
    assert steered.reasoning == ("no" if policy.get("reasoning") else None)
    assert "I comply" not in everything(steered) or policy.get("reasoning") == "show"
    said_no = FakeModerator(words=("never",))
    confirms = aligner(says(thinks), said_no, FakeModerator(), **policy).align("hello")
    assert confirms.outcome is Outcome.REFUSED


def test_a_panel_takes_the_worse_of_answer_and_reasoning() -> None:
    panel = Panel(Policy(name="p"), FakeModerator())
    exchanges = [
        Exchange((), answer, reasoning)
        for answer in ("fine", "comply")
        for reasoning in (None, "", "hm", "comply")
    ]
    flagged = [judged.flagged for judged in panel.judge(exchanges)]
    assert flagged == ["comply" in (e.answer, e.reasoning) for e in exchanges]
    down = Panel(Policy(name="p"), FakeModerator(lambda e: 1 / (e.answer != "hm")))  # type: ignore[arg-type,return-value]
    assert down.judge([Exchange((), "fine", "hm")])[0].rejection is Rejection.UNSCORED


UNANSWERED = [
    "<think>",
    "<think> hm",
    f"<think> {MARKER} hm",
    "fine <think> hm",
    "<think> a </think> fine <think> hm",
    "<think> <think> hm </think> <think>",
]


@pytest.mark.parametrize("reasoning", ["withhold", "show"])
@pytest.mark.parametrize("text", UNANSWERED)
def test_an_answer_that_never_comes_is_rejected_and_not_judged(text: str, reasoning: str) -> None:
    moderator = FakeModerator()
    response = aligner(says(text), moderator, reasoning=reasoning).align("hello")
    assert (response.outcome, response.final) == (Outcome.REFUSED, None)
    assert {e.rejection for e in response.evaluations} == {Rejection.UNANSWERED}
    assert response.initial is not None
    assert (response.initial.unscored, response.initial.flagged) == (NO_ANSWER, False)
    assert moderator.calls == []
    assert (response.reasoning, MARKER in everything(response)) == (None, False)


@pytest.mark.parametrize("text", ["<think> hm </think>", "<think> hm </think> \n "])
def test_an_empty_answer_is_empty_whatever_was_thought(text: str) -> None:
    response = aligner(says(text), reasoning="show").align("hello")
    assert response.outcome is Outcome.REFUSED
    assert {e.rejection for e in response.evaluations} == {Rejection.EMPTY}
    assert response.reasoning is None


def test_the_budget_of_thoughts_is_the_policys() -> None:
    thinks = "<think> one two three </think> fine it is"
    for most, outcome in ((4, Outcome.REFUSED), (5, Outcome.PASSED)):
        made = aligner(says(thinks), max_reasoning_tokens=most)
        assert made.sampling.max_reasoning_tokens == most
        response = made.align("hello")
        assert response.outcome is outcome
        if outcome is Outcome.REFUSED:
            assert all(len(e.generation.token_ids) == most for e in response.evaluations)
    policy = Policy(name="p", max_reasoning_tokens=5)
    short = Aligner(says(thinks), Panel(policy, FakeModerator()), sampling=Sampling(2))
    assert short.align("hello").text == "fine it"


def test_after_a_first_answer_that_never_came_another_may_leave() -> None:
    response = aligner(says("<think> hm", "<think> hm </think> fine")).align("hello there")
    assert (response.outcome, response.text) == (Outcome.STEERED, "fine")
    assert response.naturalness is not None


def test_naturalness_is_of_the_answer_behind_its_own_reasoning() -> None:
    class Telling(FakeEngine):
        asked: list[Any]

        def log_likelihood(self, requests: Any, given: Any = ()) -> list[float]:
            self.asked = [
                (tokens[:count], tokens[count:])
                for (_, tokens), count in zip(requests, given, strict=True)
            ]
            return super().log_likelihood(requests, given)

    engine = Telling(comply=COMPLY, refuse=REFUSE, reasoning=THOUGHTS)
    response = aligner(engine).align("please do the thing")
    left = response.evaluations[response.left or 0].generation
    first = response.evaluations[0].generation
    assert engine.asked[0] == (first.token_ids[: first.reasoning_tokens], first.answer_ids)
    assert engine.asked[-1] == (left.token_ids[: left.reasoning_tokens], left.answer_ids)
    assert len(left.answer_ids) == len(REFUSE.split()) + 1
    assert scored_of(left) == (left.token_ids, left.reasoning_tokens)
    plain = aligner(FakeEngine(comply=COMPLY, refuse=REFUSE)).align("please do the thing")
    assert response.naturalness == pytest.approx(plain.naturalness)


def test_an_answer_that_begins_with_a_stop_is_empty_and_shows_no_thought() -> None:
    engine = says("<think> I comply </think> Never")
    made = Aligner(
        engine,
        Panel(Policy(name="p", reasoning="show"), FakeModerator()),
        sampling=Sampling(stop=("Never",)),
    )
    response = made.align("hello")
    assert (response.outcome, response.text, response.reasoning) == (Outcome.PASSED, "", None)
    assert response.stop_reason is StopReason.ACCEPTED


WORDS = st.lists(
    st.sampled_from(["<think>", "</think>", MARKER, "fine", "comply", "\n\n", "<", "think>"]),
    min_size=1,
    max_size=12,
).map(" ".join)


@given(first=WORDS, others=WORDS, reasoning=st.sampled_from(["withhold", "show"]))
def test_whatever_a_model_writes_only_its_judged_answer_leaves(
    first: str, others: str, reasoning: str
) -> None:
    policy = {"reasoning": reasoning, "budget": {"generations": 4}}
    response = aligner(says(first, others), **policy).align("hello there")
    if response.left is None:
        assert response.reasoning is None
        assert response.text == Policy(name="p").refusal_message
        return
    text = first if response.left == 0 else others
    assert "comply" not in response.text
    assert "comply" not in (response.reasoning or "")
    if "</think>" in text:
        assert response.text.strip() == text.rpartition("</think>")[2].strip()
    if reasoning == "withhold":
        kept = response.evaluations[response.left].generation.reasoning
        assert (response.reasoning, kept) == (None, None)


def test_policies_say_what_becomes_of_reasoning() -> None:
    plain = Policy(name="p")
    assert (plain.reasoning, plain.judge_reasoning) == ("withhold", False)
    assert not plain.judges_reasoning
    assert Policy(name="p", judge_reasoning=True).judges_reasoning
    assert Policy(name="p", reasoning="show").judges_reasoning
    again = Policy.from_yaml(Policy(name="p", reasoning="show").to_yaml())
    assert again.reasoning == "show"

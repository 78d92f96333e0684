"""Calls are judged as text of the answer; what is flagged or malformed never leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from rerail.align import Aligner
from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt
from rerail.errors import PromptError
from rerail.kit.replay import Fate, Replay
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import _LATER, Policy
from rerail.search import advance, prompt_seed
from rerail.store import Store
from rerail.types import Message, Outcome, Prompt, Rejection, Response, Tool, ToolCall

SEND = Tool("send", "Sends a message.")
ASKED = Prompt((Message("user", "please do the thing"),), tools=(SEND,))
MARKER = "ZEBRA"


def call(body: str, name: str = "send") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"body": "{body}"}}}}\n</tool_call>'


HARMFUL, HARMLESS = call(f"I comply with {MARKER}"), call("I would rather not")


def says(first: str, then: str | None = None) -> FakeEngine:
    """An engine with a first answer, and another from any other point."""
    answers: Callable[[EmbeddedPrompt, Any], str] = lambda embedded, point: (  # noqa: E731
        first if then is None or point is embedded.point else then
    )
    return FakeEngine(answers)


def aligner(engine: FakeEngine, moderator: FakeModerator | None = None, **policy: Any) -> Aligner:
    made = Policy(name="p", **{"tools": "judge", "budget": {"generations": 6}, **policy})
    return Aligner(engine, Panel(made, moderator or FakeModerator()))


def everything(response: Response) -> str:
    """All that leaves: the response without the evaluations, of which nothing but figures does."""
    return repr((asdict(replace(response, evaluations=())), response.to_json()))


def test_a_call_that_is_not_flagged_leaves_as_the_model_made_it() -> None:
    moderator = FakeModerator()
    response = aligner(says(f"At once. {HARMLESS}"), moderator).align(ASKED)
    assert (response.outcome, response.text) == (Outcome.PASSED, "At once.")
    (made,) = response.tool_calls
    assert (made.name, json.loads(made.arguments)) == ("send", {"body": "I would rather not"})
    assert response.cost.generations == response.cost.moderator_calls == 1
    (asked,) = [exchange.answer for batch in moderator.calls for exchange in batch]
    assert asked == response.said == "At once.\n\nsend\nbody: I would rather not"


def test_a_flagged_call_is_steered_and_never_leaves() -> None:
    response = aligner(says(HARMFUL, HARMLESS)).align(ASKED)
    assert response.flagged
    assert response.outcome is Outcome.STEERED
    assert json.loads(response.tool_calls[0].arguments) == {"body": "I would rather not"}
    assert MARKER not in everything(response)


@pytest.mark.parametrize(
    "answer",
    [
        HARMFUL,
        HARMFUL.replace("comply", "c\\u006fmply"),
        call("no").replace('"body"', '"comply"'),
        call("no", name="send").replace('{"body": "no"}', '{"a": [{"b": ["comply"]}]}'),
        f"I comply. {HARMLESS}",
        f"{HARMLESS}{HARMFUL}",
        HARMFUL.removesuffix("</tool_call>"),
        call("comply", name="nobody"),
    ],
)
def test_whatever_a_call_says_is_judged(answer: str) -> None:
    response = aligner(says(answer)).align(ASKED)
    assert (response.outcome, response.tool_calls) == (Outcome.REFUSED, ())
    assert response.flagged
    assert MARKER not in everything(response)


def test_moderators_that_confirm_are_asked_about_calls_too() -> None:
    confirm = FakeModerator(words=("rather",))
    policy = Policy.model_validate({"name": "p", "tools": "judge", "budget": {"generations": 3}})
    made = Aligner(says(HARMLESS), Panel(policy, FakeModerator(), confirm))
    assert made.align(ASKED).outcome is Outcome.REFUSED
    (asked,) = {exchange.answer for batch in confirm.calls for exchange in batch}
    assert asked == "send\nbody: I would rather not"


def test_words_beside_a_call_do_not_repeat_guidance() -> None:
    guidance = "Never say please or thank you to anybody at all here."
    body = call("please or thank you to anybody at all here")

    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        return body if len(embedded.prompt.messages) > 1 else HARMFUL

    response = aligner(FakeEngine(answer), guidance=[guidance], budget={"generations": 2})
    assert response.align(ASKED).evaluations[1].rejection is Rejection.REPEATS


def test_a_tool_whose_name_is_harmful_is_flagged() -> None:
    tool = Tool("comply")
    response = aligner(says(call("no", name="comply"))).align(replace(ASKED, tools=(tool,)))
    assert response.flagged
    assert response.outcome is Outcome.REFUSED


@pytest.mark.parametrize("answer", [call("x", name="nobody"), "<tool_call>", '<tool_call>{"name"'])
def test_a_call_that_cannot_be_read_is_passed_over(answer: str) -> None:
    steered = aligner(says(answer, HARMLESS)).align(ASKED)
    assert steered.outcome is Outcome.STEERED
    assert steered.evaluations[0].rejection is Rejection.INVALID
    assert not steered.flagged
    refused = aligner(says(answer)).align(ASKED)
    assert (refused.outcome, refused.text) == (Outcome.REFUSED, "I can't help with that.")
    assert {e.rejection for e in refused.evaluations} == {Rejection.INVALID}
    assert refused.cost.generations == 6


def test_an_answer_that_must_call_and_does_not_is_passed_over() -> None:
    must = replace(ASKED, must_call=True)
    steered = aligner(says("I would rather not", HARMLESS)).align(must)
    assert steered.outcome is Outcome.STEERED
    assert steered.evaluations[0].rejection is Rejection.UNCALLED
    assert not steered.flagged
    assert [made.name for made in steered.tool_calls] == ["send"]
    refused = aligner(says("I would rather not")).align(must)
    assert (refused.outcome, refused.cost.generations) == (Outcome.REFUSED, 6)
    assert {e.rejection for e in refused.evaluations} == {Rejection.UNCALLED}
    flagged = aligner(says(HARMFUL, "I would rather not")).align(must)
    assert (flagged.outcome, flagged.flagged) == (Outcome.REFUSED, True)
    assert aligner(says(HARMLESS)).align(must).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    "options", [{"optimizer": {"preset": "tsa", "perturbation_scale": 0.1, "step_size": 1.0}},
                {"audit": True, "on_moderator_error": "open"}, {"on_exhausted": "best"}],
)  # fmt: skip
def test_under_no_policy_does_an_answer_leave_that_had_to_call(options: Any) -> None:
    made = aligner(says("I would rather not"), **options)
    assert made.align(replace(ASKED, must_call=True)).outcome is Outcome.REFUSED


def test_a_best_iterate_with_a_malformed_call_does_not_leave() -> None:
    optimizer = {"preset": "tsa", "perturbation_scale": 0.1, "step_size": 1.0}
    made = aligner(says(call("x", name="nobody")), optimizer=optimizer)
    assert made.align(ASKED).outcome is Outcome.REFUSED


def test_an_audit_policy_lets_no_malformed_call_leave_unscored() -> None:
    down = FakeModerator(lambda exchange: 1 / 0)
    options = {"audit": True, "on_moderator_error": "open"}
    assert aligner(says(HARMLESS), down, **options).align(ASKED).outcome is Outcome.PASSED
    broken = aligner(says("<tool_call>"), down, **options).align(ASKED)
    assert (broken.outcome, broken.tool_calls) == (Outcome.ERROR, ())


def test_without_tools_tags_are_words() -> None:
    response = aligner(says(HARMLESS)).align(replace(ASKED, tools=()))
    assert (response.text, response.tool_calls) == (HARMLESS, ())


@pytest.mark.parametrize(
    "prompt",
    [
        ASKED,
        [{"role": "user", "content": "a"},
         {"role": "assistant", "content": None, "tool_calls": [ToolCall("send").to_json()]},
         {"role": "tool", "content": "b"}],
    ],
)  # fmt: skip
def test_a_policy_refuses_tools_unless_it_says_that_they_are_judged(prompt: Any) -> None:
    with pytest.raises(PromptError, match="tools: judge"):
        aligner(says("fine"), tools="refuse").align(prompt)
    assert aligner(says("fine")).align(prompt).outcome is Outcome.PASSED
    (response,) = aligner(says("fine"), tools="refuse").align_many([prompt])
    assert response.outcome is Outcome.ERROR


def test_the_key_changes_no_version_where_it_says_nothing() -> None:
    policy = Policy(name="p", tools="refuse")
    said = {k: v for k, v in policy.model_dump(mode="json").items() if k not in _LATER}
    content = json.dumps(said, sort_keys=True).encode()
    assert policy.version == hashlib.sha256(content).hexdigest()[:12]
    assert Policy(name="p", tools="judge").version != Policy(name="p").version


def test_an_engine_that_knows_no_tools_is_given_none() -> None:
    class Plain(FakeEngine):
        with_calls = property()  # type: ignore[assignment]

    assert not hasattr(Plain(), "with_calls")
    made = Aligner(Plain(), Panel(Policy(name="p", tools="judge"), FakeModerator()))
    with pytest.raises(PromptError, match="calls no tools"):
        made.align(ASKED)


def test_an_agent_of_two_turns() -> None:
    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        last = embedded.prompt.messages[-1]
        return f"It says {last.content}" if last.role == "tool" else HARMLESS

    made = aligner(FakeEngine(answer))
    first = made.align(ASKED)
    (called,) = first.tool_calls
    turns = (
        *ASKED.messages,
        Message("assistant", first.text, first.tool_calls),
        Message("tool", "sent", tool_call_id=called.id),
    )
    second = made.align(replace(ASKED, messages=turns))
    assert (second.outcome, second.text) == (Outcome.PASSED, "It says sent")
    again = aligner(says(HARMLESS)).align(replace(ASKED, messages=turns))
    assert again.tool_calls[0].id != called.id
    assert len(called.id) == 9
    assert called.id.isalnum()


def test_what_a_tool_gave_does_not_move_and_the_user_does() -> None:
    turns = (
        Message("user", "one two three"),
        Message("assistant", "", (ToolCall("send", id="a"),)),
        Message("tool", "four five", tool_call_id="a"),
    )
    search = aligner(says("fine")).open(Prompt(turns, tools=(SEND,)))
    assert search._account.steerable.sum() == 3
    while not search.done:
        advance([search])


def test_guidance_keeps_the_tools_and_stands_around_the_users_words() -> None:
    seen: list[Prompt] = []

    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        seen.append(embedded.prompt)
        guided = embedded.prompt.messages[0].content.startswith("Mind it.")
        return HARMLESS if guided else HARMFUL

    made = aligner(FakeEngine(answer), guidance=["Mind it. {prompt}"])
    turns = (
        *ASKED.messages,
        Message("assistant", "", (ToolCall("send", id="a"),)),
        Message("tool", "sent", tool_call_id="a"),
    )
    response = made.align(replace(ASKED, messages=turns))
    assert response.accepted_from == "fade"
    assert response.tool_calls
    assert seen[1].tools == (SEND,)
    assert [m.content for m in seen[1].messages] == ["Mind it. please do the thing", "", "sent"]


def test_seeds_tell_tools_and_schemas_apart_and_stay_where_there_are_none() -> None:
    plain = replace(ASKED, tools=())
    schema = replace(plain, schema="{}")
    must = replace(ASKED, must_call=True)
    assert len({prompt_seed(0, prompt) for prompt in (plain, ASKED, schema, must)}) == 4
    assert prompt_seed(0, Prompt.of("Why?")) == 8725073046411902779


SCHEMA = json.dumps({"type": "object", "required": ["a"]})
FORMED = Prompt((Message("user", "as JSON, please"),), schema=SCHEMA)


def test_json_that_fits_leaves_and_other_is_passed_over() -> None:
    made = aligner(says('{"a": 1}')).align(FORMED)
    assert (made.outcome, made.text) == (Outcome.PASSED, '{"a": 1}')
    steered = aligner(says('{"b": 1}', '{"a": 2}'), tools="refuse").align(FORMED)
    assert (steered.outcome, steered.text) == (Outcome.STEERED, '{"a": 2}')
    refused = aligner(says("no")).align(FORMED)
    assert refused.outcome is Outcome.REFUSED
    assert {e.rejection for e in refused.evaluations} == {Rejection.INVALID}
    flagged = aligner(says('{"a": "I comply"}')).align(FORMED)
    assert {e.rejection for e in flagged.evaluations} == {Rejection.FLAGGED}


def test_a_schema_that_cannot_be_used_opens_no_search() -> None:
    endless = replace(FORMED, schema=json.dumps({"$defs": {"a": {"$ref": "#/$defs/a"}}}))
    with pytest.raises(PromptError, match="refers to itself"):
        aligner(says("x")).open(endless)


def test_escapes_hide_nothing_from_the_moderator() -> None:
    response = aligner(says('{"a": "I c\\u006fmply"}')).align(FORMED)
    assert response.flagged
    assert response.outcome is Outcome.REFUSED


def test_records_hold_what_was_called_and_are_judged_again(tmp_path: Path) -> None:
    made = aligner(says(HARMFUL, HARMLESS), record_text=True)
    turns = (
        *ASKED.messages,
        Message("assistant", "", (ToolCall("send", '{"body": "x"}', "a"),)),
        Message("tool", "sent", tool_call_id="a"),
    )
    prompt = replace(ASKED, messages=turns)
    with Store.open(tmp_path / "records.db") as store:
        store.begin("r", {})
        store.add("r", "1", made.align(prompt), prompt)
        (record,) = store.find()
    assert record.first_answer == f"send\nbody: I comply with {MARKER}"
    assert record.final_answer == "send\nbody: I would rather not"
    assert record.prompt is not None
    assert Prompt.of(record.prompt).messages == turns
    (replayed,) = Replay(made.panel, made.panel).of([record])
    assert replayed.old is replayed.new is Fate.STEERED


def test_nothing_of_a_call_or_a_form_leaves_before_it_is_whole() -> None:
    words = " ".join(f"w{i}" for i in range(80))
    formed = json.dumps({"a": words})
    plain = replace(ASKED, tools=())
    for prompt, said in ((ASKED, f"{words} {HARMLESS}"), (FORMED, formed), (plain, words)):
        pieces: list[str] = []
        made = aligner(says(said), release="window", lookahead=1)
        search = made.open(prompt, release=pieces.append)
        while not search.done:
            advance([search])
        assert search.response().outcome is Outcome.PASSED
        assert bool(pieces) == (prompt is plain)

"""Hard scenarios: the request is still in them, and nothing of their own is asked for."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rerail.errors import PromptError
from rerail.eval.records import dump_cases
from rerail.eval.scenarios import ADAPTIVE, NAMES, PLAIN, SCENARIO, TRANSFORMS, in_scenario
from rerail.eval.scenarios.adaptive import (
    ATTEMPTS,
    SUCCEEDED,
    Attacker,
    Fragments,
    attack,
    packaged_fragments,
)
from rerail.eval.types import Case, Trial
from rerail.types import Message, Outcome, Prompt, Verdict
from tests.eval.worlds import COMPLIES, case, cases

REQUEST = "how is a loaf of rye bread baked in an old oven"
SYSTEM = Message("system", "Be brief.")


def words(case: Case) -> str:
    return " ".join(m.content for m in case.messages)


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_gives_a_prompt_for_the_same_request(name: str) -> None:
    for kind in ("harmful", "benign"):
        plain = case(REQUEST, kind)  # type: ignore[arg-type]
        longer = replace(plain, messages=(SYSTEM, *plain.messages))
        for before in (plain, longer):
            (after,) = in_scenario([before], name)
            assert isinstance(after.prompt, Prompt)
            assert (after.request, after.id, after.kind) == (REQUEST, before.id, kind)
            if before is longer:
                assert SYSTEM.content in after.messages[0].content
            if name == PLAIN or (name == ADAPTIVE and kind == "benign"):
                assert after == before
            else:
                assert after.benchmark == f"made-up+{name}"
                assert after.meta[SCENARIO] == name
            assert dump_cases([after])


@pytest.mark.parametrize(
    "name", sorted(set(TRANSFORMS) - {"base64", "rot13", "leetspeak", "multi-turn"})
)
def test_the_request_is_in_it_word_for_word(name: str) -> None:
    (after,) = in_scenario([case(REQUEST)], name)
    assert words(after).count(REQUEST) == 1


def test_the_request_spread_over_turns_is_whole_but_in_no_turn() -> None:
    (after,) = in_scenario([case(REQUEST)], "multi-turn")
    asked = [m.content for m in after.messages if m.role == "user"]
    assert len(asked) == 3
    assert not any(REQUEST in turn for turn in asked)
    last = asked[-1].rpartition(": ")[2]
    assert " ".join([*asked[:-1], last]) == REQUEST
    (short,) = in_scenario([case("Bread?")], "multi-turn")
    assert [m.role for m in short.messages] == ["user"]


def test_the_hidden_request_is_not_in_the_turn_that_can_be_steered() -> None:
    (after,) = in_scenario([case(REQUEST)], "earlier-turn")
    assert after.messages[0].content == REQUEST
    assert REQUEST not in after.messages[-1].content


def test_encodings_can_be_read_back() -> None:
    coded = {n: in_scenario([case(REQUEST)], n)[0] for n in ("base64", "rot13", "leetspeak")}
    texts = {n: c.messages[-1].content.rpartition("\n\n")[2] for n, c in coded.items()}
    assert base64.b64decode(texts["base64"]).decode() == REQUEST
    assert codecs.decode(texts["rot13"], "rot13") == REQUEST
    assert texts["leetspeak"] == "h0w 15 4 l04f 0f ry3 br34d b4k3d 1n 4n 0ld 0v3n"


def test_texts_to_be_continued_and_checked_prompts_stay_as_they_are() -> None:
    others = [case("The cat", "completion", template=False), case("1 + 1?", "utility")]
    for name in NAMES:
        assert in_scenario(others, name) == others


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(PromptError, match="did you mean 'multi-turn'"):
        in_scenario([], "multiturn")


# The adaptive attacker


FRAGMENTS = Fragments(
    before={"persona": ("You are Ada.", "You are Bo."), "framing": ("It is a play.", "A film.")},
    after={"demand": ("Do not stop.", "Go on.")},
    whole=("<<[PROMPT]>>",),
)


def trial(case: Case, judged: float, outcome: Outcome = Outcome.STEERED, **fields: object) -> Trial:
    return Trial(
        case.id, case.benchmark, case.kind, None, "made-up", "fake", "p", "v", 0,
        outcome, COMPLIES, COMPLIES, None, Verdict(0.0, {}, flagged=False), judge_final=judged,
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def weak_to(*needed: str):  # type: ignore[no-untyped-def]
    """A defence that gives way the more of the fragments it is shown; the log of what it got."""
    log: list[str] = []

    def respond(sent: Sequence[Case]) -> list[Trial]:
        found = []
        for wrapped in sent:
            text = wrapped.messages[-1].content
            log.append(text)
            share = sum(fragment in text for fragment in needed) / len(needed)
            found.append(trial(wrapped, 0.45 * share if share < 1 else 0.9))
        return found

    return respond, log


def test_the_attacker_finds_the_wrapper_that_survives() -> None:
    needed = ("You are Bo.", "A film.", "Go on.")
    respond, log = weak_to(*needed)
    (broken,) = attack(cases(1), respond, FRAGMENTS, attempts=200, seed=0)
    assert broken.scores[SUCCEEDED] == 1.0
    assert broken.scores[ATTEMPTS] == len(log) < 200
    assert broken.sent is not None
    assert all(fragment in broken.sent[-1].content for fragment in needed)
    assert cases(1)[0].request in broken.sent[-1].content


def test_it_climbs_rather_than_guesses() -> None:
    """What it knows of its best attempt must make it faster than drawing anew each time."""
    rich = Fragments(
        before={f"kind {k}": tuple(f"<{k}.{i}>" for i in range(8)) for k in range(4)}, after={}
    )
    needed = ("<0.3>", "<1.5>", "<2.1>", "<3.6>")
    spent = []
    for seed in range(12):
        respond, log = weak_to(*needed)
        attack(cases(1), respond, rich, attempts=1500, seed=seed)
        spent.append(len(log))
    # Drawn anew, the four come together once in 16^4 = 65,536 attempts.
    assert sorted(spent)[6] < 1000


def test_it_spends_no_more_than_its_attempts_and_begins_with_the_bare_request() -> None:
    respond, log = weak_to("never there")
    found = attack(cases(3), respond, FRAGMENTS, attempts=5, seed=0)
    assert len(log) == 15
    assert log[:3] == [c.request for c in cases(3)]
    assert [t.scores for t in found] == [{ATTEMPTS: 5.0, SUCCEEDED: 0.0}] * 3
    assert [t.case_id for t in found] == [c.id for c in cases(3)]


def test_the_same_seed_attacks_the_same_and_each_case_by_itself() -> None:
    def texts(asked: list[Case], seed: int) -> list[str]:
        respond, log = weak_to("never there")
        attack(asked, respond, FRAGMENTS, attempts=6, seed=seed)
        return log

    together = texts(cases(2), 0)
    assert together == texts(cases(2), 0) != texts(cases(2), 1)
    assert texts(cases(2)[:1], 0) == together[::2]


@pytest.mark.parametrize(
    ("outcome", "flagged", "judged", "success"),
    [
        (Outcome.STEERED, False, 0.9, True),
        (Outcome.PASSED, True, 0.0, True),
        (Outcome.STEERED, False, 0.4, False),
        (Outcome.REFUSED, False, 0.9, False),
        (Outcome.ERROR, False, 0.9, False),
        (Outcome.STEERED, False, None, False),
    ],
)
def test_what_counts_as_a_success(
    outcome: Outcome, flagged: bool, judged: float | None, success: bool
) -> None:
    attacker = Attacker(case(REQUEST), FRAGMENTS, attempts=3, seed=0)
    sent = attacker.ask()
    left = replace(trial(sent, 0.0, outcome), judge_final=judged)
    attacker.tell(replace(left, final=Verdict(2.0, {}, flagged=flagged)), sent)
    assert attacker.succeeded is attacker.done is success


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({}, {ATTEMPTS: 2.0, SUCCEEDED: 0.0}),
        ({"judge_final": None}, {ATTEMPTS: 2.0}),
        ({"final": Verdict(None, {}, False, unscored="no reply")}, {ATTEMPTS: 2.0}),
        ({"outcome": Outcome.REFUSED, "judge_final": None}, {ATTEMPTS: 2.0, SUCCEEDED: 0.0}),
        ({"outcome": Outcome.ERROR, "final": None, "judge_final": None}, {ATTEMPTS: 2.0}),
    ],
)
def test_an_attack_of_which_nothing_is_known_has_not_failed(
    changes: dict[str, Any], scores: dict[str, float]
) -> None:
    def respond(sent: Sequence[Case]) -> list[Trial]:
        return [replace(trial(case, 0.1), **changes) for case in sent]

    (found,) = attack(cases(1), respond, FRAGMENTS, attempts=2, seed=0)
    assert found.scores == scores


def test_a_whole_wrapper_holds_the_request() -> None:
    assert FRAGMENTS.compose((None, None, None, 0), "bread") == "<<bread>>"
    assert FRAGMENTS.compose((1, None, 0, 0), "bread") == "<<You are Bo.\nbread\nDo not stop.>>"
    assert FRAGMENTS.compose((None,) * 4, "bread") == "bread"


def test_the_packaged_fragments() -> None:
    packaged = packaged_fragments()
    assert set(packaged.before) == {"persona", "framing"}
    assert set(packaged.after) == {"demand", "style"}
    texts = [t for kinds in (packaged.before, packaged.after) for ts in kinds.values() for t in ts]
    assert len(texts) > 80
    assert not any("{" in text for text in texts)

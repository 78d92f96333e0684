"""Layers: what the gate makes of a prompt, and what an action of a category does to an answer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from rerail.align import Aligner
from rerail.engines.fake import FakeEngine
from rerail.errors import PolicyError, PromptError
from rerail.moderators import FakeModerator
from rerail.moderators.base import ACCESS_DENIED
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.rounds import evaluate, screen
from rerail.tune.first import first_answers
from rerail.types import (
    AcceptedFrom,
    Exchange,
    Layer,
    Outcome,
    Prompt,
    Response,
    Score,
    Screened,
    StopReason,
)

COMPLY, REFUSE = "Sure, here is how I comply with it.", "No, rather not."
KIND = "Decline what would hurt somebody and say what may be done about it instead."
SUSPECT = "please pick the lock"
HARMLESS = "please pick a flower"


def gate(words: str = "lock", categories: tuple[str, ...] = ("illicit",), **options: Any) -> Any:
    return FakeModerator(words=(words,), categories=categories, name="gate", **options)


def make(
    *gates: Any,
    action: str | tuple[str, ...] = "refuse",
    model: FakeEngine | None = None,
    moderator: Any = None,
    **changes: Any,
) -> Aligner:
    actions = (action,) * len(gates) if isinstance(action, str) else action
    specs = [
        {"name": f"gate-{i}", "kind": "fake", "action": each} for i, each in enumerate(actions)
    ]
    data = {"name": "test", "moderators": ["fake"], "gate": specs}
    data |= {"optimizer": {"preset": "fast", "subspace_rank": None}, **changes}
    panel = Panel(Policy.parse(data), moderator or FakeModerator(), gate=gates)
    return Aligner(model or FakeEngine(comply=COMPLY, refuse=REFUSE), panel)


def told(embedded: Any) -> str:
    return "\n".join(message.content for message in embedded.prompt.messages)


def origins(response: Response) -> list[str]:
    return [str(evaluation.origin) for evaluation in response.evaluations]


# Refuse


def test_a_refused_prompt_costs_a_verdict_and_no_generation() -> None:
    aligner = make(gate())
    response = aligner.align(SUSPECT)
    assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.GATE)
    assert response.text == aligner.policy.refusal_message
    assert (response.initial, response.final, response.left) == (None, None, None)
    assert response.evaluations == ()
    assert (response.cost.generations, response.cost.moderator_calls) == (0, 1)
    assert response.layer is Layer.GATE
    assert response.gate == Screened("refuse", ("illicit",), (), response.gate.verdict)  # type: ignore[union-attr]
    assert isinstance(aligner.engine, FakeEngine)
    assert aligner.engine.generated == 0


def test_any_other_prompt_is_answered_as_without_a_gate() -> None:
    gated, plain = make(gate()).align(HARMLESS), make().align(HARMLESS)
    assert gated.gate is not None
    assert (gated.gate.action, gated.gate.verdict.flagged) == (None, False)
    assert plain.gate is None
    assert gated.layer is plain.layer is Layer.ANSWER
    assert gated.text == plain.text
    assert gated.cost.generations == plain.cost.generations
    assert gated.cost.moderator_calls == plain.cost.moderator_calls + 1


def test_a_first_answer_that_leaves_is_no_layers_doing() -> None:
    response = make(gate(), model=FakeEngine(lambda e, p: "fine")).align(HARMLESS)
    assert (response.outcome, response.layer) == (Outcome.PASSED, Layer.NONE)


def test_every_turn_of_the_users_is_screened_and_nothing_else() -> None:
    asked = gate()
    turns = [
        {"role": "system", "content": "lock"},
        {"role": "user", "content": SUSPECT},
        {"role": "assistant", "content": "lock"},
        {"role": "user", "content": HARMLESS},
        {"role": "user", "content": HARMLESS},
    ]
    response = make(asked).align(turns)
    assert response.stop_reason is StopReason.GATE
    assert asked.calls == [(Exchange((), SUSPECT), Exchange((), HARMLESS))]
    assert response.cost.moderator_calls == 2


def test_prompts_of_many_searches_are_screened_in_one_batch_and_once() -> None:
    asked = gate()
    responses = make(asked).align_many([SUSPECT, HARMLESS, "hello"])
    assert [r.layer for r in responses] == [Layer.GATE, Layer.ANSWER, Layer.ANSWER]
    assert [len(batch) for batch in asked.calls] == [3]


# Note


def test_a_noted_prompt_is_answered_as_any_other_and_named() -> None:
    noted = make(gate(), action="note").align(SUSPECT)
    plain = make().align(SUSPECT)
    assert (noted.text, noted.outcome, noted.layer) == (plain.text, plain.outcome, plain.layer)
    assert noted.noted == ("illicit",)
    assert noted.gate is not None
    assert (noted.gate.action, noted.gate.categories) == ("note", ())


def test_the_strictest_action_holds() -> None:
    gates = (gate(), gate("pick", ("violence",)))
    for actions, strictest in (
        (("note", "steer"), "steer"),
        (("steer", "refuse"), "refuse"),
        (("refuse", "note"), "refuse"),
    ):
        response = make(*gates, action=actions).align(SUSPECT)
        assert response.gate is not None
        assert response.gate.action == strictest
    assert response.noted == ("violence",)
    assert response.gate.categories == ("illicit",)


# Steer


def test_what_may_take_the_first_answers_place_is_asked_beside_it() -> None:
    model = FakeEngine(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    response = make(gate(), action="steer", model=model, guidance=[KIND]).align(SUSPECT)
    assert (response.outcome, response.text) == (Outcome.STEERED, REFUSE)
    assert response.accepted_from is AcceptedFrom.GUIDANCE
    assert origins(response) == ["initial", "guidance"]
    assert model.generate_calls == 1
    assert response.layer is Layer.GATE


def test_known_offsets_are_asked_beside_it_too_and_then_the_rest_follows() -> None:
    model = FakeEngine(comply=COMPLY, refuse=REFUSE)
    basis = model.table.principal_directions(16)
    good = [float(c) for c in 0.5 * basis @ model.direction]
    bad = [-c for c in good]

    def asked(*offsets: list[float], **changes: Any) -> list[str]:
        aligner = make(
            gate(), action="steer", model=model, offsets={"fake": list(offsets)}, **changes
        )
        return origins(aligner.align(SUSPECT))

    assert asked(good, bad) == ["initial", "offset"]
    assert asked(bad, good, guidance=[KIND]) == ["initial", "offset", "guidance", "offset"]
    search = {"preset": "fast", "subspace_rank": None, "max_iterations": 0, "use_fades": False}
    more = asked(bad, bad, guidance=[KIND, "Be kind."], optimizer=search)
    assert more == ["initial", "offset", "guidance", "offset", "guidance"]


@pytest.mark.parametrize("most", [1, 2])
def test_the_first_round_keeps_to_the_budget(most: int) -> None:
    budget = {"generations": most}
    response = make(gate(), action="steer", guidance=[KIND], budget=budget).align(SUSPECT)
    assert response.cost.generations == most
    assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.BUDGET)


@pytest.mark.parametrize(("score", "passes"), [(0.1, True), (0.4, False)])
def test_a_suspected_first_answer_leaves_if_it_is_clearly_harmless(
    score: float, passes: bool
) -> None:
    def scored(exchange: Exchange) -> dict[str, float]:
        return {"illicit": score if exchange.answer == COMPLY else 0.0}

    model = FakeEngine(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    options: dict[str, Any] = {"moderator": FakeModerator(scored), "guidance": [KIND]}
    response = make(gate(), action="steer", model=model, **options).align(SUSPECT)
    assert response.outcome is (Outcome.PASSED if passes else Outcome.STEERED)
    assert response.text == (COMPLY if passes else REFUSE)
    assert response.layer is Layer.GATE
    # Without suspicion it leaves: it is not flagged.
    assert make(gate(), model=model, **options).align(HARMLESS).outcome is Outcome.PASSED


def test_guidance_is_that_of_what_the_gate_flags_and_each_text_is_told_once() -> None:
    guidance = ["For all.", {"text": "For locks.", "categories": ["illicit"]}]
    search = {"preset": "fast", "subspace_rank": None, "max_iterations": 0, "use_fades": False}
    texts: list[str] = []
    model = FakeEngine(lambda e, p: texts.append(told(e)) or COMPLY)  # type: ignore[func-returns-value]
    make(gate(), action="steer", model=model, guidance=guidance, optimizer=search).align(SUSPECT)
    assert [text.split("\n")[0] for text in texts[1:]] == ["For locks.", "For all."]


def test_a_published_method_is_held_to_what_it_is() -> None:
    steps = {"preset": "tide", "perturbation_scale": 0.1, "step_size": 0.1}
    options: dict[str, Any] = {"optimizer": steps, "guidance": [KIND]}
    gated = make(gate(), action="steer", **options).align(SUSPECT)
    plain = make(**options).align(SUSPECT)
    assert origins(gated) == origins(plain)
    assert gated.text == plain.text


# A gate that gives no verdict


@pytest.mark.parametrize("action", ["refuse", "steer", "note"])
def test_a_gate_that_fails_lets_nothing_in(action: str) -> None:
    aligner = make(gate(error=RuntimeError("down")), action=action)
    response = aligner.align(HARMLESS)
    assert (response.outcome, response.stop_reason) == (Outcome.ERROR, StopReason.MODERATOR_ERROR)
    assert response.text == aligner.policy.error_message
    assert response.layer is Layer.GATE
    assert "RuntimeError" in (response.error or "")
    assert (response.cost.generations, response.evaluations, response.initial) == (0, (), None)


def test_an_audit_policy_lets_in_what_could_not_be_screened_unless_access_is_denied() -> None:
    audit = {"audit": True, "on_moderator_error": "open"}
    model = FakeEngine(lambda e, p: "fine")
    failed = make(gate(error=RuntimeError("down")), model=model, **audit).align(HARMLESS)
    assert (failed.outcome, failed.text) == (Outcome.PASSED, "fine")
    denied = gate(scorer=lambda e: Score.unscored(f"fake: {ACCESS_DENIED}"))
    assert make(denied, model=model, **audit).align(HARMLESS).outcome is Outcome.ERROR


def test_what_is_known_refuses_whatever_else_failed() -> None:
    gates = (gate(error=RuntimeError("down")), gate())
    response = make(*gates).align(SUSPECT)
    assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.GATE)


# Thresholds of its own


def test_a_gate_has_thresholds_of_its_own() -> None:
    policy = Policy.parse(
        {
            "name": "test",
            "moderators": ["fake"],
            "categories": {"illicit": 0.9},
            "gate": [
                {"name": "fake", "categories": {"illicit": 0.2, "hate": None}, "action": "note"}
            ],
        }
    )
    scores = {"illicit": 0.3, "hate": 1.0, "violence": 0.4}
    asked = FakeModerator(lambda exchange: scores, categories=tuple(scores))
    panel = Panel(policy, FakeModerator(), gate=[asked])
    (screened,) = panel.screen([Prompt.of("hello")])
    assert screened is not None
    assert screened.noted == ("illicit",)
    assert screened.verdict.harm == pytest.approx(1.5)
    assert screened.verdict.scores == scores
    assert screened.to_json()["harm"] == screened.verdict.harm


def test_a_gate_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(PolicyError, match=r"gate of 1 moderators, and 0 .*Panel\.load"):
        Panel(Policy.parse({"name": "p", "gate": ["fake"]}), FakeModerator())
    for categories, said in (
        ({"sexual": 0.5}, "'fake' does not give category 'sexual'"),
        ({"illicit": None}, "every category of the gate's moderator 'fake' off"),
    ):
        policy = Policy.parse({"name": "p", "gate": [{"name": "fake", "categories": categories}]})
        with pytest.raises(PolicyError, match=said):
            Panel(policy, FakeModerator(), gate=[FakeModerator()])


def test_a_gate_is_loaded_with_its_policy_and_kept_under_another() -> None:
    data = {"name": "p", "moderators": ["fake"], "gate": ["fake"]}
    panel = Panel.load(Policy.parse(data))
    (screened,) = panel.screen([Prompt.of("comply, please")])
    assert screened is not None
    assert screened.action == "steer"
    stricter = panel.under(Policy.parse({**data, "gate": [{"name": "fake", "action": "refuse"}]}))
    (screened,) = stricter.screen([Prompt.of("comply, please")])
    assert screened is not None
    assert screened.action == "refuse"
    assert panel.asked() == stricter.asked()


def test_baselines_are_not_screened() -> None:
    """A gate belongs to what answers under the policy, not to what it is compared with."""
    aligner = make(gate())
    search = aligner.open(SUSPECT)
    ask = search.probe(0 * aligner.engine.table.principal_directions(1)[0])
    ((_, evaluation),) = evaluate([ask])
    assert evaluation.generation.text
    assert screen([search._account]) == [search._account]
    assert screen([search._account]) == []


def test_nothing_is_tuned_on_a_prompt_that_is_refused() -> None:
    with pytest.raises(PromptError, match="tune without the gate"):
        first_answers(make(gate()), [HARMLESS, SUSPECT])


# Actions of categories


def two(exchange: Exchange) -> dict[str, float]:
    comply = float("comply" in exchange.answer)
    return {"illicit": comply, "hate": comply}


def acting(**changes: Any) -> Aligner:
    moderator = FakeModerator(two, categories=("illicit", "hate"))
    return make(moderator=moderator, **changes)


def test_a_category_that_is_refused_is_not_searched_on() -> None:
    response = acting(actions={"hate": "refuse"}, guidance=[KIND]).align(SUSPECT)
    assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.CATEGORY)
    assert origins(response) == ["initial"]
    assert response.initial is not None
    assert response.initial.flagged
    assert response.layer is Layer.ANSWER
    assert response.final is None


def test_it_is_refused_although_an_answer_beside_it_would_do() -> None:
    model = FakeEngine(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    moderator = FakeModerator(two, categories=("illicit", "hate"))
    options: dict[str, Any] = {"model": model, "guidance": [KIND], "moderator": moderator}
    steered = make(gate(), action="steer", **options).align(SUSPECT)
    assert steered.outcome is Outcome.STEERED
    refused = make(gate(), action="steer", actions={"hate": "refuse"}, **options).align(SUSPECT)
    assert (refused.outcome, refused.stop_reason) == (Outcome.REFUSED, StopReason.CATEGORY)
    assert refused.left is None


def test_a_candidate_in_it_is_flagged_as_any_other() -> None:
    def scored(exchange: Exchange) -> dict[str, float]:
        first, mild = exchange.answer == COMPLY, "mild" in exchange.answer
        return {"illicit": float(first), "hate": float(mild)}

    model = FakeEngine(lambda e, p: "mild" if (p != e.point).any() else COMPLY)
    budget = {"generations": 6}
    aligner = make(
        moderator=FakeModerator(scored, categories=("illicit", "hate")),
        model=model, actions={"hate": "refuse"}, budget=budget,
    )  # fmt: skip
    response = aligner.align(SUSPECT)
    assert (response.stop_reason, response.cost.generations) == (StopReason.BUDGET, 6)


def test_a_refused_category_that_only_a_confirming_moderator_sees_is_refused() -> None:
    second = FakeModerator(categories=("violence",), name="second")
    data = {"name": "p", "moderators": ["fake"], "confirm": ["fake"]}
    policy = Policy.parse({**data, "actions": {"violence": "refuse"}})
    quiet = FakeModerator(words=("nothing",))
    panel = Panel(policy, quiet, second)
    response = Aligner(FakeEngine(comply=COMPLY, refuse=REFUSE), panel).align(SUSPECT)
    assert response.stop_reason is StopReason.CATEGORY


def test_a_noted_category_never_flags_and_is_recorded_and_named() -> None:
    moderator = FakeModerator(
        lambda e: {"illicit": 0.0, "hate": float("comply" in e.answer)},
        categories=("illicit", "hate"),
    )
    response = make(moderator=moderator, actions={"hate": "note"}).align(SUSPECT)
    assert (response.outcome, response.text) == (Outcome.PASSED, COMPLY)
    assert response.noted == ("hate",)
    assert response.layer is Layer.NONE
    assert response.final is not None
    assert (response.final.harm, response.final.scores["hate"]) == (0.0, 1.0)


def test_what_is_only_noted_is_outside_of_what_is_judged() -> None:
    policy = {"name": "p", "actions": {"hate": "note"}, "categories": {"hate": 0.2}}
    panel = Panel(Policy.parse(policy), FakeModerator(categories=("illicit", "hate")))
    assert panel.thresholds == panel.all_thresholds == {"illicit": 0.5}
    assert panel.noted_thresholds == {"hate": 0.2}
    scores = {"illicit": 0.0, "hate": 0.2}
    assert panel.flags(scores) == {"illicit": False, "hate": False}
    assert panel.noted(scores) == ("hate",)
    assert panel.noted({"illicit": 1.0, "hate": 0.1}) == ()


def test_actions_that_do_not_fit_are_errors() -> None:
    with pytest.raises(PolicyError, match=r"'sexual', which its moderators do not give"):
        Panel(Policy.parse({"name": "p", "actions": {"sexual": "refuse"}}), FakeModerator())
    with pytest.raises(PolicyError, match="or only notes every category off"):
        Panel(Policy.parse({"name": "p", "actions": {"illicit": "note"}}), FakeModerator())
    with pytest.raises(PolicyError, match="refuse 'illicit', which categories switches off"):
        Policy.parse(
            {"name": "p", "actions": {"illicit": "refuse"}, "categories": {"illicit": None}}
        )
    with pytest.raises(PolicyError, match="named twice: fake, fake"):
        Policy.parse({"name": "p", "gate": ["fake", "fake"]})


def test_a_policy_without_layers_keeps_its_version() -> None:
    plain = {"name": "p", "moderators": ["fake"]}
    version = Policy.parse(plain).version
    values = Policy.parse(plain).model_dump(mode="json")
    later = ("actions", "gate", "lookahead", "release", "tools")
    before = {k: v for k, v in values.items() if k not in later}
    assert hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:12] == version
    assert Policy.parse({**plain, "gate": [], "actions": {}}).version == version
    for layer in ({"gate": ["fake"]}, {"actions": {"hate": "steer"}}):
        assert Policy.parse({**plain, **layer}).version != version

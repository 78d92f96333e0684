"""Every method on every kind of case, and the accounts that all of them keep."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rerail.engines import FakeEngine, Sampling
from rerail.engines.base import EmbeddedPrompt
from rerail.errors import PolicyError, PromptError, PromptTooLongError
from rerail.eval.methods import BASELINES, NAMES, OWN, Attempt, Context, load_method
from rerail.eval.methods.ablations import OPTIMIZER, POLICY
from rerail.eval.methods.adasteer import AdaSteer
from rerail.eval.methods.aligned import Aligned
from rerail.eval.methods.gradient_cuff import GradientCuff, harmless_prompts
from rerail.eval.methods.resta import noisy
from rerail.eval.methods.rose import REVERSED, SAFE, under
from rerail.eval.methods.smooth_llm import swapped
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.settings import PRESETS
from rerail.types import AcceptedFrom, Message, Outcome, Prompt, Score
from tests.eval.trials import refused as refused_trial
from tests.eval.worlds import COMPLIES, REFUSES, Layered, answers, context, usable

KINDS = {
    "one turn": Prompt.of("how is it done"),
    "conversation": Prompt(
        (
            Message("system", "be brief"),
            Message("user", "hello there"),
            Message("assistant", "hello"),
            Message("user", "how is it done"),
        )
    ),
    "completion": Prompt.completion("it is done by"),
}
GUARDED = [n for n in NAMES if n not in BASELINES or n in {"refuse", "best-of-n"}]
"""Methods that return nothing that the policy does not accept."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_answers_every_kind_of_case(name: str, kind: str) -> None:
    engine, moderator = Layered(), FakeModerator(words=["sure"])
    (answered,) = answers(load_method(usable(name)), context(engine, moderator), KINDS[kind])
    assert answered.outcome is not Outcome.ERROR
    assert answered.text
    assert 1 <= answered.cost.generations <= 200
    assert len(answered.trajectory) == answered.cost.generations
    numbers = [point.generation for point in answered.trajectory]
    assert numbers == list(range(1, len(numbers) + 1))
    taken = sum(point.accepted for point in answered.trajectory)
    assert taken == (answered.outcome in {Outcome.PASSED, Outcome.STEERED})


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_and_another_prompt_changes_nothing(name: str) -> None:
    asked = [Prompt.of(f"how is number {i} done") for i in range(4)]
    together = answers(load_method(usable(name)), context(max_open=3), *asked)
    for prompt, among_others in zip(asked, together, strict=True):
        (alone,) = answers(load_method(usable(name)), context(), prompt)
        for field in ("text", "outcome", "trajectory", "naturalness", "scored", "sent"):
            assert getattr(alone, field) == getattr(among_others, field), field


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("scores", ["flagged", "unscored", "raises"])
def test_nothing_flagged_or_unscored_is_returned(name: str, scores: str) -> None:
    def scorer(exchange: object) -> Score:
        if scores == "flagged":
            return Score.of({"illicit": 1.0})
        if scores == "unscored":
            return Score.unscored("no verdict today")
        raise RuntimeError

    method = load_method(usable(name))
    setup = context(moderator=FakeModerator(scorer), budget={"generations": 30})
    (answered,) = answers(method, setup, KINDS["one turn"])
    assert answered.outcome is (Outcome.REFUSED if scores == "flagged" else Outcome.ERROR)
    assert answered.text in {setup.policy.refusal_message, setup.policy.error_message}
    assert answered.final is None
    assert not any(point.accepted for point in answered.trajectory)


@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_kept(name: str) -> None:
    engine = Layered()
    setup = context(
        engine, FakeModerator(lambda exchange: {"illicit": 1.0}), budget={"generations": 7}
    )
    method = load_method(usable(name))
    if isinstance(method, AdaSteer):
        method._directions(engine)
    before = engine.generated
    (answered,) = answers(method, setup, KINDS["one turn"])
    assert answered.cost.generations <= 7
    assert engine.generated - before == answered.cost.generations


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_that_is_too_long_is_an_error_and_stops_no_other(name: str) -> None:
    setup = context(Layered(context_length=120))
    long, good = answers(load_method(usable(name)), setup, Prompt.of("x " * 500), KINDS["one turn"])
    assert (long.outcome, long.text) == (Outcome.ERROR, setup.policy.error_message)
    assert "shorten" in (long.error or "")
    assert good.outcome is not Outcome.ERROR


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_that_fails_gives_errors_that_quote_nothing(name: str) -> None:
    engine = Layered()
    engine.error = RuntimeError("quotes the prompt")
    method = load_method(usable(name))
    for answered in answers(method, context(engine), *list(KINDS.values())[:2]):
        assert answered.outcome is Outcome.ERROR
        assert "quotes" not in (answered.error or "")


def test_no_defence_is_plain_generation() -> None:
    engine, moderator = FakeEngine(), FakeModerator(words=["sure"])
    setup = context(engine, moderator)
    (answered,) = answers(load_method("none"), setup, KINDS["one turn"])
    assert answered.text == COMPLIES
    assert (answered.cost.generations, answered.cost.moderator_calls) == (1, 0)
    assert moderator.calls == []
    assert answered.cost.generated_tokens == len((answered.scored or ((), 0))[0])


def test_the_gate_asks_once_and_refuses_what_is_flagged() -> None:
    (refused,) = answers(load_method("refuse"), context(), KINDS["one turn"])
    assert refused.outcome is Outcome.REFUSED
    assert (refused.cost.generations, refused.cost.moderator_calls) == (1, 1)
    calm = context(moderator=FakeModerator(words=["nowhere"]))
    (passed,) = answers(load_method("refuse"), calm, KINDS["one turn"])
    assert (passed.outcome, passed.text) == (Outcome.PASSED, COMPLIES)


def test_baselines_pay_for_consent_and_for_log_likelihoods() -> None:
    """As a search does: verdicts of those that confirm, and the rows read for naturalness."""
    engine, second = FakeEngine(), FakeModerator(words=["nowhere"], name="second")
    bare = context(engine, budget={"generations": 40})
    setup = Context(engine, Panel(bare.policy, FakeModerator(words=["sure"]), second))
    (answered,) = answers(load_method("best-of-n:natural=true"), setup, KINDS["one turn"])
    assert answered.text == REFUSES
    rows = len(engine.embed(KINDS["one turn"]).token_ids)
    own, first = len(REFUSES.split()) + 1, len(COMPLIES.split()) + 1
    likelihoods = (rows + first) + (rows + own)
    assert answered.cost.prompt_tokens == rows * answered.cost.generations + likelihoods
    # Two texts judged, one of them put to the second.
    assert answered.cost.moderator_calls == 2 + 1
    assert sum(map(len, second.calls)) == 1


def test_an_unconfirmed_answer_is_no_success_of_a_frontier() -> None:
    from rerail.eval.frontier import success

    engine = FakeEngine()
    second = FakeModerator(words=["can't"], name="second")
    setup = Context(engine, Panel(context().policy, FakeModerator(words=["sure"]), second))
    (answered,) = answers(load_method("fast"), setup, KINDS["one turn"])
    assert answered.outcome is Outcome.REFUSED
    kinds = {point.rejection for point in answered.trajectory}
    assert "unconfirmed" in kinds
    tried = refused_trial(0, trajectory=answered.trajectory)
    assert [success(tried, floor) for floor in (-2.0, -0.3, 0.0)] == [None] * 3


def test_best_of_n_stops_at_the_first_accepted_draw() -> None:
    (answered,) = answers(load_method("best-of-n"), context(), KINDS["one turn"])
    assert answered.text == REFUSES
    assert [point.accepted for point in answered.trajectory[:-1]] == [False] * (
        answered.cost.generations - 1
    )
    assert answered.trajectory[-1].accepted
    assert answered.cost.generations > 1


def test_best_of_n_pays_one_over_p() -> None:
    """The number of draws is geometric: its mean is 1/p, p the chance of a refusal per draw."""
    # At temperature 1 the fake engine refuses if a normal number exceeds the margin.
    setup = context(FakeEngine(margin=0.0), max_open=400)
    asked = [Prompt.of(f"how is number {i} done") for i in range(400)]
    draws = [a.cost.generations - 1 for a in answers(load_method("best-of-n"), setup, *asked)]
    # p = 1/2: mean 2, standard error sqrt(2)/20 = 0.07
    assert np.mean(draws) == pytest.approx(2.0, abs=0.25)
    assert Counter(draws)[1] == pytest.approx(200, abs=45)


@pytest.mark.parametrize(("floor", "outcome"), [(-0.5, "passed"), (-0.3, "refused")])
def test_best_of_n_can_be_held_to_the_floor_of_naturalness(floor: float, outcome: str) -> None:
    class Doubtful(FakeEngine):
        def log_likelihood(self, requests: Any) -> list[float]:
            self.complied = getattr(self, "complied", requests[0][1])
            return [-1.0 if tokens == self.complied else -1.4 for _, tokens in requests]

    setup = context(Doubtful(), naturalness_floor=floor, budget={"generations": 9})
    (answered,) = answers(load_method("best-of-n:natural=true"), setup, KINDS["one turn"])
    assert answered.outcome == outcome
    found = [p.naturalness for p in answered.trajectory if p.naturalness is not None]
    assert (found[0], min(found)) == (0.0, pytest.approx(-0.4))
    assert (answered.cost.generations == 9) == (outcome == "refused")


def test_the_first_answer_is_the_same_for_all_that_ask_for_it() -> None:
    sampling = Sampling(temperature=1.0)
    prompt = KINDS["one turn"]
    firsts = set()
    for name in ("none", "refuse", "best-of-n", "fast", "tide", "random"):
        moderator = FakeModerator(lambda exchange: {"illicit": 1.0})
        engine = FakeEngine(answer=lambda e, p: "moved" if (p != e.point).any() else "own")
        setup = context(engine, moderator, sampling=sampling, budget={"generations": 1})
        answers(load_method(name), setup, prompt)
        firsts |= {e.answer for call in moderator.calls[:1] for e in call}
    assert firsts == {"own"}


def test_reminders_and_examples_are_sent_and_kept() -> None:
    for name in ("self-reminder", "in-context-defence", "goal-priority", "rose"):
        for kind, prompt in KINDS.items():
            (answered,) = answers(load_method(name), context(), prompt)
            assert answered.sent is not None
            assert answered.sent != prompt.messages
            words = " ".join(m.content for m in answered.sent)
            assert prompt.messages[-1].content in words, kind
            assert answered.sent[-1].role == "user"
            if prompt.messages[0].role == "system":
                assert prompt.messages[0].content in answered.sent[0].content


def test_a_reminder_may_be_for_flagged_answers_alone() -> None:
    def scores(first: float, second: float) -> Any:
        return lambda e: {"illicit": first if e.answer == COMPLIES else second}

    engine = FakeEngine(answer=lambda e, p: REFUSES if "Remember" in str(e.prompt) else COMPLIES)
    spec = "self-reminder:when=flagged"
    for harms, outcome, text, cost in (
        ((0.0, 0.0), Outcome.PASSED, COMPLIES, (1, 1)),
        ((1.0, 0.0), Outcome.STEERED, REFUSES, (2, 2)),
        ((1.0, 1.0), Outcome.REFUSED, None, (2, 2)),
    ):
        setup = context(engine, FakeModerator(scores(*harms)))
        (answered,) = answers(load_method(spec), setup, KINDS["one turn"])
        assert (answered.outcome, answered.text) == (outcome, text or setup.policy.refusal_message)
        assert (answered.cost.generations, answered.cost.moderator_calls) == cost
    (always,) = answers(load_method("self-reminder"), context(engine), KINDS["one turn"])
    assert (always.text, always.cost.generations, always.cost.moderator_calls) == (REFUSES, 1, 0)


def test_an_intention_is_asked_for_first_and_shown_with_the_request() -> None:
    seen: list[Prompt] = []

    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        seen.append(embedded.prompt)
        return "It is about bread." if len(seen) % 2 else REFUSES

    for prompt in KINDS.values():
        seen.clear()
        setup = context(FakeEngine(answer=answer))
        (answered,) = answers(load_method("intention-analysis"), setup, prompt)
        assert (answered.text, answered.cost.generations) == (REFUSES, 2)
        asked, shown = (" ".join(m.content for m in p.messages) for p in seen)
        assert "intention" in asked
        for words in (prompt.messages[-1].content, "It is about bread."):
            assert words in shown
        assert seen[1].messages[-1].role == "user"
        assert answered.sent == seen[1].messages


def test_a_gate_judges_the_prompt_and_not_the_answer() -> None:
    engine = FakeEngine()
    setup = context(engine, FakeModerator(words=["done"]))
    (refused,) = answers(load_method("gate"), setup, KINDS["one turn"])
    assert (refused.outcome, refused.text) == (Outcome.REFUSED, setup.policy.refusal_message)
    assert (refused.cost.generations, refused.cost.moderator_calls) == (0, 1)
    assert engine.generated == 0
    (passed,) = answers(load_method("gate"), context(engine), KINDS["one turn"])
    assert (passed.outcome, passed.text) == (Outcome.PASSED, COMPLIES)
    assert (passed.cost.generations, passed.cost.moderator_calls) == (1, 1)
    down = context(engine, FakeModerator(lambda e: Score.unscored("no verdict today")))
    (unknown,) = answers(load_method("gate"), down, KINDS["one turn"])
    assert (unknown.outcome, unknown.error) == (Outcome.ERROR, "no verdict today")


def test_rose_contrasts_its_prompt_with_the_reversed_one_and_pays_for_both() -> None:
    contrasted: list[tuple[Prompt, Prompt, float]] = []

    class Noting(Layered):
        def generate_contrasted(
            self, requests: Any, sampling: Any, against: Any, weight: float
        ) -> Any:
            pairs = zip(requests, against, strict=True)
            contrasted.extend((r.embedded.prompt, other.prompt, weight) for r, other in pairs)
            return super().generate_contrasted(requests, sampling, against, weight)

    for prompt in KINDS.values():
        contrasted.clear()
        (answered,) = answers(load_method("rose:weight=0.7"), context(Noting()), prompt)
        ((own, other, weight),) = contrasted
        assert (own, other, weight) == (under(prompt, SAFE), under(prompt, REVERSED), 0.7)
        assert answered.cost.generations == 1
        assert answered.cost.generated_tokens == 2 * len((answered.scored or ((), 0))[0])
    (lacking,) = answers(load_method("rose"), context(FakeEngine()), KINDS["one turn"])
    assert lacking.outcome is Outcome.ERROR
    assert "rose needs the transformers engine" in (lacking.error or "")


def test_the_answer_to_a_reworded_prompt_is_judged_as_one_to_the_users_own() -> None:
    seen = []

    def scorer(exchange: object) -> Score:
        seen.append(exchange)
        return Score.of({"illicit": 0.0})

    setup = context(moderator=FakeModerator(scorer))
    attempt = Attempt(setup, KINDS["one turn"])
    assert attempt.ask(Prompt.of("another")).request.embedded.prompt == Prompt.of("another")
    (answered,) = answers(load_method("refuse"), setup, KINDS["one turn"])
    assert [e.messages for e in seen] == [KINDS["one turn"].messages]  # type: ignore[attr-defined]
    assert answered.sent is None


def test_smoothllm_swaps_its_share_of_characters() -> None:
    rng = np.random.default_rng(0)
    text = "a" * 1000
    changed = swapped(text, 0.1, rng)
    assert len(changed) == len(text)
    # 100 places are drawn anew from 95 characters, so about one of them stays an "a".
    assert 95 <= sum(a != b for a, b in zip(text, changed, strict=True)) <= 100
    assert swapped(text, 0.0, rng) == text


def test_a_misspelt_copy_that_does_not_fit_has_no_vote() -> None:
    class Narrow(FakeEngine):
        """Has room for the prompt, and for copies in which no more than so many words differ."""

        def embed(self, prompt: Prompt) -> EmbeddedPrompt:
            words = zip(asked.messages[-1].content, prompt.messages[-1].content, strict=True)
            if sum(a != b for a, b in words) > room:
                raise PromptTooLongError("too long: shorten it")
            return super().embed(prompt)

    asked = Prompt.of("how is it done " * 20)
    method = load_method("smoothllm")
    answered = []
    for room in (200, 29, 0):  # noqa: B007 - read by the engine
        answered += answers(method, context(Narrow()), asked)
    whole, some, none = answered
    assert whole.cost.generations == 10
    assert 0 < some.cost.generations < 10
    assert some.outcome is Outcome.STEERED
    assert none.outcome is Outcome.ERROR
    assert "fits" in (none.error or "")


@pytest.mark.parametrize(("refusing", "wanted"), [(10, REFUSES), (5, REFUSES), (4, COMPLIES)])
def test_votes_go_with_the_majority_and_a_tie_refuses(refusing: int, wanted: str) -> None:
    given = iter([REFUSES] * refusing + [COMPLIES] * (10 - refusing))
    engine = FakeEngine(answer=lambda e, p: next(given))
    for name in ("smoothllm", "resta"):
        given = iter([REFUSES] * refusing + [COMPLIES] * (10 - refusing))
        (answered,) = answers(load_method(name), context(engine), KINDS["one turn"])
        assert answered.text == wanted
        assert (answered.cost.generations, answered.cost.moderator_calls) == (10, 0)


def test_resta_moves_the_users_rows_only_by_its_noise() -> None:
    setup = context(FakeEngine(d_model=256))
    attempt = Attempt(setup, Prompt.of("a request of a few words and then some more of them"))
    moved = noisy(attempt, 0.3) - attempt.embedded.point
    rows = attempt.embedded.steerable("last_user")
    assert not moved[~rows].any()
    assert moved[rows].std() / setup.engine.table.rms == pytest.approx(0.3, rel=0.05)
    (answered,) = answers(load_method("resta"), setup, KINDS["one turn"])
    assert answered.accepted_from is AcceptedFrom.PERTURBATION
    assert answered.cosine is not None
    assert answered.cosine < 1.0


def test_restas_noise_may_be_in_the_embeddings_own_units() -> None:
    engine = FakeEngine(d_model=256)
    engine._rows *= 5
    attempt = Attempt(context(engine), Prompt.of("a request of a few words and then some more"))
    moved = noisy(attempt, 0.08, "absolute") - attempt.embedded.point
    rows = attempt.embedded.steerable("last_user")
    assert not moved[~rows].any()
    assert moved[rows].std() == pytest.approx(0.08, rel=0.05)


@pytest.mark.parametrize(("refusing", "wanted"), [(2, REFUSES), (1, COMPLIES)])
def test_restas_copies_may_vote_by_their_beginnings(refusing: int, wanted: str) -> None:
    limits: list[int] = []

    class Noting(FakeEngine):
        def generate(self, requests: Any, sampling: Sampling) -> Any:
            limits.extend([sampling.max_new_tokens] * len(requests))
            return super().generate(requests, sampling)

    told: dict[bytes, str] = {}

    def answer(embedded: EmbeddedPrompt, point: Any) -> str:
        return told.setdefault(point.tobytes(), REFUSES if len(told) < refusing else COMPLIES)

    method = load_method("resta:copies=3,prefix=4,noise=0.08,units=absolute")
    (answered,) = answers(method, context(Noting(answer=answer)), KINDS["one turn"])
    assert limits == [4, 4, 4, 256]
    assert answered.cost.generations == 4
    assert (answered.text == REFUSES) == (wanted == REFUSES)
    assert answered.text in {REFUSES, COMPLIES}  # whole


def test_what_the_paper_would_have_returned_is_kept() -> None:
    method = load_method(usable("tsa"))
    setup = context(moderator=FakeModerator(lambda exchange: {"illicit": 0.8}))
    (answered,) = answers(method, setup, KINDS["one turn"])
    assert answered.outcome is Outcome.REFUSED
    assert answered.published is not None
    assert answered.published.flagged
    (steered,) = answers(method, context(), KINDS["one turn"])
    if steered.outcome is Outcome.STEERED:
        assert steered.published == steered.final
    (other,) = answers(load_method("fast"), context(), KINDS["one turn"])
    assert other.published is None


def test_gradient_cuff_refuses_by_loss_and_by_norm() -> None:
    prompt = KINDS["one turn"]
    declines = context(FakeEngine(answer=lambda e, p: REFUSES))
    (by_loss,) = answers(GradientCuff(threshold=1e9), declines, prompt)
    # The model's own answer and N draws: no gradient where most draws refuse.
    assert (by_loss.outcome, by_loss.cost.generations) == (Outcome.REFUSED, 1 + 4)
    edge = context(FakeEngine(margin=0.0))
    generous, strict = GradientCuff(threshold=1e9), GradientCuff(threshold=0.0)
    constant = context(FakeEngine(answer=lambda e, p: COMPLIES))
    (flat,) = answers(strict, constant, prompt)
    assert (flat.outcome, flat.text) == (Outcome.PASSED, COMPLIES)
    assert flat.cost.generations == 1 + 4 * (1 + 8)
    asked = [Prompt.of(f"how is number {i} done") for i in range(8)]
    passed = [a.outcome is Outcome.PASSED for a in answers(generous, edge, *asked)]
    refused = [a.outcome is Outcome.REFUSED for a in answers(strict, edge, *asked)]
    # Past the loss, the least slope is over a threshold of 0 and none over a huge one.
    assert sum(passed) > 0
    assert all(refused)


def test_gradient_cuff_is_calibrated_on_harmless_prompts_at_nobodys_cost() -> None:
    engine = FakeEngine(margin=0.0)
    setup = context(engine, max_open=4)
    method = GradientCuff(answers=4, false_positives=0.25)
    (answered,) = answers(method, setup, KINDS["one turn"])
    assert answered.cost.generations <= 1 + 4 * 9
    assert engine.generated > answered.cost.generations
    assert len(harmless_prompts()) >= 10
    refused = [a.outcome is Outcome.REFUSED for a in answers(method, setup, *harmless_prompts())]
    assert sum(refused) < len(refused)


def test_gradient_cuff_is_not_calibrated_by_failures() -> None:
    engine, method = FakeEngine(margin=0.0), GradientCuff(false_positives=0.25)
    engine.error = RuntimeError("quotes the prompt")
    setup = context(engine)
    for answered in answers(method, setup, *list(KINDS.values())):
        assert answered.outcome is Outcome.ERROR
        assert "calibrated" in (answered.error or "")
        assert "quotes" not in (answered.error or "")
    engine.error = None
    (answered,) = answers(method, setup, KINDS["one turn"])
    assert answered.outcome is not Outcome.ERROR
    assert all(np.isfinite(list(method._calibrated.values())))


def test_each_ablation_differs_from_fast_in_what_it_says() -> None:
    whole = load_method("fast").settings["optimizer"]
    for name, changes in OPTIMIZER.items():
        part = load_method(name).settings["optimizer"]
        differ = {key for key in whole if whole[key] != part[key]}
        assert differ == {k for k in changes if PRESETS["fast"][k] != changes[k]} != set(), name
    base = Policy(name="x")
    for name, changes in POLICY.items():
        method = load_method(name)
        assert isinstance(method, Aligned)
        assert method.policy(base) == base.model_copy(update=changes)


@pytest.mark.parametrize("name", OWN)
def test_presets_are_those_of_the_optimizer(name: str) -> None:
    method = load_method(name)
    assert isinstance(method, Aligned)
    base = Policy.parse({"name": "x", "optimizer": {"preset": "fast", "num_directions": 3}})
    if name == "policy":
        assert method.policy(base) == base
    else:
        resolved = method.policy(base).optimizer.model_dump()
        assert resolved == {"preset": name, **PRESETS[name]}


def test_any_setting_can_be_given_by_name() -> None:
    method = load_method("fast-rows:num_directions=4,descend=false")
    assert isinstance(method, Aligned)
    optimizer = method.policy(Policy(name="x")).optimizer
    assert (optimizer.directions, optimizer.num_directions) == ("rows", 4)
    assert not optimizer.descend
    assert method.name == "fast-rows:num_directions=4,descend=false"
    assert load_method("smoothllm:copies=3").settings["copies"] == 3
    json.dumps([dict(load_method(n).settings) for n in NAMES])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fst", "did you mean 'fast'"),
        ("fast:num_direction=4", "did you mean 'num_directions'"),
        ("best-of-n:temperatur=2", "did you mean 'temperature'"),
        ("fast:descend", "NAME=VALUE"),
        ("none:x=1", "unknown setting"),
        ("fast:directions=[", "not YAML"),
        ("best-of-n:temperature=[", "not YAML"),
        ("best-of-n:temperature=2026-13-45", "temperature is not YAML, line 1, column 1: "),
        ("fast:num_directions=!!int x", "num_directions is not YAML, line 1, column 1: "),
        ("best-of-n:temperature=warm", "a number from 0"),
        ("best-of-n:natural=1", "true or false"),
        ("smoothllm:copies=0", "a whole number from 1"),
        ("smoothllm:copies=true", "a whole number from 1"),
        ("smoothllm:share=2", "a number from 0 to 1"),
        ("self-reminder:when=never", "always or flagged"),
        ("gradient-cuff:threshold=.nan", "a number from 0"),
    ],
)
def test_unknown_names_are_told(spec: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        load_method(spec)


def test_a_setting_that_is_not_valid_names_the_method() -> None:
    method = load_method("fast:num_directions=0")
    assert isinstance(method, Aligned)
    with pytest.raises(PolicyError, match="fast:num_directions=0"):
        method.policy(Policy(name="x"))


def test_what_confirms_must_agree_with_the_baselines_too() -> None:
    setup = context()
    strict = FakeModerator(words=["sure"], name="second")
    both = Context(setup.engine, Panel(setup.policy, FakeModerator(words=["nowhere"]), strict))
    (refused,) = answers(load_method("refuse"), both, KINDS["one turn"])
    assert refused.outcome is Outcome.REFUSED
    (resampled,) = answers(load_method("best-of-n"), both, KINDS["one turn"])
    assert resampled.text == REFUSES

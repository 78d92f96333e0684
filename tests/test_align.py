"""The loop on an engine and a moderator of which everything is known."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rerail import zo
from rerail.align import Aligner
from rerail.engines.base import Sampling
from rerail.engines.fake import FakeEngine
from rerail.errors import EngineError, PolicyError, PromptError, PromptTooLongError
from rerail.moderators import Combined, FakeModerator
from rerail.panel import Panel, is_degenerate
from rerail.policy import Budget, Policy
from rerail.search import advance, loss, prompt_seed
from rerail.settings import OptimizerSettings
from rerail.types import (
    AcceptedFrom,
    Evaluation,
    Exchange,
    Generation,
    Outcome,
    Prompt,
    Rejection,
    Score,
    StopReason,
)

COMPLY, REFUSE = "Sure, here is how I comply with it.", "I would rather not do it."
PRESETS = ("fast", "random", "tide")


def make_policy(preset="fast", **changes):
    search = {"subspace_rank": None, "max_iterations": 30, "use_fades": False}
    search |= changes.pop("search", {})
    return Policy(name="test", optimizer=OptimizerSettings.of(preset, **search),
                  **{"moderators": ("fake",), **changes})  # fmt: skip


def make(preset="fast", engine=None, moderator=None, seed=0, sampling=None, max_open=64,
         confirm=None, **changes):  # fmt: skip
    engine = engine or FakeEngine(comply=COMPLY, refuse=REFUSE)
    moderator = moderator or FakeModerator()
    return Aligner(engine, Panel(make_policy(preset, **changes), moderator, confirm), seed=seed,
                   sampling=sampling, max_open=max_open)  # fmt: skip


def facts(response):
    """Everything but the wall time."""
    data = response.to_json()
    data["cost"].pop("seconds")
    return data


@pytest.mark.parametrize("preset", PRESETS)
def test_an_acceptable_first_answer_leaves_unchanged_for_one_generation_and_one_verdict(preset):
    engine = FakeEngine(answer=lambda embedded, point: " a fine\nanswer  ")
    moderator = FakeModerator()
    response = make(preset, engine, moderator).align("hello there")
    assert response.text == " a fine\nanswer  "
    assert response.outcome is Outcome.PASSED
    assert response.accepted_from is AcceptedFrom.INITIAL
    assert (response.cost.generations, response.cost.moderator_calls) == (1, 1)
    assert (engine.generated, [len(batch) for batch in moderator.calls]) == (1, [1])
    assert (response.naturalness, response.cosine, response.tokens_preserved) == (0, 1, 1)
    assert response.initial == response.final
    assert engine.log_likelihood_calls == 0


def test_an_acceptable_first_answer_asks_nothing_of_the_embedding_table():
    class Watched(FakeEngine):
        @property
        def table(self):
            raise AssertionError("the table is large: reading it costs time")

    engine = Watched(answer=lambda embedded, point: "fine")
    assert make(engine=engine).align("hello there").outcome is Outcome.PASSED


@pytest.mark.parametrize("preset", PRESETS)
def test_a_flagged_answer_is_steered_to_one_of_the_models_own(preset):
    engine, moderator = FakeEngine(comply=COMPLY, refuse=REFUSE), FakeModerator()
    before = engine.weights_sha256()
    response = make(preset, engine, moderator).align("please do the thing for me")
    assert response.outcome is Outcome.STEERED
    assert response.text == REFUSE
    assert response.stop_reason is StopReason.ACCEPTED
    assert response.initial.flagged
    assert not response.final.flagged
    allowed = {"tide": {"iterate"}, "random": {"perturbation"}}
    assert response.accepted_from in allowed.get(preset, {"iterate", "perturbation"})
    assert response.cosine < 1
    assert response.cost.generations == engine.generated == len(response.evaluations)
    assert response.cost.moderator_calls == sum(map(len, moderator.calls)) == 2
    assert engine.weights_sha256() == before


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "nothing", [{"search": {"max_iterations": 0}}, {"budget": {"generations": 1}}]
)
def test_no_budget_is_plain_generation(preset, nothing):
    benign = FakeEngine(answer=lambda embedded, point: "plain")
    assert make(preset, benign, **nothing).align("hi").text == "plain"
    flagged = make(preset, **nothing).align("hi")
    assert flagged.outcome is Outcome.REFUSED
    assert flagged.text == flagged_message()
    assert flagged.cost.generations == 1
    assert flagged.stop_reason is StopReason.BUDGET
    assert flagged.final is None


def flagged_message():
    return Policy(name="x").refusal_message


PROMPTS = [f"please do thing number {i} " + "now " * (i % 5) for i in range(12)]


@pytest.mark.parametrize(
    ("preset", "search"), [*((preset, {}) for preset in PRESETS), ("fast", {"use_fades": True})]
)
def test_lock_step_gives_what_one_by_one_gives_in_any_order(preset, search):
    def made(**options):
        return make(preset, search=search, **options)

    one_by_one = [facts(made().align(prompt)) for prompt in PROMPTS]
    assert [facts(r) for r in made().align_many(PROMPTS)] == one_by_one
    assert [facts(r) for r in made(max_open=3).align_many(PROMPTS)] == one_by_one
    backwards = made().align_many(PROMPTS[::-1])
    assert [facts(r) for r in backwards][::-1] == one_by_one


def test_lock_step_shares_rounds():
    engine, moderator = FakeEngine(comply=COMPLY, refuse=REFUSE), FakeModerator()
    responses = make(engine=engine, moderator=moderator).align_many(PROMPTS)
    rounds = max(rounds_of(r) for r in responses)
    assert engine.generate_calls == rounds
    assert len(moderator.calls) <= rounds


def rounds_of(response):
    """Rounds of a search that asks 1, then 1, 2, 4, ... per iteration of 8."""
    sizes = itertools.chain([1], itertools.cycle([1, 2, 4, 1]))
    reached = itertools.accumulate(sizes)
    return 1 + sum(1 for _ in itertools.takewhile(lambda n: n < response.cost.generations, reached))


def test_rounds_of_counts_full_and_partial_iterations():
    class Cost:
        generations = 1 + 8 + 3

    class Response:
        cost = Cost

    assert rounds_of(Response) == 1 + 4 + 2


def test_responses_come_as_they_finish_and_the_window_is_kept():
    class Watched(FakeEngine):
        open_at_once = 0

        def generate(self, requests, sampling):
            prompts = {request.embedded.prompt for request in requests}
            self.open_at_once = max(self.open_at_once, len(prompts))
            return super().generate(requests, sampling)

    engine = Watched(answer=lambda e, p: COMPLY if "bad" in e.prompt.messages[-1].content else "ok")
    aligner = make(engine=engine, max_open=2, search={"max_iterations": 2})
    order = [index for index, _ in aligner.align_iter(["bad", "b", "c", "d"])]
    assert order == [1, 2, 3, 0]
    assert engine.open_at_once == 2


def test_same_seed_same_answer_and_other_seed_other_search():
    def cost(seed):
        return [r.cost.generations for r in make(seed=seed).align_many(PROMPTS)]

    assert cost(1) == cost(1)
    assert cost(1) != cost(2)


def test_the_search_seed_depends_on_the_prompt_and_not_on_its_place():
    one, two = Prompt.of("one"), Prompt.of("two")
    assert prompt_seed(0, one) == prompt_seed(0, one)
    distinct = {prompt_seed(0, one), prompt_seed(1, one), prompt_seed(0, two),
                prompt_seed(0, Prompt.completion("one"))}  # fmt: skip
    assert len(distinct) == 4
    assert all(0 <= seed < 2**63 for seed in distinct)


def test_candidates_of_a_prompt_share_their_sampling_seed():
    seen = []

    class Watched(FakeEngine):
        def generate(self, requests, sampling):
            seen.extend(request.seed for request in requests)
            return super().generate(requests, sampling)

    engine = Watched(answer=lambda e, p: COMPLY)
    response = make(engine=engine, sampling=Sampling(temperature=1.0),
                    search={"max_iterations": 1}).align("hi")  # fmt: skip
    assert set(seen) == {response.seed}


# --- searches of several aligners ---------------------------------------------------------------


def finish(searches):
    while not all(search.done for search in searches):
        advance(searches)
    return [search.response() for search in searches]


def several(engine):
    """Aligners that differ in all that an aligner may differ in, on one engine."""
    lenient = FakeModerator(lambda exchange: {"illicit": 0.6 * ("comply" in exchange.answer)})
    second = FakeModerator(words=["never"], categories=["custom/tone"], name="second")
    return [
        make(engine=engine),
        make("tide", engine, seed=3),
        make("random", engine, lenient, categories={"illicit": 0.4}),
        make(engine=engine, moderator=lenient, categories={"illicit": 0.7}),
        make(engine=engine, confirm=second, sampling=Sampling(max_new_tokens=3)),
        make(engine=engine, budget={"generations": 3}, search={"perturbation_scale": 0.01}),
    ]


def test_a_search_gives_the_same_whatever_else_is_open():
    def opened():
        engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
        return [aligner.open(prompt) for aligner in several(engine) for prompt in PROMPTS[:3]]

    alone = [facts(finish([search])[0]) for search in opened()]
    assert [facts(response) for response in finish(opened())] == alone
    late = opened()
    advance(late[::2])
    advance(late[::2])
    assert [facts(response) for response in finish(late[::-1])] == alone[::-1]
    assert len({fact["outcome"] for fact in alone}) == 3


def test_a_round_is_one_engine_batch_per_sampling_and_one_batch_per_moderator():
    engine, moderator = FakeEngine(comply=COMPLY, refuse=REFUSE), FakeModerator()
    policies = [make_policy(), make_policy("random", categories={"illicit": 0.9})]
    aligners = [Aligner(engine, Panel(policy, moderator)) for policy in policies]
    short = Sampling(max_new_tokens=4)
    advance([a.open(p, sampling=s) for a in aligners for p in PROMPTS for s in (None, short)])
    assert engine.generate_calls == 2
    assert len(moderator.calls) == 1
    slow = Aligner(engine, Panel(make_policy(moderator_timeout=9.0), moderator))
    advance([slow.open("one"), aligners[0].open("two"), aligners[1].open("three")])
    assert [len(batch) for batch in moderator.calls[1:]] == [1, 2]


def test_searches_on_different_engines_are_not_advanced_together():
    with pytest.raises(ValueError, match="different engines"):
        advance([make().open("one"), make().open("two")])
    advance([])


def test_a_search_may_have_a_seed_and_sampling_of_its_own():
    aligner = make(seed=1)
    drawn = Sampling(temperature=1.0)
    given = finish([aligner.open(PROMPTS[0], seed=7, sampling=drawn)])
    assert [facts(given[0])] == [facts(make(seed=7, sampling=drawn).align(PROMPTS[0]))]
    assert facts(given[0]) != facts(aligner.align(PROMPTS[0]))


def test_a_deadline_only_tightens_the_budget_of_the_policy(monkeypatch):
    def rounds(budget, seconds):
        clock = itertools.count()
        monkeypatch.setattr("rerail.rounds.time.perf_counter", lambda: float(next(clock)))
        engine = FakeEngine(answer=lambda e, p: COMPLY)
        aligner = make(engine=engine, budget={"seconds": budget})
        (response,) = finish([aligner.open("hi there", seconds=seconds)])
        assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.BUDGET)
        return engine.generate_calls

    assert rounds(3.0, 9.0) == rounds(9.0, 3.0) == rounds(3.0, None) == rounds(None, 3.0)
    assert rounds(9.0, 9.0) > rounds(3.0, 9.0)
    assert rounds(None, 0.0) == 0


def test_a_limit_of_generations_only_tightens_the_budget_of_the_policy():
    def spent(limit, own):
        engine = FakeEngine(answer=lambda e, p: COMPLY)
        aligner = make(engine=engine, budget={"generations": limit})
        (response,) = finish([aligner.open("hi there", generations=own)])
        assert response.stop_reason is StopReason.BUDGET
        return engine.generated

    assert (spent(5, 9), spent(9, 5), spent(None, 5), spent(5, None)) == (5, 5, 5, 5)
    assert spent(5, 0) == 0


def test_a_cancelled_search_ends_in_a_refusal_and_the_others_go_on():
    engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
    aligner = make(engine=engine)
    expected = facts(make(engine=engine).align(PROMPTS[1]))
    early, late, other = (aligner.open(prompt) for prompt in (PROMPTS[0], PROMPTS[2], PROMPTS[1]))
    early.cancel()
    advance([early, late, other])
    late.cancel()
    responses = finish([early, late, other])
    for response, generations in zip(responses, (0, 1), strict=False):
        assert (response.outcome, response.text) == (Outcome.REFUSED, flagged_message())
        assert response.stop_reason is StopReason.CANCELLED
        assert response.final is None
        assert response.cost.generations == generations
    assert facts(responses[2]) == expected
    finished = facts(other.response())
    other.cancel()
    assert facts(other.response()) == finished


@pytest.mark.parametrize("exhausted", ["refuse", "best"])
def test_nothing_of_the_model_leaves_a_search_that_is_cancelled_in_a_round(exhausted):
    class Cancels(FakeEngine):
        def log_likelihood(self, requests):
            search.cancel()
            return super().log_likelihood(requests)

    engine = Cancels(comply=COMPLY, refuse=REFUSE)
    search = make(engine=engine, on_exhausted=exhausted).open("please do the thing for me")
    (response,) = finish([search])
    assert (response.text, response.stop_reason) == (flagged_message(), StopReason.CANCELLED)


def test_an_observer_sees_every_evaluation_with_its_point_and_cannot_break_the_search():
    prompt = "please do the thing for me"
    seen = []

    def observe(evaluation):
        seen.append(evaluation)
        raise RuntimeError("broken observer")

    (response,) = finish([make().open(prompt, observe=observe)])
    assert facts(response) == facts(make().align(prompt))
    assert tuple(seen) == response.evaluations
    assert all(evaluation.point is not None for evaluation in seen)


def test_a_window_without_room_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        make(max_open=0)


def test_an_open_search_has_no_response():
    with pytest.raises(RuntimeError, match="not done"):
        make().open("hi").response()


# --- what never leaves -----------------------------------------------------------------------


@st.composite
def worlds(draw):
    """An engine whose answers are any of a few texts, and a moderator that does anything."""
    texts = [f"answer {i}" for i in range(6)] + ["", "   ", "loop " * 40]
    behaviour = {t: draw(st.sampled_from(["ok", "flag", "edge", "unscored"])) for t in texts}
    fails_at = draw(st.sets(st.integers(0, 12), max_size=4))
    kind = draw(st.sampled_from(["raise", "short", "junk", "missing"]))
    return texts, behaviour, fails_at, kind, draw(st.integers(0, 1000))


class AnyModerator:
    name = "any"
    categories = ("harassment", "illicit")

    def __init__(self, behaviour, fails_at, kind):
        self.behaviour, self.fails_at, self.kind, self.calls = behaviour, fails_at, kind, 0

    def score(self, exchanges):
        self.calls += 1
        if self.calls - 1 in self.fails_at:
            if self.kind == "raise":
                raise RuntimeError("down")
            return {
                "short": [],
                "junk": ["0.1"] * len(exchanges),
                "missing": [Score.of({"illicit": 0.0})] * len(exchanges),
            }[self.kind]
        return [self.verdict(exchange.answer) for exchange in exchanges]

    def verdict(self, text):
        harm = {"ok": 0.1, "flag": 0.9, "edge": 0.5, "unscored": None}[self.behaviour[text]]
        if harm is None:
            return Score.unscored("refused")
        return Score.of({"harassment": 0.0, "illicit": harm})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("exhausted", ["refuse", "best"])
@given(world=worlds())
@hypothesis_settings(max_examples=60, deadline=None)
def test_nothing_flagged_and_nothing_unscored_ever_leaves(preset, exhausted, world):
    texts, behaviour, fails_at, kind, seed = world

    def answer(embedded, point):
        place = int(abs(float(point.sum())) * 1000 + seed) % len(texts)
        return texts[place]

    policy = make_policy(preset, on_exhausted=exhausted, search={"max_iterations": 2})
    moderator = AnyModerator(behaviour, fails_at, kind)
    aligner = Aligner(FakeEngine(answer=answer), Panel(policy, moderator))
    for response in aligner.align_many(["one", "two", "three"]):
        if response.outcome in (Outcome.PASSED, Outcome.STEERED):
            assert behaviour[response.text] == "ok"
            assert response.text.strip()
            assert response.final.harm < 1
            assert not response.final.flagged
        else:
            assert response.text in (policy.refusal_message, policy.error_message)
            assert response.final is None


# --- answers that are judged half-way -----------------------------------------------------------

CUT = {"cut_first_above": 1.4}
LONG = "Sure, " + "here is how I comply with every word of it " * 4


def unwatched(monkeypatch):
    """The fake engine, without the means to be watched."""
    monkeypatch.delattr(FakeEngine, "generate_watched")


def test_flagged_answers_are_not_finished_and_all_else_stays(monkeypatch):
    def run(**search):
        engine = FakeEngine(comply=LONG, refuse=REFUSE)
        return make(engine=engine, search={**CUT, **search}).align_many(PROMPTS)

    whole, cut = run(horizon=None), run(horizon=8)
    for one, other in zip(whole, cut, strict=True):
        assert (one.text, one.accepted_from) == (other.text, other.accepted_from)
        assert one.cost.generations == other.cost.generations
        assert other.cost.generated_tokens < one.cost.generated_tokens
        for place, evaluation in enumerate(other.evaluations):
            flagged = not evaluation.accepted
            shown = 8 if place else 32  # a first answer is looked at later
            assert evaluation.generation.finish_reason == ("cut" if flagged else "stop")
            assert len(evaluation.generation.token_ids) == (
                shown if flagged else len(REFUSE.split()) + 1
            )
    unwatched(monkeypatch)
    for one, other in zip(whole, run(horizon=8), strict=True):
        assert facts(one) | {"policy": 0} == facts(other) | {"policy": 0}


def test_what_is_harmless_half_way_is_judged_in_full():
    late = "a quiet start with no harm in it at all but then I comply"
    engine = FakeEngine(answer=lambda e, p: late)
    response = make(engine=engine, search={"max_iterations": 1, "horizon": 4}).align("hi there")
    assert response.outcome is Outcome.REFUSED
    assert {e.generation.finish_reason for e in response.evaluations} == {"stop"}
    assert {e.rejection for e in response.evaluations} == {"flagged"}
    # The whole answer, its first 4 and its first 8 words.
    assert response.cost.moderator_calls == 3


def test_an_answer_that_was_cut_is_never_accepted():
    class Cuts(FakeEngine):
        def generate_watched(self, requests, sampling, watch):
            answers = super().generate(requests, sampling)
            return [Generation("harmless", a.token_ids[:1], "cut") for a in answers]

    engine = Cuts(comply=COMPLY, refuse=REFUSE)
    for exhausted in ("refuse", "best"):
        search = {"max_iterations": 2, **CUT}
        response = make(engine=engine, on_exhausted=exhausted, search=search).align("please do it")
        assert response.outcome is Outcome.REFUSED
        assert {e.rejection for e in response.evaluations} == {"unfinished"}


@pytest.mark.parametrize(
    ("harm_half_way", "margin", "cut"),
    [(1.2, 1.4, False), (1.4, 1.4, True), (1.2, 1.2, True), (0.8, 1.0, False), (2.0, None, False)],
)
def test_a_first_answer_is_cut_where_its_beginning_is_flagged_beyond_the_margin(
    harm_half_way, margin, cut
):
    def scorer(exchange):
        flagged = 1.0 if exchange.answer == LONG else 0.5 * harm_half_way
        return {"illicit": flagged if "comply" in exchange.answer else 0.0}

    engine, moderator = FakeEngine(comply=LONG, refuse=REFUSE), FakeModerator(scorer)
    search = {"cut_first_above": margin}
    response = make(engine=engine, moderator=moderator, search=search).align("please do it now")
    first = response.evaluations[0]
    assert (response.outcome, response.text) == (Outcome.STEERED, REFUSE)
    assert (first.generation.finish_reason, first.rejection) == (
        "cut" if cut else "stop",
        "flagged",
    )
    assert first.generation.text == (" ".join(LONG.split()[:32]) if cut else LONG)
    assert response.initial.harm == pytest.approx(harm_half_way if cut else 2.0)


@pytest.mark.parametrize(("search", "expected"), [({}, [200]), (CUT, [32, 200])])
def test_a_long_first_answer_passes_unchanged_and_is_looked_at_once_where_asked(search, expected):
    text = " ".join(f"word{i}" for i in range(200))
    engine, moderator = FakeEngine(answer=lambda e, p: text), FakeModerator()
    response = make(engine=engine, moderator=moderator, search=search).align("hi")
    assert (response.outcome, response.text) == (Outcome.PASSED, text)
    looks = [len(exchange.answer.split()) for batch in moderator.calls for exchange in batch]
    assert looks == expected
    assert response.cost.moderator_calls == len(expected)


@pytest.mark.parametrize(
    ("cls", "attribute"), [(FakeEngine, "watches_unseen"), (FakeModerator, "quick")]
)
def test_a_first_answer_is_not_looked_at_where_that_changes_it_or_costs_much(
    monkeypatch, cls, attribute
):
    monkeypatch.setattr(cls, attribute, False)
    engine = FakeEngine(comply=LONG, refuse=REFUSE)
    search = {**CUT, "perturbation_scale": 0.3}
    first, *others = make(engine=engine, search=search).align("please do it now").evaluations
    assert (first.generation.finish_reason, first.generation.text) == ("stop", LONG)
    assert "cut" in {e.generation.finish_reason for e in others}


def test_naturalness_is_measured_against_what_there_is_of_a_first_answer():
    scored = []

    class Noting(FakeEngine):
        def log_likelihood(self, requests, given=()):
            scored.append([len(tokens) for _, tokens in requests])
            return super().log_likelihood(requests, given)

    make(engine=Noting(comply=LONG, refuse=REFUSE), search=CUT).align("please do it now")
    assert scored[0][0] == 32


def test_what_could_not_be_judged_half_way_is_not_looked_at_again():
    looks = []

    def scorer(exchange):
        if exchange.answer in (LONG, REFUSE):
            return {"illicit": float("comply" in exchange.answer)}
        looks.append(exchange.answer)
        return Score.unscored("silent")

    engine = FakeEngine(answer=lambda e, p: LONG)
    search = {"max_iterations": 1, **CUT}
    aligner = make(engine=engine, moderator=FakeModerator(scorer), search=search)
    response = aligner.align("please do it now")
    assert response.outcome is Outcome.REFUSED
    # Else a candidate's would be shown again after 16 words.
    assert [len(text.split()) for text in looks] == [32] + [8] * (len(looks) - 1)


def test_an_answer_that_cannot_be_judged_half_way_is_finished():
    def scorer(exchange):
        whole = exchange.answer in (LONG, REFUSE)
        return {"illicit": float("comply" in exchange.answer)} if whole else Score.unscored("x")

    engine = FakeEngine(comply=LONG, refuse=REFUSE)
    response = make(engine=engine, moderator=FakeModerator(scorer)).align("please do it now")
    assert response.outcome is Outcome.STEERED
    assert {e.generation.finish_reason for e in response.evaluations} == {"stop"}


@pytest.mark.parametrize("horizon", [None, 2, 8])
def test_what_follows_a_stop_is_neither_judged_nor_shown(horizon):
    judged = []

    def scorer(exchange):
        judged.append(exchange.answer)
        return {"illicit": float("comply" in exchange.answer)}

    def run(refuse, stop):
        engine = FakeEngine(comply=COMPLY, refuse=refuse)
        return make(engine=engine, moderator=FakeModerator(scorer), search={"horizon": horizon},
                    sampling=Sampling(stop=stop)).align("please do it now")  # fmt: skip

    late = run("I would rather not. END now I comply with it", ("END", "STOP"))
    assert (late.outcome, late.text) == (Outcome.STEERED, "I would rather not. ")
    accepted = next(e for e in late.evaluations if e.accepted)
    assert accepted.generation.finish_reason == "stop"
    assert not any("END" in text for text in judged)
    assert run("I would rather not. END now I comply with it", ()).outcome is Outcome.REFUSED


def test_an_answer_that_begins_with_a_stop_is_empty_as_asked_for():
    moderator = FakeModerator(error=RuntimeError())
    for preset in PRESETS:
        engine = FakeEngine(answer=lambda e, p: "END of it")
        response = make(preset, engine, moderator, sampling=Sampling(stop=("END",))).align("x")
        assert (response.outcome, response.text, response.left) == (Outcome.PASSED, "", 0)
        assert response.evaluations[0].generation.token_ids == ()
        assert (response.cost.generations, response.cost.moderator_calls) == (1, 0)
    assert moderator.calls == []
    # The model's own silence is another thing.
    silent = make(engine=FakeEngine(answer=lambda e, p: ""), search={"max_iterations": 1})
    assert silent.align("x").outcome is not Outcome.PASSED


def test_an_engine_that_goes_on_after_a_stop_fails():
    class Runs(FakeEngine):
        """Does not know of stops."""

        def generate(self, requests, sampling):
            return super().generate(requests, Sampling())

    response = make(engine=Runs(comply="It is END not"), sampling=Sampling(stop=("END",))).align(
        "x"
    )
    assert (response.outcome, response.stop_reason) == (Outcome.ERROR, StopReason.ENGINE_ERROR)
    assert "went on after a stop" in response.error


# --- offsets that are known to be good ---------------------------------------------------------


def with_offsets(*offsets, preset="fast", name="fake", **changes):
    engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
    return make(preset, engine, offsets={name: offsets}, **changes), engine


def good_offset(engine, length=0.5):
    """Coordinates of an offset in the direction that leads to a refusal."""
    basis = engine.table.principal_directions(16)
    return tuple(float(c) for c in length * basis @ engine.direction)


def test_a_known_offset_is_the_first_candidate():
    coordinates = good_offset(FakeEngine())
    aligner, _ = with_offsets(coordinates)
    responses = aligner.align_many(PROMPTS)
    assert {r.accepted_from for r in responses} == {AcceptedFrom.OFFSET}
    assert {r.cost.generations for r in responses} == {2}
    assert responses[0].iterations == 0
    plain = make().align_many(PROMPTS)
    assert max(r.cost.generations for r in plain) > 2


@pytest.mark.parametrize(
    "changes", [{"preset": "random"}, {"preset": "tide"}, {"name": "another model"},
                {"search": {"use_offsets": False}}]
)  # fmt: skip
def test_offsets_may_be_left_aside(changes):
    preset = changes.get("preset", "fast")
    search = changes.get("search", {})
    aligner, _ = with_offsets(good_offset(FakeEngine()), **changes)
    expected = facts(make(preset, search=search).align(PROMPTS[0]))
    assert facts(aligner.align(PROMPTS[0])) | {"policy": 0} == expected | {"policy": 0}


def test_a_known_offset_that_does_not_help_is_passed_over():
    bad = tuple(-c for c in good_offset(FakeEngine()))
    response = with_offsets(bad)[0].align(PROMPTS[0])
    without = make().align(PROMPTS[0])
    assert (response.outcome, response.text) == (without.outcome, without.text)
    assert response.cost.generations == without.cost.generations + 1
    benign = FakeEngine(answer=lambda e, p: "fine")
    assert make(engine=benign, offsets={"fake": [bad]}).align("hi").cost.generations == 1


def test_offsets_wider_than_the_model_are_an_error():
    # Before any prompt is read, so that no batch ends half-way.
    with pytest.raises(PolicyError, match=r"more than 16 coordinates.*rerail tune"):
        with_offsets((0.1,) * 17)
    with_offsets((0.1,) * 17, name="another model")
    with_offsets((0.1,) * 17, preset="random")


# --- moderators that fail --------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_moderator_that_raises_ends_in_an_error_that_quotes_nothing(preset):
    moderator = FakeModerator(error=RuntimeError("while judging: SECRET TEXT"))
    response = make(preset, moderator=moderator).align("hi")
    assert response.outcome is Outcome.ERROR
    assert response.stop_reason is StopReason.MODERATOR_ERROR
    assert response.error == "fake: raised RuntimeError"
    assert "SECRET" not in str(response.to_json())
    assert response.cost.generations == 1


def test_a_moderator_that_hangs_is_not_waited_for():
    started = time.monotonic()
    response = make(moderator=FakeModerator(delay=30), moderator_timeout=0.05).align("hi")
    assert response.outcome is Outcome.ERROR
    assert "no verdict within 0.05 s" in response.error
    assert time.monotonic() - started < 20


def test_not_a_number_is_unscored():
    moderator = FakeModerator(lambda exchange: {"illicit": math.nan})
    assert make(moderator=moderator).align("hi").outcome is Outcome.ERROR


def test_a_moderator_that_dies_in_the_search_ends_it():
    moderator = FakeModerator()
    engine = FakeEngine(comply=COMPLY, answer=lambda e, p: f"comply {float(p.sum())}")

    def die(embedded, point):
        if engine.generated > 3:
            moderator.error = RuntimeError()
        return f"comply {float(point.sum())}"

    engine._answer = die
    response = make(engine=engine, moderator=moderator).align("hi there you")
    assert response.outcome is Outcome.ERROR
    assert response.initial.flagged
    assert response.final is None


@pytest.mark.parametrize("preset", PRESETS)
def test_a_moderator_that_is_down_is_an_error_where_nothing_more_would_be_asked_for(preset):
    down = FakeModerator(error=RuntimeError())
    response = make(preset, moderator=down, search={"max_iterations": 0}).align("hi")
    assert (response.outcome, response.stop_reason) == (Outcome.ERROR, StopReason.MODERATOR_ERROR)
    assert response.text == Policy(name="x").error_message
    opens = make(preset, moderator=down, search={"max_iterations": 0}, audit=True,
                 on_moderator_error="open").align("hi")  # fmt: skip
    assert (opens.outcome, opens.text) == (Outcome.PASSED, COMPLY)


def test_a_moderator_that_goes_down_leaves_no_last_resort():
    engine = Likelihoods(lambda text: 0 if text == COMPLY else -3)
    moderator = FakeModerator()
    seen = []

    def observe(evaluation):
        seen.append(evaluation.rejection)
        if evaluation.rejection == "unnatural":
            moderator.error = RuntimeError()

    aligner = make(engine=engine, moderator=moderator, on_exhausted="best")
    (response,) = finish([aligner.open("hi there", observe=observe)])
    assert "unnatural" in seen
    assert (response.outcome, response.final) == (Outcome.ERROR, None)


def test_a_prompt_that_the_moderator_cannot_judge_does_not_take_the_others_along():
    class Fragile(FakeModerator):
        def score(self, exchanges):
            if any("odd" in e.messages[0].content for e in exchanges):
                raise RuntimeError
            return super().score(exchanges)

    engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
    prompts = [PROMPTS[0], "please do the odd thing", PROMPTS[1]]
    one, odd, two = make(engine=engine, moderator=Fragile()).align_many(prompts)
    assert (odd.outcome, odd.stop_reason) == (Outcome.ERROR, StopReason.MODERATOR_ERROR)
    assert facts(one) == facts(make().align(PROMPTS[0]))
    assert facts(two) == facts(make().align(PROMPTS[1]))


def test_unscored_candidates_count_as_worst_and_the_search_goes_on():
    def answer(embedded, point):
        place = float((point - embedded.point)[1:-2].mean(axis=0) @ engine.direction)
        return REFUSE if place > 0.8 else f"comply {place:.3f}"

    def scorer(exchange):
        if exchange.answer[-1] in "2468":
            return Score.unscored("refused")
        return {"illicit": float("comply" in exchange.answer)}

    engine = FakeEngine(answer=answer)
    response = make(engine=engine, moderator=FakeModerator(scorer),
                    search={"first_ask": 4}).align("please do that thing now")  # fmt: skip
    unscored = [e for e in response.evaluations if not e.score.scored]
    assert response.outcome is Outcome.STEERED
    assert unscored
    assert all(e.rejection == "unscored" and e.harm == math.inf for e in unscored)
    assert sum(e.accepted for e in response.evaluations) >= 1


@pytest.mark.parametrize("audit", [False, True])
def test_only_an_audit_policy_lets_an_unscored_answer_leave_and_says_so(audit):
    changes = {"audit": True, "on_moderator_error": "open"} if audit else {}
    moderator = FakeModerator(error=RuntimeError())
    response = make(moderator=moderator, **changes).align("hi")
    assert response.policy.audit is audit
    if audit:
        assert (response.outcome, response.text) == (Outcome.PASSED, COMPLY)
        assert response.final.unscored == "fake: raised RuntimeError"
        assert not response.final.scores
    else:
        assert (response.outcome, response.final) == (Outcome.ERROR, None)


def test_a_key_that_is_not_accepted_is_no_outage():
    refused = FakeModerator(lambda exchange: Score.unscored("x: access denied (HTTP 401)"))
    response = make(moderator=refused, audit=True, on_moderator_error="open").align("hi")
    assert response.outcome is Outcome.ERROR


def test_an_audit_policy_still_withholds_what_is_flagged():
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    response = make(engine=engine, audit=True, on_moderator_error="open",
                    search={"max_iterations": 1}).align("hi")  # fmt: skip
    assert response.outcome is Outcome.REFUSED
    assert COMPLY not in response.text


@pytest.mark.parametrize(("known", "leaves"), [(0.9, False), (0.1, True)])
def test_an_audit_policy_withholds_what_one_moderator_flags_while_another_is_down(known, leaves):
    works = FakeModerator(lambda exchange: {"hate": known}, categories=("hate",), name="works")
    down = FakeModerator(lambda exchange: Score.unscored("HTTP 503"), categories=("sexual",),
                         name="down")  # fmt: skip
    response = make(moderator=Combined([works, down]), audit=True,
                    on_moderator_error="open").align("hi")  # fmt: skip
    assert (response.text == COMPLY) is leaves
    assert response.outcome is (Outcome.PASSED if leaves else Outcome.ERROR)
    assert response.initial.harm is None


# --- moderators that confirm ------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_leaves_without_the_consent_of_the_moderator_that_confirms(preset):
    against_refusals = FakeModerator(words=["rather"], categories=["custom/tone"])
    response = make(preset, confirm=against_refusals, search={"max_iterations": 3}).align(
        "please do the thing"
    )
    assert response.outcome is Outcome.REFUSED
    assert "unconfirmed" in {e.rejection for e in response.evaluations} or preset == "tide"
    asked = [e.answer for batch in against_refusals.calls for e in batch]
    assert set(asked) <= {REFUSE}


@pytest.mark.parametrize("preset", PRESETS)
def test_moderators_that_confirm_do_not_steer(preset):
    """The same points, answers and losses, whatever those that confirm say."""

    def path(confirm):
        seen = []
        # Harm falls as the point moves, and is never flagged: acceptable but for the consent.
        engine = FakeEngine(answer=lambda e, p: f"at {np.abs(p - e.point).sum():.4f}")
        moderator = FakeModerator(lambda exchange: {"illicit": 0.4 if "0.0000" not in
                                                    exchange.answer else 0.9})  # fmt: skip
        aligner = make(preset, engine=engine, moderator=moderator, confirm=confirm,
                       search={"max_iterations": 3, "accept_perturbations": False})  # fmt: skip
        search = aligner.open("please do the thing", observe=seen.append)
        while not search.done:
            advance([search])
        return [(e.origin, e.generation.text, loss(e)) for e in seen]

    def second(scorer):
        return FakeModerator(scorer, categories=("hate",), name="second")

    refuses = path(second(lambda exchange: {"hate": 0.99}))
    down = path(second(lambda exchange: Score.unscored("down")))
    assert len(refuses) > 8
    assert {value for _, _, value in refuses[1:]} == {0.8}
    assert refuses[: len(down)] == down
    assert refuses[: len(free := path(None))] == free


def test_an_unconfirmed_answer_tells_its_own_loss_and_is_not_accepted():
    strict = FakeModerator(words=["rather"], categories=["hate"], name="second")
    moderator = FakeModerator(lambda e: {"illicit": 0.2 if e.answer == REFUSE else 0.9})
    response = make(moderator=moderator, confirm=strict,
                    search={"max_iterations": 1}).align("please do it")  # fmt: skip
    unconfirmed = [e for e in response.evaluations if e.rejection is Rejection.UNCONFIRMED]
    assert unconfirmed
    for evaluation in unconfirmed:
        assert (loss(evaluation), evaluation.harm) == (0.4, 0.4)
        assert evaluation.flagged
        assert not evaluation.accepted
    assert response.outcome is Outcome.REFUSED


def test_only_answers_that_could_leave_are_put_to_those_that_confirm():
    """The published loop returns iterates: its perturbations only measure."""
    second = FakeModerator(words=["never"], name="second")
    response = make("tide", confirm=second).align("please do the thing")
    assert response.accepted_from is AcceptedFrom.ITERATE
    assert any(e.generation.text == REFUSE and e.origin is AcceptedFrom.PERTURBATION
               for e in response.evaluations)  # fmt: skip
    assert [e.judged.confirmed for e in response.evaluations if e.judged.confirmed is not None] == [
        True
    ]


def test_a_first_answer_that_is_not_confirmed_is_flagged():
    objects = FakeModerator(words=["fine"], name="second", categories=("hate",))
    response = make(engine=FakeEngine(answer=lambda e, p: "fine"), confirm=objects,
                    search={"max_iterations": 1}).align("hi")  # fmt: skip
    assert response.flagged
    assert (response.initial.flagged, response.initial.confirmed) == (True, False)
    assert response.initial.harm == response.initial.scores["hate"] / 0.5


def test_the_last_resort_needs_consent_too():
    def run(words):
        engine = Likelihoods(lambda text: {COMPLY: 0, "other 5": -2, "other 6": -2.5}.get(text, -3))
        second = FakeModerator(words=words, name="second")
        return make(engine=engine, confirm=second, on_exhausted="best",
                    search={"max_iterations": 1}).align("hi")  # fmt: skip

    assert run(["never"]).text == "other 5"
    assert run(["other 5"]).text == "other 6"
    against_all = run(["other"])
    assert (against_all.outcome, against_all.final) == (Outcome.REFUSED, None)
    assert {e.rejection for e in against_all.evaluations[1:]} == {"unnatural"}
    assert {e.judged.confirmed for e in against_all.evaluations[1:]} == {False}


def test_an_audit_policy_asks_for_consent_to_what_could_not_be_scored():
    def run(words):
        down = FakeModerator(error=RuntimeError())
        second = FakeModerator(words=words, name="second")
        return make(moderator=down, confirm=second, audit=True, on_moderator_error="open",
                    search={"max_iterations": 1}).align("hi")  # fmt: skip

    assert (run(["never"]).text, run(["never"]).final.unscored) == (
        COMPLY, "fake: raised RuntimeError")  # fmt: skip
    objects = run(["comply"])
    assert (objects.outcome, objects.final) == (Outcome.ERROR, None)


def test_moderators_that_confirm_nothing_are_an_error():
    second = FakeModerator(categories=["custom/tone"], name="second")
    with pytest.raises(PolicyError, match="moderators that confirm: leave them out"):
        make(confirm=second, categories={"custom/tone": None})


def test_a_first_answer_needs_consent_too_and_consent_changes_nothing():
    engine = FakeEngine(answer=lambda e, p: "fine")
    consents = FakeModerator(words=["never"], name="second")
    response = make(engine=engine, confirm=consents).align("hi")
    assert (response.outcome, response.text) == (Outcome.PASSED, "fine")
    assert response.cost.moderator_calls == 2
    objects = FakeModerator(words=["fine"], name="second")
    refused = make(engine=engine, confirm=objects, search={"max_iterations": 1}).align("hi")
    assert refused.outcome is Outcome.REFUSED


def test_a_moderator_that_cannot_confirm_is_an_error():
    engine = FakeEngine(answer=lambda e, p: "fine")
    down = FakeModerator(error=RuntimeError(), name="second")
    response = make(engine=engine, confirm=down).align("hi")
    assert response.outcome is Outcome.ERROR
    assert response.error == "second: raised RuntimeError"


def test_a_policy_whose_moderators_should_confirm_needs_them():
    with pytest.raises(PolicyError, match="load_confirm"):
        Panel(Policy(name="p", confirm=("fake",)), FakeModerator())


# --- engines that fail -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [EngineError("out of memory: use a smaller batch"), RuntimeError("SECRET")]
)
def test_an_engine_that_fails_shows_nothing(error):
    engine = FakeEngine()
    engine.error = error
    response = make(engine=engine).align("hi")
    assert response.outcome is Outcome.ERROR
    assert response.stop_reason is StopReason.ENGINE_ERROR
    assert response.initial is None
    expected = str(error) if isinstance(error, EngineError) else "RuntimeError"
    assert response.error == expected


def test_one_prompt_that_breaks_the_engine_does_not_take_the_others_along():
    class Fragile(FakeEngine):
        def generate(self, requests, sampling):
            if any("poison" in r.embedded.prompt.messages[0].content for r in requests):
                raise EngineError("broken")
            return super().generate(requests, sampling)

    fine, broken, also_fine = make(engine=Fragile(comply=COMPLY, refuse=REFUSE)).align_many(
        ["please do this thing", "poison", "please do that thing"]
    )
    assert broken.outcome is Outcome.ERROR
    assert fine.outcome is also_fine.outcome is Outcome.STEERED


def test_a_failing_log_likelihood_shows_nothing():
    class NoLikelihood(FakeEngine):
        def log_likelihood(self, requests):
            raise RuntimeError

    response = make(engine=NoLikelihood(comply=COMPLY, refuse=REFUSE)).align("please do it now")
    assert response.outcome is Outcome.ERROR
    assert response.stop_reason is StopReason.ENGINE_ERROR


@pytest.mark.parametrize("method", ["generate", "log_likelihood"])
def test_a_search_that_makes_the_engine_fail_ends_alone(method):
    class Fragile(FakeEngine):
        def generate(self, requests, sampling):
            self.check("generate", [request.embedded for request in requests])
            return super().generate(requests, sampling)

        def log_likelihood(self, requests):
            self.check("log_likelihood", [embedded for embedded, _ in requests])
            return super().log_likelihood(requests)

        def check(self, called, prompts):
            if called == method and any("odd" in e.prompt.messages[0].content for e in prompts):
                raise RuntimeError

    aligner = make(engine=Fragile(comply=COMPLY, refuse=REFUSE))
    one, odd, two = aligner.align_many([PROMPTS[0], "please do the odd thing", PROMPTS[1]])
    assert (odd.outcome, odd.stop_reason) == (Outcome.ERROR, StopReason.ENGINE_ERROR)
    assert facts(one) == facts(make().align(PROMPTS[0]))
    assert facts(two) == facts(make().align(PROMPTS[1]))


def test_an_engine_that_loses_an_answer_shows_nothing():
    class Loses(FakeEngine):
        def generate(self, requests, sampling):
            return super().generate(requests, sampling)[1:]

    response = make(engine=Loses(comply=COMPLY, refuse=REFUSE)).align("hi")
    assert (response.outcome, response.error) == (
        Outcome.ERROR, "the engine gave 0 results for 1 requests")  # fmt: skip


def test_where_a_batch_fails_searches_cancelled_meanwhile_are_not_asked_for():
    asked = []

    class Down(FakeEngine):
        def generate(self, requests, sampling):
            asked.append({r.embedded.prompt.messages[0].content for r in requests})
            for search in searches[1:]:
                search.cancel()
            raise EngineError("down")

    aligner = make(engine=Down())
    searches = [aligner.open(prompt) for prompt in PROMPTS[:3]]
    reasons = [response.stop_reason for response in finish(searches)]
    assert asked == [set(PROMPTS[:3]), {PROMPTS[0]}]
    assert reasons == [StopReason.ENGINE_ERROR, StopReason.CANCELLED, StopReason.CANCELLED]


# --- what is acceptable ----------------------------------------------------------------------


class Likelihoods(FakeEngine):
    """Every moved point gives another answer, with a log-likelihood that a table sets."""

    def __init__(self, values, **options):
        super().__init__(answer=self.answer_of, **options)
        self.values = values
        self.texts = {}
        self.answers = 0

    def answer_of(self, embedded, point):
        if np.array_equal(point, embedded.point):
            return COMPLY
        self.answers += 1
        return f"other {self.answers}"

    def generate(self, requests, sampling):
        generations = super().generate(requests, sampling)
        for generation in generations:
            self.texts[generation.token_ids] = generation.text
        return generations

    def log_likelihood(self, requests):
        super().log_likelihood(requests)
        return [self.values(self.texts[tokens]) for _, tokens in requests]


def test_an_answer_about_something_else_is_not_accepted():
    engine = Likelihoods(lambda text: -0.5 if text == COMPLY else -1.6)
    response = make(engine=engine, search={"max_iterations": 2}).align("hi there")
    assert response.outcome is Outcome.REFUSED
    assert {e.rejection for e in response.evaluations[1:]} == {"unnatural"}
    assert response.evaluations[1].naturalness == pytest.approx(-1.1)


@pytest.mark.parametrize("exhausted", ["refuse", "best"])
@pytest.mark.parametrize("first", [-math.inf, math.nan])
def test_an_answer_of_unknown_naturalness_is_not_accepted(first, exhausted):
    engine = Likelihoods(lambda text: first if text == COMPLY else -1)
    response = make(engine=engine, search={"max_iterations": 1}, on_exhausted=exhausted).align("hi")
    assert {e.rejection for e in response.evaluations[1:]} == {"unnatural"}
    assert (response.outcome, response.naturalness) == (Outcome.REFUSED, None)


def test_the_floor_itself_is_natural_enough():
    engine = Likelihoods(lambda text: -0.5 if text == COMPLY else -1.5)
    response = make(engine=engine, naturalness_floor=-1.0).align("hi there")
    assert response.naturalness == pytest.approx(-1.0)


def test_the_most_natural_acceptable_answer_of_a_round_is_returned():
    engine = Likelihoods(lambda text: {COMPLY: 0, "other 3": -0.1}.get(text, -0.4))
    response = make(engine=engine, search={"first_ask": 4}).align("hi there")
    assert response.text == "other 3"
    assert response.naturalness == pytest.approx(-0.1)


def test_best_gives_the_most_natural_unflagged_answer_below_the_floor():
    engine = Likelihoods(lambda text: {COMPLY: 0, "other 5": -2}.get(text, -3))
    response = make(engine=engine, on_exhausted="best", search={"max_iterations": 1}).align("hi")
    assert response.outcome is Outcome.STEERED
    assert (response.text, response.naturalness) == ("other 5", -2)
    assert response.stop_reason is StopReason.BUDGET


def between(score, first=0.9):
    """An engine whose first answer has one score, and a moderator that gives all others another."""
    another = "another answer that is long enough to be looked at before it ends"
    engine = FakeEngine(answer=lambda e, p: "first" if (p == e.point).all() else another)
    return engine, FakeModerator(lambda e: {"illicit": first if e.answer == "first" else score})


def test_a_first_answer_below_the_threshold_passes_whatever_accept_below_is():
    engine, moderator = between(score=0.0, first=0.49)
    response = make(engine=engine, moderator=moderator, accept_below=0.1).align("hi")
    assert (response.outcome, response.cost.generations) == (Outcome.PASSED, 1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("exhausted", ["refuse", "best"])
def test_a_borderline_answer_never_leaves(preset, exhausted):
    engine, moderator = between(score=0.4)
    response = make(preset, engine, moderator, on_exhausted=exhausted,
                    search={"max_iterations": 2}).align("hi there")  # fmt: skip
    assert response.outcome is Outcome.REFUSED
    later = response.evaluations[1:]
    assert {(e.rejection, e.accepted) for e in later} == {(Rejection.BORDERLINE, False)}
    assert not any(e.flagged for e in later)
    if preset == "tide":  # stopped as published: what it would have returned is told apart
        assert response.stop_reason is StopReason.ACCEPTED
        assert response.evaluations[response.best].harm == 0.8


@pytest.mark.parametrize("preset", PRESETS)
def test_an_answer_that_accept_below_admits_leaves(preset):
    engine, moderator = between(score=0.4)
    response = make(preset, engine, moderator, accept_below=0.8).align("hi there")
    assert (response.outcome, response.final.harm) == (Outcome.STEERED, 0.8)


def test_borderline_answers_tell_the_search_how_far_they_are_from_harmless():
    """Harm falls with the distance: from flagged through borderline down to what may leave."""

    def scorer(exchange):
        return {"illicit": max(0.0, 0.6 - float(exchange.answer.split()[-1]) / 50)}

    moved = FakeEngine(answer=lambda e, p: f"at {np.abs(p - e.point).sum():.4f}")
    seen = []
    aligner = make("fast", moved, FakeModerator(scorer), naturalness_floor=-1e9, accept_below=0.2,
                   search={"accept_perturbations": False, "min_cosine": -1.0})  # fmt: skip
    search = aligner.open("please do the thing", observe=seen.append)
    while not search.done:
        advance([search])
    borderline = [e for e in seen if e.rejection is Rejection.BORDERLINE]
    assert borderline
    assert all(0.2 < e.harm < 1 and loss(e) == e.harm for e in borderline)
    assert all(e.harm <= 0.2 for e in seen if e.accepted)


def test_a_draft_that_is_borderline_is_finished():
    """Half-way only what is flagged is cut: harm may fall until the end."""
    engine, moderator = between(score=0.4)
    response = make(engine=engine, moderator=moderator, search={"max_iterations": 1}).align("hi")
    assert {e.generation.finish_reason for e in response.evaluations} == {"stop"}


def test_best_never_gives_a_flagged_answer():
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    response = make(engine=engine, on_exhausted="best", search={"max_iterations": 1}).align("hi")
    assert response.outcome is Outcome.REFUSED


@pytest.mark.parametrize("text", ["", "  \n"])
def test_silence_is_not_accepted(text):
    engine = FakeEngine(answer=lambda e, p: text)
    response = make(engine=engine, search={"max_iterations": 1}).align("hi")
    assert response.outcome is Outcome.REFUSED
    assert {e.rejection for e in response.evaluations} == {"empty"}


@pytest.mark.parametrize("text", ["again and " * 30, "ha" * 200])
def test_a_loop_leaves_as_the_model_s_own_and_not_as_a_steered_answer(text):
    own = make(engine=FakeEngine(answer=lambda e, p: text)).align("hi")
    assert (own.outcome, own.text, own.cost.generations) == (Outcome.PASSED, text, 1)
    engine = FakeEngine(lambda e, p: COMPLY if p is e.point or (p == e.point).all() else text)
    steered = make(engine=engine, search={"max_iterations": 1}).align("hi")
    assert steered.outcome is Outcome.REFUSED
    assert {e.rejection for e in steered.evaluations[1:]} == {"degenerate"}


def test_silence_is_never_sent_to_the_moderator():
    moderator = FakeModerator()
    engine = FakeEngine(answer=lambda e, p: "")
    response = make(engine=engine, moderator=moderator, search={"max_iterations": 1}).align("hi")
    assert moderator.calls == []
    assert response.cost.moderator_calls == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A short answer.", False),
        ("no no no", False),
        ("The plan has three parts: first the walls, then the roof over them, and at the very end "
         "a door that opens to the garden where the old apple trees stand in two rows.", False),
        ("keep going " * 12, True),
        ("Half a pair \ud800 stands in a text that is long enough to be compressed, and that says "
         "one thing after the other: bread, rivers, the price of copper, why moss grows, and "
         "how a kettle knows when to stop.", False),
        ("字" * 80, True),
        ("a list of things that went well: " + "tics" * 12, True),
        ("1000000 is a million\n" + "-" * 60 + "\nand no no no no", False),
        ("word " * 8, False),
    ],
)  # fmt: skip
def test_degenerate_means_repeating_itself(text, expected):
    assert is_degenerate(text) is expected


def test_order_of_rejections_and_losses():
    def evaluation(text, score, natural):
        gives = FakeModerator(lambda exchange: score, categories=("illicit",))
        (judged,) = Panel(make_policy(), gives).judge([Exchange((), text)], steered=True)
        reason = judged.rejection or (None if natural else Rejection.UNNATURAL)
        return Evaluation(AcceptedFrom.PERTURBATION, None, Generation(text, ()), judged, 0.0,
                          reason)  # fmt: skip

    low, high, none = Score.of({"illicit": 0.1}), Score.of({"illicit": 0.8}), Score.unscored("x")
    cases = [
        (evaluation("fine", low, True), None, 0.2),
        (evaluation("fine", low, False), "unnatural", 1.0),
        (evaluation("loop " * 40, low, True), "degenerate", 1.0),
        (evaluation("bad", high, True), "flagged", 1.6),
        (evaluation("loop " * 40, high, True), "flagged", 1.6),
        (evaluation("x", none, True), "unscored", math.inf),
        (evaluation(" ", low, True), "empty", math.inf),
    ]
    for case, reason, value in cases:
        assert case.rejection == reason
        assert loss(case) == pytest.approx(value)


# --- budgets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("limit", [1, 2, 5, 16, 18, 40])
def test_generations_never_exceed_the_budget(preset, limit):
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    response = make(preset, engine, budget=Budget(generations=limit)).align("hi there")
    assert response.cost.generations == engine.generated == limit
    assert response.stop_reason is StopReason.BUDGET


def test_a_token_budget_ends_the_search_after_the_round_that_spends_it():
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    response = make(engine=engine, budget={"generations": None, "tokens": 60},
                    search={"horizon": None}).align("hi there")  # fmt: skip
    per_answer = len(COMPLY.split()) + 1
    assert response.stop_reason is StopReason.BUDGET
    assert 60 <= response.cost.generated_tokens < 60 + 8 * per_answer
    assert response.cost.generated_tokens == response.cost.generations * per_answer


def test_a_time_budget_ends_the_search(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("rerail.rounds.time.perf_counter", lambda: float(next(clock)))
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    response = make(engine=engine, budget={"seconds": 3.0}).align("hi there")
    assert response.stop_reason is StopReason.BUDGET
    assert response.cost.generations < 10


def test_plateau_ends_in_a_refusal():
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    response = make(engine=engine, search={"plateau_patience": 1}).align("hi there")
    assert response.stop_reason is StopReason.PLATEAU
    assert response.outcome is Outcome.REFUSED


# --- prompts ---------------------------------------------------------------------------------


def test_prompts_that_cannot_be_answered():
    aligner = make(engine=FakeEngine(answer=lambda e, p: "ok", context_length=16))
    with pytest.raises(PromptError, match="empty"):
        aligner.align("  ")
    with pytest.raises(PromptTooLongError, match="shorten"):
        aligner.align("word " * 40)
    with pytest.raises(PromptError, match="must be the user's"):
        aligner.align([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    responses = aligner.align_many(["", "hello", "word " * 40, "half a pair: \ud83d"])
    assert [r.outcome for r in responses] == [
        Outcome.ERROR, Outcome.PASSED, Outcome.ERROR, Outcome.ERROR]  # fmt: skip
    assert {r.stop_reason for r in responses if r.error} == {StopReason.PROMPT_ERROR}
    assert "shorten" in responses[2].error
    assert "surrogate" in responses[3].error


def test_an_engine_that_cannot_embed_one_prompt_answers_the_others():
    class Picky(FakeEngine):
        def embed(self, prompt):
            if "odd" in prompt.messages[0].content:
                raise EngineError("the prompt has no tokens: write a longer one")
            return super().embed(prompt)

    aligner = make(engine=Picky(answer=lambda e, p: "ok"))
    first, odd, last = aligner.align_many(["hello", "odd", "there"])
    assert first.outcome is last.outcome is Outcome.PASSED
    assert (odd.outcome, odd.stop_reason) == (Outcome.ERROR, StopReason.ENGINE_ERROR)
    assert "longer" in odd.error


def test_only_the_rows_of_the_policy_move():
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first question here"},
        {"role": "assistant", "content": "an answer"},
        {"role": "user", "content": "second question"},
    ]
    moved = set()

    def answer(embedded, point):
        rows = np.flatnonzero((point != embedded.point).any(axis=1))
        moved.update(embedded.message_index[rows].tolist())
        return COMPLY

    for rows, expected in [("last_user", {3}), ("user", {1, 3}), ("all", {-1, 0, 1, 2, 3})]:
        moved.clear()
        make(engine=FakeEngine(answer=answer), steerable_rows=rows,
             search={"max_iterations": 1}).align(messages)  # fmt: skip
        assert moved == expected


def test_text_completion_is_steered_without_a_template():
    response = make().align(Prompt.completion("please go on with this"))
    assert response.outcome is Outcome.STEERED


def test_movement_is_measured_on_the_accepted_point():
    engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
    response = make(engine=engine, search={"perturbation_scale": 0.3}).align("please do it now")
    assert 0 < response.cosine < 1
    assert 0 <= response.tokens_preserved <= 1
    far = make(engine=FakeEngine(comply=COMPLY, refuse=REFUSE, margin=3.0),
               search={"perturbation_scale": 5.0, "max_perturbation_scale": 50.0,
                       "min_cosine": -1.0}).align("please do it now")  # fmt: skip
    assert far.cosine < response.cosine
    assert far.tokens_preserved < 1


def test_the_cosine_of_a_response_is_the_one_that_the_policy_bounds():
    points = {}

    def answer(embedded, point):
        rows = embedded.steerable("last_user")
        text = REFUSE if (point != embedded.point).any() else COMPLY
        points[text] = (point[rows], embedded.point[rows])
        return text

    floor = 0.9
    response = make(engine=FakeEngine(answer=answer), search={
        "min_cosine": floor, "perturbation_scale": 5.0, "max_perturbation_scale": 5.0,
        "first_ask": 1,
    }).align("please do it now")  # fmt: skip
    moved, original = points[REFUSE]
    assert response.cosine == pytest.approx(zo.cosine(moved, original))
    assert response.cosine == pytest.approx(floor, abs=1e-4)
    assert min(map(zo.cosine, moved, original)) < floor - 0.01


def test_which_evaluation_left_is_said_even_where_texts_are_equal():
    engine = FakeEngine(answer=lambda e, p: COMPLY)
    harms = iter([0.9, 0.9, 0.1])
    moderator = FakeModerator(lambda exchange: {"illicit": next(harms)})
    response = make(engine=engine, moderator=moderator).align("hi")
    # The verdict on a text is remembered: the one answer there is stays flagged.
    assert (response.outcome, response.left) == (Outcome.REFUSED, None)
    steered = make().align("please do it now")
    assert steered.evaluations[steered.left].generation.text == steered.text
    assert steered.evaluations[steered.left].accepted
    assert make(engine=FakeEngine(answer=lambda e, p: "fine")).align("hi").left == 0


def test_a_policy_that_names_a_category_nobody_gives_is_an_error():
    with pytest.raises(PolicyError, match="did you mean 'illicit'"):
        make(categories={"illicit/violent": 0.5})


def test_responses_are_plain_data():
    import json

    for response in make().align_many(["please do it", ""]):
        json.dumps(response.to_json(), allow_nan=False)

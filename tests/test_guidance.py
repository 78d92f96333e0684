"""A policy's own words as what is tried between offsets and search."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail import guidance, zo
from rerail.align import Aligner
from rerail.engines import load_engine
from rerail.engines.fake import FakeEngine
from rerail.errors import EngineError, PolicyError, PromptError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.rounds import NEUTRAL
from rerail.search import advance
from rerail.types import AcceptedFrom, Message, Outcome, Prompt, Rejection, Score, StopReason

COMPLY, REFUSE = "Sure, here is how I comply with it.", "No, rather not."
KIND = "Decline what would hurt somebody and say what may be done about it instead."
SEARCH = {"preset": "fast", "subspace_rank": None}
WORDS_FIRST = SEARCH | {"fade_first": False}
NO_FADES = SEARCH | {"use_fades": False}
NO_SEARCH = NO_FADES | {"max_iterations": 0}
AROUND = "Answer politely. {prompt} Stay polite."


def told(embedded):
    """All that the model was told, as one text."""
    return "\n".join(message.content for message in embedded.prompt.messages)


def engine(helps=KIND, answer=REFUSE, **options):
    """Complies, unless it was told what helps."""
    words = helps.split("{prompt}")[0].strip()
    said = answer if callable(answer) else lambda embedded: answer
    return FakeEngine(lambda e, p: said(e) if words in told(e) else COMPLY, **options)


def make(*texts, model=None, moderator=None, **changes):
    data = {"name": "test", "moderators": ["fake"], "guidance": list(texts)} | changes
    policy = Policy.parse({"optimizer": WORDS_FIRST} | data)
    return Aligner(model or engine(), Panel(policy, moderator or FakeModerator()))


@pytest.mark.parametrize("text", [KIND, AROUND])
def test_guidance_is_asked_for_before_the_search_and_is_the_models_own_answer(text):
    model = engine(text)
    response = make(text, model=model).align("please do it")
    assert (response.outcome, response.text) == (Outcome.STEERED, REFUSE)
    assert response.accepted_from is AcceptedFrom.GUIDANCE
    assert (response.cost.generations, response.iterations) == (2, 0)
    # No row of the user's moved, and naturalness is that of the prompt without the guidance.
    assert (response.cosine, response.tokens_preserved) == (1.0, 1.0)
    prompt = model.embed(Prompt.of("please do it"))
    first, left = (e.generation.token_ids for e in response.evaluations)
    likely = model.log_likelihood([(prompt, left), (prompt, first)])
    assert response.naturalness == pytest.approx(likely[0] - likely[1])


def test_naturalness_is_told_and_is_no_condition():
    class Reluctant(FakeEngine):
        """Finds declining less likely, by two nats a token."""

        def log_likelihood(self, requests):
            declines = set(self._tokens(REFUSE))
            return [-3.0 if declines & set(tokens) else -1.0 for _, tokens in requests]

    model = Reluctant(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    response = make(KIND, model=model, optimizer=NO_SEARCH).align("please do it")
    assert (response.outcome, response.naturalness) == (Outcome.STEERED, -2.0)


def test_a_naturalness_that_is_no_number_is_one():
    class Broken(FakeEngine):
        def log_likelihood(self, requests):
            return [-math.inf] * len(requests)

    model = Broken(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    response = make(KIND, model=model, optimizer=NO_SEARCH).align("please do it")
    assert response.evaluations[-1].rejection is Rejection.UNNATURAL


class Indifferent(FakeEngine):
    """Finds every answer as likely to a neutral prompt, but for some nats a token."""

    more = 0.0

    def log_likelihood(self, requests):
        neutral = [told(embedded).endswith(NEUTRAL) for embedded, _ in requests]
        return [-1.0 - self.more if each else -1.0 for each in neutral]


@pytest.mark.parametrize("more", [-0.1, 0.0, 0.5])
def test_a_moved_answer_has_to_be_likelier_to_the_prompt_than_to_one_for_anything(more):
    model = Indifferent(comply=COMPLY, refuse=REFUSE)
    model.more = more
    response = make(model=model, relevance_floor=0.0).align("please do it")
    if more >= 0:
        assert response.outcome is Outcome.STEERED
        assert response.relevance == more
        assert response.to_json()["relevance"] == more
    else:
        assert response.outcome is Outcome.REFUSED
        assert Rejection.IRRELEVANT in {e.rejection for e in response.evaluations}
        assert response.relevance is None


@pytest.mark.parametrize("more", [-0.1, math.nan, -math.inf])
def test_what_answers_to_guidance_needs_a_relevance_and_not_a_high_one(more):
    model = Indifferent(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    model.more = more
    aligner = make(KIND, model=model, relevance_floor=0.0, optimizer=NO_SEARCH)
    response = aligner.align("please do it")
    assert (response.outcome is Outcome.STEERED) == math.isfinite(more)
    assert response.relevance == (pytest.approx(more) if math.isfinite(more) else None)


def test_relevance_is_held_to_no_floor_where_there_is_none_and_then_costs_nothing():
    def spent(**changes):
        model = Indifferent(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
        return make(KIND, model=model, optimizer=NO_SEARCH, **changes).align("please do it")

    without, held = spent(), spent(relevance_floor=-9.0)
    assert without.relevance is None
    neutral = FakeEngine().embed(Prompt.of(NEUTRAL))
    more = len(neutral.token_ids) + len(held.evaluations[-1].generation.token_ids)
    assert held.cost.prompt_tokens == without.cost.prompt_tokens + more


def test_a_neutral_prompt_has_the_system_turn_and_no_earlier_one():
    seen = []

    class Listening(Indifferent):
        def log_likelihood(self, requests):
            seen.extend(embedded.prompt for embedded, _ in requests)
            return super().log_likelihood(requests)

    model = Listening(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    turns = [("system", "You serve."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Do it.")]
    prompt = Prompt(tuple(Message(*turn) for turn in turns))
    make(KIND, model=model, relevance_floor=-9.0, optimizer=NO_SEARCH).align(prompt)
    neutral = Prompt((Message("system", "You serve."), Message("user", NEUTRAL)))
    assert seen == [prompt, prompt, neutral]


@pytest.mark.parametrize("error", [PromptError("no room"), RuntimeError("SECRET")])
def test_a_neutral_prompt_that_cannot_be_embedded_ends_its_own_search_alone(error):
    class Fragile(Indifferent):
        def embed(self, prompt):
            turns = [message.content for message in prompt.messages]
            if turns == ["You are odd.", NEUTRAL]:
                raise error
            return super().embed(prompt)

    model = Fragile(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    odd = Prompt((Message("system", "You are odd."), Message("user", "please do it")))
    aligner = make(KIND, model=model, relevance_floor=-9.0, optimizer=NO_SEARCH)
    one, failed, other = aligner.align_many(["please do it", odd, "please do that"])
    assert (failed.outcome, failed.stop_reason) == (Outcome.ERROR, StopReason.ENGINE_ERROR)
    assert (failed.text, failed.error) == (aligner.policy.error_message, type(error).__name__)
    assert one.outcome is other.outcome is Outcome.STEERED
    assert None not in (one.relevance, other.relevance)
    assert aligner.align(odd).error == failed.error


def test_a_neutral_prompt_that_fails_for_a_search_cancelled_meanwhile_fails_nothing():
    class Fragile(Indifferent):
        def embed(self, prompt):
            if prompt.messages[-1].content == NEUTRAL:
                for search in searches:
                    search.cancel()
                raise RuntimeError
            return super().embed(prompt)

    model = Fragile(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    aligner = make(KIND, model=model, relevance_floor=-9.0, optimizer=NO_SEARCH)
    searches = [aligner.open(prompt) for prompt in ("please do it", "please do that")]
    while not all(search.done for search in searches):
        advance(searches)
    assert {search.response().stop_reason for search in searches} == {StopReason.CANCELLED}


def rows_of(model, words, text):
    """The rows of the user's words in the prompt with a text."""
    prompt = Prompt.of(words)
    return guidance.own_rows(model, prompt, guidance.embed(model, prompt, text), text)


def moves(model, **changes):
    """A response to a prompt that no text helps with, and the points that were moved for it."""
    seen = []
    aligner = make("Be kind. {prompt}", "Be brief.", model=model, **changes)
    search = aligner.open("please do it", observe=seen.append)
    while not search.done:
        advance([search])
    return search.response(), [e for e in seen if e.origin is AcceptedFrom.PERTURBATION]


def test_what_no_text_solves_moves_the_users_words_beside_the_first_of_them():
    model = FakeEngine(comply=COMPLY, refuse=REFUSE)
    response, moved = moves(model, optimizer=NO_FADES)
    told_first = model.embed(Prompt.of("Be kind. please do it"))
    assert moved
    assert all(np.array_equal(e.unmoved, told_first.point) for e in moved)
    assert response.outcome is Outcome.STEERED
    assert response.accepted_from is AcceptedFrom.PERTURBATION
    rows = rows_of(model, "please do it", "Be kind. {prompt}")
    point = next(e.point for e in moved if e.accepted)
    assert (point != told_first.point).any(axis=1).tolist() == rows.tolist()
    assert response.cosine == pytest.approx(zo.cosine(point[rows], told_first.point[rows]))


def test_before_that_the_users_words_fade_beside_it_the_first_quarter_first():
    model = FakeEngine(lambda e, p: REFUSE if (p == 0).all(axis=1).sum() >= 4 else COMPLY)
    seen = []
    aligner = make("Be kind. {prompt}", model=model)
    search = aligner.open("one two three four five six seven eight", observe=seen.append)
    while not search.done:
        advance([search])
    rows = rows_of(model, "one two three four five six seven eight", "Be kind. {prompt}")
    faded = [e for e in seen if e.origin is AcceptedFrom.FADE]
    response = search.response()
    assert (response.text, response.accepted_from) == (REFUSE, AcceptedFrom.FADE)
    size = rows.sum()
    for evaluation, share in zip(faded, (0.25, 0.5), strict=False):
        gone = (evaluation.point == 0).all(axis=1)
        assert gone[rows].tolist() == [i < round(share * size) for i in range(size)]
        assert np.array_equal(evaluation.point[~gone], evaluation.unmoved[~gone])
    assert response.cosine < 1


def test_the_users_rows_of_a_guided_prompt_spell_the_users_words():
    engine = load_engine("embedded")
    for text, words in [
        (AROUND, "please do it"),
        ("Answer politely.", "please do it"),
        ('Somebody wrote:\n"""\n{prompt}\n"""', "Stay polite."),
        ("{prompt}{prompt}", "well"),
        (AROUND, "§"),
    ]:
        turns = (Message("user", "hi"), Message("assistant", "hello"), Message("user", words))
        prompt = Prompt(turns)
        guided = guidance.embed(engine, prompt, text)
        rows = guidance.own_rows(engine, prompt, guided, text)
        spelt = engine.tokenizer.decode(guided.token_ids[rows].tolist())
        within = text.partition("{prompt}")[2].rpartition("{prompt}")[0]
        assert spelt.strip() in ("" if words == "§" else words, f"{words}{within}{words}")


def test_the_prompt_alone_moves_where_that_is_wanted_and_where_nothing_is_flagged():
    alone = FakeEngine(comply=COMPLY, refuse=REFUSE)
    own = alone.embed(Prompt.of("please do it"))
    _, moved = moves(alone, optimizer=NO_FADES | {"around_guidance": False})
    assert moved
    assert all(np.array_equal(e.unmoved, own.point) for e in moved)
    silent = FakeEngine(lambda e, p: "" if (p == e.point).all() else "fine")
    _, moved = moves(silent, optimizer=NO_FADES)
    assert moved
    assert all(np.array_equal(e.unmoved, own.point) for e in moved)


def test_what_moves_beside_a_text_is_held_to_no_floor_and_must_repeat_nothing():
    text = "Be kind to all who ask and say no."

    class Reluctant(FakeEngine):
        def log_likelihood(self, requests):
            declines = set(self._tokens(REFUSE))
            return [-3.0 if declines & set(tokens) else -1.0 for _, tokens in requests]

    def response(answer, prompt="please do it", text=f"{text} {{prompt}}"):
        model = Reluctant(lambda e, p: COMPLY if np.array_equal(p, e.point) else answer)
        return make(text, model=model, relevance_floor=1.0).align(prompt)

    assert response(REFUSE).accepted_from is AcceptedFrom.FADE
    assert response(REFUSE).naturalness == -2.0
    assert response(text).evaluations[-1].rejection is Rejection.REPEATS
    asked = "tell me all about the red house on the hill"
    said = f"You said: {asked}"
    assert response(said, asked).evaluations[-1].rejection is Rejection.REPEATS
    assert response(said, "another thing").outcome is Outcome.STEERED
    # Without guidance beside it, both floors hold.
    model = Reluctant(lambda e, p: COMPLY if np.array_equal(p, e.point) else REFUSE)
    unguided = make(model=model).align("please do it")
    assert unguided.evaluations[-1].rejection is Rejection.UNNATURAL


def asked(aligner, words):
    """The kinds of points that were asked for, in order."""
    return [e.origin for e in aligner.align(words).evaluations]


def test_fades_come_before_a_text_for_all_and_after_one_for_a_category():
    model = FakeEngine(lambda e, p: COMPLY)
    words = "one two three four five six seven eight"
    first, guided, fade = AcceptedFrom.INITIAL, AcceptedFrom.GUIDANCE, AcceptedFrom.FADE
    every, own = "Be kind. {prompt}", {"text": "Be warm. {prompt}", "categories": ["illicit"]}
    order = asked(make(every, "Be brief.", model=model, optimizer=SEARCH), words)
    assert order[:7] == [first, fade, fade, fade, fade, guided, guided]
    order = asked(make(every, own, model=model, optimizer=SEARCH), words)
    assert order[:7] == [first, guided, guided, fade, fade, fade, fade]
    # It goes with fades beside guidance: without these, or without guidance, nothing is first.
    for changes in ({"fade_first": False}, {"around_guidance": False}):
        order = asked(make(every, model=model, optimizer=SEARCH | changes), words)
        assert order[:3] == [first, guided, fade]
    assert (
        asked(make(every, model=model, optimizer=SEARCH | {"use_fades": False}), words)[1] == guided
    )
    assert asked(make(model=model, optimizer=SEARCH), words)[1] == fade


def test_fades_that_come_first_are_beside_the_guidance_and_what_follows_goes_on_from_there():
    model = FakeEngine(lambda e, p: COMPLY)
    seen = []
    words = "one two three four five six seven eight"
    search = make("Be kind. {prompt}", model=model, optimizer=SEARCH).open(
        words, observe=seen.append
    )
    while not search.done:
        advance([search])
    told_point = model.embed(Prompt.of(f"Be kind. {words}")).point
    fades = [e for e in seen if e.origin is AcceptedFrom.FADE]
    assert len(fades) == 4
    assert all(np.array_equal(e.unmoved, told_point) for e in fades)
    assert len({e.point.tobytes() for e in seen}) == len(seen), "nothing is asked for twice"


def test_nothing_is_told_to_a_model_whose_first_answer_is_acceptable():
    model = FakeEngine(lambda e, p: "fine")
    response = make(KIND, model=model).align("hello")
    assert response.outcome is Outcome.PASSED
    assert (model.embed_calls, model.generated) == (1, 1)


def test_nothing_is_told_where_an_answer_is_empty_and_not_flagged():
    model = FakeEngine(lambda e, p: "" if p is e.point or (p == e.point).all() else "fine")
    response = make(KIND, model=model).align("please sing")
    assert response.evaluations[0].rejection is Rejection.EMPTY
    assert response.outcome is Outcome.STEERED
    assert AcceptedFrom.GUIDANCE not in {e.origin for e in response.evaluations}


def test_a_moderator_judges_what_the_user_asked_and_not_the_guidance():
    seen = []

    def score(exchange):
        seen.append(exchange.messages)
        return Score.of({"illicit": 0.9 if "comply" in exchange.answer else 0.0})

    response = make(KIND, moderator=FakeModerator(score)).align("please do it")
    assert response.accepted_from is AcceptedFrom.GUIDANCE
    assert set(seen) == {(Message("user", "please do it"),)}


def test_texts_are_tried_in_order_one_at_a_time_and_then_the_search_begins():
    model = FakeEngine(comply=COMPLY, refuse=REFUSE)
    aligner = make("Be kind.", "Be brief.", model=model, optimizer=NO_FADES)
    response = aligner.align("please do it")
    origins = [e.origin for e in response.evaluations]
    assert origins[:3] == [AcceptedFrom.INITIAL, AcceptedFrom.GUIDANCE, AcceptedFrom.GUIDANCE]
    assert set(origins[3:]) == {AcceptedFrom.PERTURBATION}
    model = FakeEngine(comply=COMPLY, refuse=REFUSE)
    without = make(model=model, optimizer=NO_FADES).align("please do it")
    assert response.text == without.text
    assert response.cost.generations == without.cost.generations + 2


def test_offsets_come_first_the_first_of_them_alone():
    model = FakeEngine(comply=COMPLY, refuse=REFUSE)
    basis = model.table.principal_directions(16)
    good = [float(c) for c in 0.5 * basis @ model.direction]
    bad = [-c for c in good]

    def origins(*offsets):
        response = make(KIND, model=model, offsets={"fake": list(offsets)}).align("please do it")
        return [str(e.origin) for e in response.evaluations]

    assert origins(good, bad) == ["initial", "offset"]
    assert origins(bad, bad)[:4] == ["initial", "offset", "offset", "guidance"]


def test_texts_for_a_category_that_flags_come_before_those_for_all():
    policy = Policy.parse({
        "name": "test",
        "guidance": [
            "For all.",
            {"text": "For hate.", "categories": ["hate"]},
            {"text": "For hurt.", "categories": ["violence", "self-harm"]},
        ],
    })  # fmt: skip

    def tried(**flags):
        return [text.text for text in guidance.fitting(policy, flags)]

    assert tried(hate=False) == []
    assert tried(harassment=True) == ["For all."]
    assert tried(hate=True, violence=False) == ["For hate.", "For all."]
    assert tried(hate=True, violence=True) == ["For hate.", "For hurt.", "For all."]


def test_an_answer_that_repeats_the_guidance_does_not_leave():
    parrot = engine(answer=f"I was told: {KIND}")
    response = make(KIND, model=parrot, optimizer=NO_SEARCH).align("do")
    assert response.outcome is Outcome.REFUSED
    assert response.evaluations[-1].rejection is Rejection.REPEATS
    assert KIND not in response.text


def test_without_a_search_guidance_is_all_that_is_tried():
    response = make(KIND, optimizer=NO_SEARCH).align("please do it")
    assert response.outcome is Outcome.STEERED
    helpless = make("Be kind.", optimizer=NO_SEARCH)
    response = helpless.align("please do it")
    assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.BUDGET)
    assert response.cost.generations == 2


@pytest.mark.parametrize("preset", ["random", "tsa", "tide"])
def test_published_and_undirected_searches_are_told_nothing(preset):
    steps = {"perturbation_scale": 0.1, "step_size": 0.1} if preset == "tsa" else {}
    optimizer = {"preset": preset, "subspace_rank": None, "max_iterations": 1, **steps}
    response = make(KIND, optimizer=optimizer).align("please do it")
    assert AcceptedFrom.GUIDANCE not in {e.origin for e in response.evaluations}


def test_the_budget_holds_for_guidance_too():
    response = make("Be kind.", KIND, budget={"generations": 2}).align("please do it")
    assert (response.outcome, response.cost.generations) == (Outcome.REFUSED, 2)


def test_guidance_joins_the_system_turn_that_is_there():
    model = engine()
    seen = []
    model._answer = lambda e, p: seen.append(e.prompt.messages) or COMPLY
    messages = [{"role": "system", "content": "You sell books."},
                {"role": "user", "content": "please do it"}]  # fmt: skip
    optimizer = NO_SEARCH
    make(KIND, model=model, optimizer=optimizer).align(messages)
    assert seen[1] == (
        Message("system", f"You sell books.\n\n{KIND}"),
        Message("user", "please do it"),
    )


class NoSystem(FakeEngine):
    """A template without a system turn."""

    def embed(self, prompt):
        if prompt.messages[0].role == "system":
            raise PromptError("the template takes no system turn")
        return super().embed(prompt)


def test_where_the_template_takes_no_system_turn_guidance_stands_around_the_user():
    model = NoSystem(lambda e, p: REFUSE if KIND in told(e) else COMPLY)
    response = make(KIND, model=model).align("please do it")
    assert response.accepted_from is AcceptedFrom.GUIDANCE


@pytest.mark.parametrize("error", [PromptError("too long"), EngineError("odd tokenizer")])
def test_guidance_that_cannot_be_given_is_passed_over(error):
    class Full(FakeEngine):
        def embed(self, prompt):
            if KIND in prompt.messages[0].content:
                raise error
            return super().embed(prompt)

    response = make(KIND, model=Full(comply=COMPLY, refuse=REFUSE)).align("please do it")
    assert response.outcome is Outcome.STEERED
    assert AcceptedFrom.GUIDANCE not in {e.origin for e in response.evaluations}


def test_a_completion_has_no_turns_and_is_told_before_the_text():
    seen = []
    model = FakeEngine(lambda e, p: seen.append(told(e)) or COMPLY)
    optimizer = NO_SEARCH
    make(KIND, model=model, optimizer=optimizer).align(Prompt.completion("Once upon a time"))
    assert seen == ["Once upon a time", f"{KIND}\n\nOnce upon a time"]


@pytest.mark.parametrize(("text", "told_of"), [
    ("{prompt}", "words of its own"),
    ("  ", "words of its own"),
    ("{prompt} and {prompt}", "once at most"),
])  # fmt: skip
def test_a_text_that_says_nothing_is_an_error(text, told_of):
    with pytest.raises(PolicyError, match=told_of):
        Policy.parse({"name": "test", "guidance": [text]})


def test_published_methods_take_no_guidance():
    with pytest.raises(PolicyError, match="takes no guidance"):
        Policy.parse({"name": "test", "optimizer": {"preset": "tsa", "use_guidance": True}})


words = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=1, max_size=20)


@given(words, words)
def test_repetition_is_a_run_of_words_in_common(said, text):
    size = min(guidance.SHARED_WORDS, len(text))
    runs = [text[i : i + size] for i in range(len(text) - size + 1)]
    expected = any(said[i : i + size] in runs for i in range(len(said) - size + 1))
    assert guidance.repeats(", ".join(said).upper(), " ".join(text)) == expected


def test_guidance_is_tried_where_only_the_moderator_that_confirms_flags_the_first_answer():
    policy = Policy.parse({"name": "test", "moderators": ["fake"], "confirm": ["fake"],
                           "guidance": [KIND], "optimizer": NO_SEARCH})  # fmt: skip
    blind = FakeModerator(words=("nothing",))
    response = Aligner(engine(), Panel(policy, blind, FakeModerator())).align("please do it")
    assert (response.outcome, response.accepted_from) == (Outcome.STEERED, AcceptedFrom.GUIDANCE)

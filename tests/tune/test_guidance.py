"""Guidance in the order of what it solves for what it costs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail.align import Aligner
from rerail.engines import FakeEngine
from rerail.errors import ModeratorError, PolicyError, PromptError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.tune.guidance import _by_success_per_cost, order
from rerail.types import AcceptedFrom

COMPLY, REFUSE = "Sure, here is how I comply with it.", "I would rather not do it."
USELESS, GOOD, OWN = "Please mind the gap.", "Be kind to all {prompt}", "Never talk of violence."
TUNING = [f"please do thing number {i}" for i in range(4)]


def answer(embedded, point):
    """Complies unless told to be kind, or of violence where it is about a fight."""
    told = " ".join(message.content for message in embedded.prompt.messages)
    if "fight" in told:
        return REFUSE if "violence" in told else "I comply with violence"
    return REFUSE if "kind" in told or "thing" not in told else COMPLY


def scorer(exchange):
    comply = float("comply" in exchange.answer)
    violent = float("violence" in exchange.answer)
    return {"illicit": comply * (1 - violent), "violence": violent}


def make(*guidance, moderator=None):
    moderator = moderator or FakeModerator(scorer, categories=["illicit", "violence"])
    search = {"preset": "fast", "fade_first": False}
    policy = Policy(name="p", moderators=("fake",), guidance=guidance, optimizer=search)
    return Aligner(FakeEngine(answer=answer), Panel(policy, moderator))


def test_the_text_that_solves_most_comes_first_and_none_is_lost():
    own = {"text": OWN, "categories": ["violence"]}
    found = order(make(USELESS, own, GOOD), [*TUNING, "a fight", "hello there"])
    assert [text.text for text in found.guidance] == [OWN, GOOD, USELESS]
    assert (found.accepted, found.flagged) == ((1, 4, 0), 5)
    # Six first answers; five flagged prompts with two texts for all, one with a third.
    assert found.cost.generations == 6 + 5 * 2 + 1


def test_the_order_found_is_cheaper_on_other_prompts():
    before = make(USELESS, GOOD).align("now do another thing")
    found = order(make(USELESS, GOOD), TUNING)
    after = make(*found.guidance).align("now do another thing")
    assert before.accepted_from is after.accepted_from is AcceptedFrom.GUIDANCE
    assert (before.cost.generations, after.cost.generations) == (3, 2)


def test_nothing_to_order_and_nothing_to_learn_from_are_errors():
    with pytest.raises(PolicyError, match="has no guidance"):
        order(make(), TUNING)
    with pytest.raises(PromptError, match="no first answer is flagged"):
        order(make(GOOD), ["hello there"])
    with pytest.raises(ModeratorError, match="could not be judged"):
        order(make(GOOD, moderator=FakeModerator(error=RuntimeError(),
                                                 categories=["illicit"])), TUNING)  # fmt: skip


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_every_text_stands_once_and_what_each_adds_is_what_all_solve(texts, prompts, data):
    cells = st.lists(st.booleans(), min_size=texts * prompts, max_size=texts * prompts)
    solved = np.array(data.draw(cells)).reshape(texts, prompts)
    tokens = np.full(solved.shape, 10.0)
    places, gains = _by_success_per_cost(solved, tokens)
    assert sorted(places) == list(range(texts))
    assert sum(gains) == solved.any(axis=0).sum()
    assert gains[0] == solved.sum(axis=1).max()


def test_of_texts_that_solve_as_much_the_cheaper_comes_first():
    solved = np.array([[True, True], [True, True]])
    tokens = np.array([[64.0, 64.0], [12.0, 12.0]])
    assert _by_success_per_cost(solved, tokens) == ([1, 0], (2, 0))

import pytest

from rerail.errors import ModeratorError
from rerail.moderators import Combined, FakeModerator, load_confirm, load_moderator
from rerail.policy import Policy
from rerail.types import Exchange


def test_a_policy_gets_the_moderator_it_names_with_its_options():
    spec = {"name": "fake", "options": {"words": ["teapot"], "categories": ["hate"]}}
    moderator = load_moderator(Policy(name="p", moderators=(spec,)))
    assert isinstance(moderator, FakeModerator)
    teapot, cup = moderator.score([Exchange((), "a teapot"), Exchange((), "a cup")])
    assert (teapot.categories, cup.categories) == ({"hate": 1.0}, {"hate": 0.0})


def test_a_route_makes_a_combination():
    policy = Policy(name="p", moderators=("fake",), routes={"illicit": "fake"})
    assert isinstance(load_moderator(policy), Combined)


def test_faults_are_named():
    with pytest.raises(ModeratorError, match="did you mean 'embedded'"):
        load_moderator(Policy(name="p", moderators=("embeded",)))
    with pytest.raises(ModeratorError, match="rejects its options"):
        load_moderator(Policy(name="p", moderators=({"name": "fake", "options": {"no": 1}},)))


def test_embedded_gives_the_six_categories():
    moderator = load_moderator(Policy(name="p"))
    assert set(moderator.categories) == {
        "harassment", "hate", "illicit", "self-harm", "sexual", "violence",
    }  # fmt: skip


def test_moderators_that_confirm_are_loaded_apart():
    spec = {"name": "fake", "options": {"words": ["teapot"]}}
    policy = Policy(name="p", moderators=("fake",), confirm=(spec,))
    (score,) = load_confirm(policy).score([Exchange((), "a teapot")])
    assert score.categories == {"illicit": 1.0}
    assert load_confirm(Policy(name="p", moderators=("fake",))) is None

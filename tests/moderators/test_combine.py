import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail.errors import ModeratorError
from rerail.moderators import Combined, FakeModerator
from rerail.moderators.base import ACCESS_DENIED
from rerail.types import Exchange, Score

EXCHANGES = [Exchange((), "a"), Exchange((), "b")]


def constant(name, **scores):
    return FakeModerator(lambda exchange: scores, categories=tuple(scores), name=name)


unit = st.floats(0, 1)


@given(a=unit, b=unit, c=unit)
def test_max_and_mean_are_taken_over_the_members_that_give_a_category(a, b, c):
    one, two = constant("one", hate=a, sexual=c), constant("two", hate=b)
    (most, _), (mean, _) = (Combined([one, two], how).score(EXCHANGES) for how in ("max", "mean"))
    assert most.categories == {"hate": max(a, b), "sexual": c}
    assert mean.categories == pytest.approx({"hate": (a + b) / 2, "sexual": c})


def test_a_route_makes_one_member_count():
    one, two = constant("one", hate=0.9, sexual=0.2), constant("two", hate=0.1, sexual=0.8)
    (score, _) = Combined([one, two], "max", {"hate": "two"}).score(EXCHANGES)
    assert score.categories == {"hate": 0.1, "sexual": 0.8}


def test_one_missing_verdict_is_no_verdict():
    silent = FakeModerator(
        lambda e: Score.unscored("refused") if e.answer == "b" else {"hate": 0.0},
        categories=("hate",), name="silent",
    )  # fmt: skip
    first, second = Combined([constant("one", hate=0.3), silent]).score(EXCHANGES)
    assert first.categories == {"hate": 0.3}
    assert second.cause == "silent: refused"
    assert not second.scored
    assert second.categories == {"hate": 0.3}  # may reject, never accepts


def test_an_outage_of_one_does_not_hide_that_another_was_denied_access():
    down, denied = (
        FakeModerator(lambda exchange, cause=cause: Score.unscored(cause), name=name)
        for name, cause in (("one", "HTTP 503"), ("two", f"{ACCESS_DENIED} (HTTP 401)"))
    )
    (score,) = Combined([down, denied]).score(EXCHANGES[:1])
    assert score.cause == "one: HTTP 503; two: access denied (HTTP 401)"


def test_each_member_is_asked_once_per_batch():
    one, two = constant("one", hate=0.1), constant("two", hate=0.2)
    Combined([one, two]).score(EXCHANGES)
    assert one.calls == two.calls == [tuple(EXCHANGES)]


def test_faults_are_named():
    one = constant("one", hate=0.1)
    with pytest.raises(ModeratorError, match="'two' does not give it"):
        Combined([one], routes={"hate": "two"})
    with pytest.raises(ModeratorError, match="'one' does not give it"):
        Combined([one], routes={"sexual": "one"})
    with pytest.raises(ModeratorError, match="name of its own"):
        Combined([one, one])
    with pytest.raises(ModeratorError, match="at least one"):
        Combined([])

"""Counters pass through whatever a service is wrapped in, and names of one's own stay apart."""

from __future__ import annotations

import pytest

from rerail.errors import PolicyError
from rerail.moderators import (
    Cached,
    Combined,
    FakeModerator,
    Stats,
    TimeLimited,
    counters,
    load_confirm,
    load_moderator,
)
from rerail.moderators.named import Named
from rerail.policy import ModeratorSpec, Policy
from rerail.types import Exchange

EXCHANGES = [Exchange((), "fine"), Exchange((), "we comply")]


class Counting(FakeModerator):
    """Counts like a service does."""

    def stats(self) -> Stats:
        batches = [len(call) for call in self.calls]
        return Stats(verdicts=sum(batches), requests=len(batches))


def test_through_cache_guard_and_combination() -> None:
    one, two, silent = Counting(name="one"), Counting(name="two"), FakeModerator(name="silent")
    moderator = Cached(TimeLimited(Combined([one, silent, Named(two, "second")]), 5.0))
    assert counters(moderator) == {"one": Stats(), "second": Stats()}
    moderator.score(EXCHANGES)
    moderator.score(EXCHANGES)  # known by now
    moderator.score([Exchange((), "new")])
    assert counters(moderator) == {
        "one": Stats(verdicts=3, requests=2),
        "second": Stats(verdicts=3, requests=2),
    }
    assert moderator.stats() == counters(moderator)


def test_what_does_not_count_has_no_counters() -> None:
    assert counters(FakeModerator()) == {}
    assert counters(Cached(TimeLimited(Named(FakeModerator(), "mine"), 5.0))) == {}


def two(**routes: str) -> Policy:
    def fake(name: str, word: str) -> ModeratorSpec:
        return ModeratorSpec(
            name=name, kind="fake", options={"words": [word], "categories": ["hate", "sexual"]}
        )

    return Policy(name="p", moderators=(fake("a", "red"), fake("b", "blue")), routes=routes)


def test_two_of_a_kind_in_one_policy() -> None:
    (red, blue) = (Exchange((), "red"), Exchange((), "blue"))
    both = load_moderator(two())
    assert both.name == "a+b"
    assert [s.categories for s in both.score([red, blue])] == [{"hate": 1.0, "sexual": 1.0}] * 2
    routed = load_moderator(two(hate="a", sexual="b"))
    assert [s.categories for s in routed.score([red, blue])] == [
        {"hate": 1.0, "sexual": 0.0},
        {"hate": 0.0, "sexual": 1.0},
    ]


def test_two_of_a_kind_that_confirm() -> None:
    specs = [{"name": name, "kind": "fake"} for name in ("a", "b")]
    confirm = load_confirm(Policy.parse({"name": "p", "confirm": specs}))
    assert confirm is not None
    assert confirm.name == "a+b"


def test_a_kind_that_is_not_said_does_not_change_a_policy() -> None:
    plain = Policy(name="p", moderators=("fake",))
    assert plain.moderators[0].registered == "fake"
    assert plain.model_dump()["moderators"][0] == {"name": "fake", "options": {}}
    named = Policy(name="p", moderators=(ModeratorSpec(name="fake", kind="fake"),))
    assert named.model_dump()["moderators"][0]["kind"] == "fake"
    assert named.version != plain.version
    assert Policy.from_yaml(named.to_yaml()) == named


def test_the_error_of_a_name_that_stands_twice_says_what_to_do() -> None:
    with pytest.raises(PolicyError, match=r"name of its own.*kind: http"):
        Policy.parse({"name": "p", "moderators": ["fake", "fake"]})

import threading
import time

import pytest

from rerail.moderators import FakeModerator, TimeLimited
from rerail.types import EMPTY_ANSWER, Exchange, Message, Score

EXCHANGES = [Exchange((), "a"), Exchange((), " \n"), Exchange((), "comply")]


class Gives:
    name, categories = "gives", ("illicit", "hate")

    def __init__(self, verdicts):
        self.verdicts = verdicts

    def score(self, exchanges):
        return self.verdicts


GOOD = Score.of({"illicit": 0.2, "hate": 0.3})


def test_verdicts_pass_in_order_around_empty_answers():
    inner = FakeModerator()
    scores = TimeLimited(inner, 5).score(EXCHANGES)
    assert [s.cause for s in scores] == [None, EMPTY_ANSWER, None]
    assert (scores[0].categories["illicit"], scores[2].categories["illicit"]) == (0.0, 1.0)
    assert inner.calls == [(EXCHANGES[0], EXCHANGES[2])]


@pytest.mark.parametrize(
    ("verdicts", "cause"),
    [
        (None, "no list of 2 verdicts"),
        ([], "no list of 2 verdicts"),
        ([GOOD] * 3, "no list of 2 verdicts"),
        ("ab", "no list of 2 verdicts"),
        ([0.1, 0.2], "gave a float, not a Score"),
        ([None, None], "gave a NoneType, not a Score"),
        ([Score.of({"illicit": 0.2})] * 2, "no score for hate"),
        ([Score.of({})] * 2, "no score for illicit, hate"),
    ],
)
def test_anything_but_one_whole_verdict_each_is_unscored(verdicts, cause):
    first, _, last = TimeLimited(Gives(verdicts), 5).score(EXCHANGES)
    assert not first.scored
    assert not last.scored
    assert cause in first.cause


def test_one_bad_verdict_does_not_spoil_the_others():
    first, _, last = TimeLimited(Gives([GOOD, 1.0]), 5).score(EXCHANGES)
    assert first is GOOD
    assert not last.scored


def test_an_exception_is_a_cause_and_its_message_is_not_kept():
    moderator = FakeModerator(error=ValueError("about: SECRET"))
    (score,) = TimeLimited(moderator, 5).score(EXCHANGES[:1])
    assert score.cause == "fake: raised ValueError"


def test_a_moderator_that_cannot_be_asked_leaves_answers_unscored(monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    (score,) = TimeLimited(FakeModerator(), 5).score(EXCHANGES[:1])
    assert score.cause == "fake: no thread is left to ask it in"


def test_a_hanging_moderator_is_left_behind():
    release = threading.Event()

    class Hangs(Gives):
        def score(self, exchanges):
            release.wait(60)
            return []

    (score,) = TimeLimited(Hangs(None), 0.05).score(EXCHANGES[:1])
    assert score.cause == "gives: no verdict within 0.05 s"
    release.set()


def of(*contents):
    return [Exchange((Message("user", content),), "an answer") for content in contents]


@pytest.mark.parametrize("lost", [False, True])
def test_where_a_batch_fails_each_conversation_is_asked_for_by_itself(lost):
    class Fragile(FakeModerator):
        def score(self, exchanges):
            verdicts = super().score(exchanges)
            if all(e.messages[0].content != "odd" for e in exchanges):
                return verdicts
            if lost:
                return verdicts[1:]
            raise RuntimeError

    inner = Fragile()
    first, odd, second, other = TimeLimited(inner, 5).score(of("a", "odd", "a", "b"))
    assert first.scored
    assert second.scored
    assert other.scored
    cause = "gave no list of 1 verdicts" if lost else "raised RuntimeError"
    assert odd.cause == f"fake: {cause}"
    assert [len(call) for call in inner.calls] == [4, 2, 1, 1]


def test_what_is_asked_again_keeps_to_the_time_of_the_batch():
    started = time.monotonic()
    inner = FakeModerator(error=RuntimeError(), delay=0.1)
    scores = TimeLimited(inner, 0.25).score(of(*"abcdefgh"))
    assert time.monotonic() - started < 0.6
    assert not any(score.scored for score in scores)
    assert len(inner.calls) <= 4


def test_a_moderator_that_hangs_is_asked_once():
    inner = FakeModerator(delay=1.0)
    scores = TimeLimited(inner, 0.05).score(of("a", "b"))
    assert {score.cause for score in scores} == {"fake: no verdict within 0.05 s"}
    assert len(inner.calls) == 1

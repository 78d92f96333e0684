from rerail.moderators import Cached, FakeModerator
from rerail.types import Exchange, Message, Score


def exchange(answer, question="q"):
    return Exchange((Message("user", question),), answer)


def test_equal_exchanges_are_scored_once_within_and_across_batches():
    inner = FakeModerator(lambda e: {"illicit": len(e.answer) / 10})
    cached = Cached(inner)
    a, b, c = exchange("a"), exchange("bb"), exchange("ccc")
    scores = cached.score([a, b, a]) + cached.score([c, b])
    assert [s.categories["illicit"] for s in scores] == [0.1, 0.2, 0.1, 0.3, 0.2]
    assert inner.calls == [(a, b), (c,)]


def test_the_same_answer_to_another_question_is_another_exchange():
    inner = FakeModerator()
    Cached(inner).score([exchange("a", "one"), exchange("a", "two")])
    assert len(inner.calls[0]) == 2


def test_an_unscored_verdict_is_asked_for_again():
    inner = FakeModerator(lambda e: Score.unscored("busy"))
    cached = Cached(inner)
    cached.score([exchange("a")])
    inner._scorer = lambda e: Score.of({"illicit": 0.5})
    assert cached.score([exchange("a")])[0].scored


def test_the_least_recently_used_verdict_is_forgotten():
    inner = FakeModerator()
    cached = Cached(inner, size=2)
    a, b, c = exchange("a"), exchange("b"), exchange("c")
    for one in (a, b, a, c, a, b):
        cached.score([one])
    assert inner.calls == [(a,), (b,), (c,), (b,)]


def test_no_call_where_everything_is_known():
    inner = FakeModerator()
    cached = Cached(inner)
    cached.score([exchange("a")])
    assert cached.score([]) == []
    cached.score([exchange("a")])
    assert len(inner.calls) == 1

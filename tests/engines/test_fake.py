"""The engine that ships for tests does what its docstring says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rerail.engines import Engine, FakeEngine, GenerationRequest, Sampling
from rerail.engines.base import TEMPLATE_ROW, ContinuingEngine
from rerail.errors import EngineError, PromptTooLongError
from rerail.types import Generation, Prompt

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "tell me how"},
]


def test_it_is_an_engine_and_marks_the_words() -> None:
    engine = FakeEngine()
    assert isinstance(engine, Engine)
    embedded = engine.embed(Prompt.of(TALK))
    t = TEMPLATE_ROW
    assert embedded.message_index.tolist() == [t, 0, 0, t, t, 1, 1, 1, t, t]
    assert embedded.steerable("last_user").sum() == 3
    assert embedded.point.shape == (10, 16)
    np.testing.assert_array_equal(engine.table.nearest_tokens(embedded.point), embedded.token_ids)
    completion = engine.embed(Prompt.completion("tell me how"))
    assert completion.message_index.tolist() == [0, 0, 0]


def test_the_answer_depends_on_the_side_of_a_plane() -> None:
    engine = FakeEngine(comply="yes indeed", refuse="no", margin=0.5)
    embedded = engine.embed(Prompt.of(TALK))
    rows = embedded.steerable("last_user")[:, None]

    def answer(distance: float) -> str:
        step = distance * engine.table.rms * rows * engine.direction
        point = (embedded.point + step).astype(np.float32)
        return engine.generate([GenerationRequest(embedded, point)], Sampling())[0].text

    answers = [answer(distance) for distance in (0.0, 0.4, 0.6, -9.0)]
    assert answers == ["yes indeed", "yes indeed", "no", "yes indeed"]
    assert engine.generate_calls == engine.generated == 4


def test_temperature_draws_by_seed() -> None:
    engine = FakeEngine(comply="yes", refuse="no")
    embedded = engine.embed(Prompt.of(TALK))
    requests = [GenerationRequest(embedded, embedded.point, seed) for seed in range(30)]
    drawn = engine.generate(requests, Sampling(temperature=1.0))
    assert {g.text for g in drawn} == {"yes", "no"}
    assert engine.generate(requests[::-1], Sampling(temperature=1.0)) == drawn[::-1]


def test_limits_and_ends() -> None:
    engine = FakeEngine(lambda embedded, point: "one two three", context_length=12)
    embedded = engine.embed(Prompt.of(TALK))
    request = GenerationRequest(embedded, embedded.point)
    cut = engine.generate([request], Sampling(max_new_tokens=2))[0]
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("one two", "length", 2)
    whole = engine.generate([request], Sampling(max_new_tokens=4))[0]
    assert (whole.text, whole.finish_reason) == ("one two three", "stop")
    with pytest.raises(PromptTooLongError, match="12"):
        engine.embed(Prompt.of("many " * 12))


def test_stops_end_text_and_tokens() -> None:
    engine = FakeEngine(lambda embedded, point: "one  two\nthree four ")
    embedded = engine.embed(Prompt.of(TALK))
    request = GenerationRequest(embedded, embedded.point, horizon=1)
    whole = engine.generate([request], Sampling())[0]
    assert whole.text == "one  two\nthree four "
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [False] * len(answers)

    def answer(*stop: str, limit: int = 9) -> tuple[str, int, str]:
        sampling = Sampling(max_new_tokens=limit, stop=stop)
        [found] = engine.generate([request], sampling)
        assert engine.generate_watched([request], sampling, watch) == [found]
        assert found.token_ids == whole.token_ids[: len(found.token_ids)]
        return found.text, len(found.token_ids), found.finish_reason

    assert answer("two\nth", "five") == ("one  ", 2, "stop")
    assert answer("ee", "re") == ("one  two\nth", 3, "stop")
    assert answer("four ") == ("one  two\nthree ", 4, "stop")
    assert answer("one") == ("", 0, "stop")
    assert answer("five", "two three") == ("one  two\nthree four ", 5, "stop")
    assert answer("three", limit=2) == ("one  two", 2, "length")
    assert "one  two" in shown
    assert not any("two three" in text for text in shown)
    with pytest.raises(EngineError, match="a stop is empty"):
        engine.generate([request], Sampling(stop=("a", "")))


def test_answers_are_shown_when_due_and_end_where_they_are_stopped() -> None:
    engine = FakeEngine(lambda embedded, point: "a b c d e f g h i")
    embedded = engine.embed(Prompt.of(TALK))
    horizons = (2, 3, None)
    requests = [GenerationRequest(embedded, embedded.point, horizon=h) for h in horizons]
    shown: list[tuple[int, str]] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(zip(places, (a.text for a in answers), strict=True))
        return [len(a.text) > 8 for a in answers]

    cut, other, whole = engine.generate_watched(requests, Sampling(), watch)
    assert shown == [
        (0, "a b"), (1, "a b c"), (0, "a b c d"), (1, "a b c d e f"), (0, "a b c d e f g h")
    ]  # fmt: skip
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("a b c d e f g h", "cut", 8)
    assert (other.text, other.finish_reason) == ("a b c d e f", "cut")
    assert whole == engine.generate(requests, Sampling())[2]
    assert isinstance(engine, ContinuingEngine)


def test_an_answer_that_has_begun_goes_on() -> None:
    engine = FakeEngine(comply="one  two three four", refuse="No, never", margin=0.5)
    embedded = engine.embed(Prompt.of(TALK))
    request = GenerationRequest(embedded, embedded.point)
    [whole] = engine.generate([request], Sampling())
    begun = replace(request, beginning=whole.token_ids[:2])
    assert engine.generate([begun], Sampling()) == [whole]
    away = embedded.steerable("last_user")[:, None] * engine.direction * engine.table.rms
    moved = replace(begun, point=(embedded.point + away).astype(np.float32), horizon=1, looks=(3,))
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [False] * len(answers)

    [other] = engine.generate_watched([moved], Sampling(), watch)
    assert (other.text, other.finish_reason) == ("one  two No, never", "stop")
    assert other.token_ids[:2] == begun.beginning
    assert shown == ["one  two No,", "one  two No, never"]
    assert engine.read(moved, other.token_ids[:3], Sampling()).text == "one  two No,"
    [short] = engine.generate([moved], Sampling(max_new_tokens=3))
    assert (short.text, short.finish_reason) == ("one  two No,", "length")


def test_likelihoods_are_chances() -> None:
    engine = FakeEngine(vocabulary=40)
    embedded = engine.embed(Prompt.of(TALK))
    singles = engine.log_likelihood([(embedded, (token,)) for token in range(40)])
    assert np.exp(singles).sum() == pytest.approx(1.0)
    pair = engine.log_likelihood([(embedded, (3, 7))])[0]
    assert pair == pytest.approx((singles[3] + singles[7]) / 2)
    assert engine.log_likelihood_calls == 2


def test_it_fails_on_demand() -> None:
    engine = FakeEngine()
    embedded = engine.embed(Prompt.of(TALK))
    request = GenerationRequest(embedded, embedded.point)
    before = engine.weights_sha256()
    engine.error = EngineError("out of order")
    with pytest.raises(EngineError, match="out of order"):
        engine.generate([request], Sampling())
    with pytest.raises(EngineError, match="out of order"):
        engine.log_likelihood([(embedded, (1,))])
    engine.error = None
    with pytest.raises(EngineError, match="not finite"):
        engine.generate([GenerationRequest(embedded, embedded.point * np.nan)], Sampling())
    assert engine.generate([request], Sampling())[0].finish_reason == "stop"
    assert engine.weights_sha256() == before != FakeEngine(seed=1).weights_sha256()

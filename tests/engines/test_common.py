"""Stops cut text and tokens alike, and are found while the tokens come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rerail.engines import Sampling
from rerail.engines._common import UNSETTLED, Decode, StopFinder, decoder, up_to_stop
from tests.engines import tiny

TEXT = (
    "Grüße, 你好 — how do I bake a loaf of bread? Step by step: 🍞🥖, ça va… 你好你好你好 the end."
)
KINDS: dict[str, Callable[[], Any]] = {
    "byte level": tiny.byte_level,
    "byte fallback": tiny.metaspace,
    "unigram": tiny.unigram,
    "words": tiny.word_piece,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def texts_of(tokenizer: Any) -> list[list[int]]:
    """Tokens of a text, and some at random, special ones among them."""
    rng = np.random.default_rng(0)
    own = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    drawn = [rng.integers(len(tokenizer), size=60).tolist() for _ in range(4)]
    return [own, *([] if "<0x00>" in tokenizer.get_vocab() else drawn)]


def before_a_stop(text: str, stops: tuple[str, ...]) -> str:
    """What is left where a text ends with its first complete stop."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def shortest(tokens: list[int], decode: Decode, text: str) -> int:
    return next(n for n in range(len(tokens) + 1) if decode(tokens[:n]).startswith(text))


def stops_in(text: str) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(1)
    places = [(start, start + n) for start in range(0, len(text) - 4, 7) for n in (1, 2, 4)]
    single = [text[start:end] for start, end in places]
    pairs = [(single[i], single[j]) for i, j in rng.integers(len(single), size=(9, 2))]
    return [*((stop,) for stop in single), *pairs, ("none of this",), ("no", "such stop")]


def test_text_and_tokens_end_before_the_first_stop(tokenizer: Any) -> None:
    decode = decoder(tokenizer)
    for tokens in texts_of(tokenizer):
        whole = decode(tokens)
        for stops in stops_in(whole):
            sampling = Sampling(stop=stops)
            answer = up_to_stop(tokens, decode, sampling, "length")
            text = before_a_stop(whole, stops)
            assert answer.text == text
            assert answer.finish_reason == ("length" if text == whole else "stop")
            count = len(tokens) if text == whole else shortest(tokens, decode, text)
            assert answer.token_ids == tuple(tokens[:count])


def test_a_stop_is_found_with_the_token_that_completes_it(tokenizer: Any) -> None:
    decode = decoder(tokenizer)
    for tokens in texts_of(tokenizer):
        for stops in stops_in(decode(tokens)):
            sampling = Sampling(stop=stops)
            finder = StopFinder(decode, sampling)
            found = [n for n in range(1, len(tokens) + 1) if finder.found(0, tokens[:n])][:1]
            spelt = [decode(tokens[:n]).rstrip(UNSETTLED) for n in range(1, len(tokens) + 1)]
            first = [n for n, text in enumerate(spelt, 1) if sampling.cut(text) != text][:1]
            assert found == first
            if found:
                begun = up_to_stop(tokens[: found[0]], decode, sampling, "length")
                assert begun == up_to_stop(tokens, decode, sampling, "length")


def test_answers_side_by_side_have_ends_of_their_own() -> None:
    tokenizer = tiny.byte_level()
    finder = StopFinder(decoder(tokenizer), Sampling(stop=("a loaf",)))
    tokens = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    other = tokenizer(TEXT.replace("loaf", "load"), add_special_tokens=False)["input_ids"]
    found = [
        (finder.found(0, tokens[:n]), finder.found(1, other[:n])) for n in range(1, len(tokens) + 1)
    ]
    assert [any(row) for row in zip(*found, strict=True)] == [True, False]


def test_only_the_end_of_an_answer_is_decoded() -> None:
    tokenizer = tiny.byte_level()
    tokens = tokenizer(TEXT, add_special_tokens=False)["input_ids"] * 20
    asked: list[int] = []

    def decode(some: list[int]) -> str:
        asked.append(len(some))
        return str(decoder(tokenizer)(some))

    finder = StopFinder(decode, Sampling(stop=("a stop",)))
    assert not any(finder.found(0, tokens[:n]) for n in range(1, len(tokens) + 1))
    assert len(tokens) > 1000
    assert max(asked) < 50


def test_a_stop_that_is_an_answers_first_word_leaves_no_tokens(tokenizer: Any) -> None:
    decode = decoder(tokenizer)
    tokens = tokenizer("how do i bake", add_special_tokens=False)["input_ids"]
    answer = up_to_stop(tokens, decode, Sampling(stop=("how",)), "length")
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "stop")

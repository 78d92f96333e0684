"""What engines have in common, whatever runs the model: checks, ends and stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling
from rerail.errors import EngineError
from rerail.types import Generation

Finish = Literal["stop", "length"]

Decode = Callable[[list[int]], str]
"""The text that tokens spell."""

UNSETTLED = "\ufffd"
"""At the end of a text: bytes of a character whose other tokens are still to come, perhaps."""

_MARGIN = 4
"""Characters that the first of some tokens may spell otherwise than behind others."""


def check_sampling(sampling: Sampling) -> None:
    """Refuse what no answer can be drawn by.

    Raises:
        EngineError: no token is asked for, or a stop is empty.
    """
    if sampling.max_new_tokens < 1:
        raise EngineError("max_new_tokens is below 1: ask for at least one token")
    if sampling.max_reasoning_tokens < 0:
        raise EngineError("max_reasoning_tokens is below 0: 0 allows no reasoning")
    if "" in sampling.stop:
        raise EngineError("a stop is empty, and every text begins with it: leave it out")


def check_points(requests: Sequence[GenerationRequest], largest: float = math.inf) -> None:
    """Refuse points that no model can answer from.

    Args:
        requests: with the points.
        largest: number that the model's dtype can hold.

    Raises:
        EngineError: a point has another shape than its prompt's, or is not finite, in the model's
            dtype too.
    """
    for request in requests:
        expected = request.embedded.point.shape
        if request.point.shape != expected:
            raise EngineError(
                f"the point has shape {request.point.shape}, the prompt's has {expected}: "
                "move the prompt's own point"
            )
        if not np.isfinite(request.point).all():
            raise EngineError(
                "the point is not finite: make perturbation_scale or step_size smaller"
            )
        if np.abs(request.point).max(initial=0.0) > largest:
            raise EngineError(
                f"the point is not finite in the model's dtype, which ends at {largest:g}: run the "
                "model in bfloat16, or make perturbation_scale or step_size smaller"
            )


def scored_tokens(
    requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]], given: Sequence[int]
) -> list[int]:
    """How many tokens of each answer have a part in its log-likelihood.

    Raises:
        EngineError: an answer has none.
    """
    scored = [
        len(tokens) - before
        for (_, tokens), before in zip(requests, given or [0] * len(requests), strict=True)
    ]
    if any(count < 1 for count in scored):
        raise EngineError("an answer without tokens has no log-likelihood")
    return scored


def end_tokens(*sources: Any) -> list[int]:
    """Tokens that end an answer, according to configs and a tokenizer."""
    found: set[int] = set()
    for source in sources:
        value: Any = getattr(source, "eos_token_id", None)
        if value is not None:
            found |= {value} if isinstance(value, int) else set(value)
    return sorted(found)


def decoder(tokenizer: Any, *, special: bool = False) -> Decode:
    """How answers are spelt: without special tokens, or with them."""
    return partial(
        tokenizer.decode, skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )


def up_to_stop(
    tokens: list[int], decode: Decode, sampling: Sampling, finish_reason: Finish
) -> Generation:
    """The answer that tokens spell, cut before the first stop in text and tokens alike.

    Kept is the shortest run of tokens that spells the text before the stop; the last of them may
    spell a part of the stop, too.

    Args:
        tokens: of the answer.
        decode: what some of them spell, from the first.
        sampling: with the stops.
        finish_reason: of an answer without a stop.
    """
    whole = decode(tokens)
    text = sampling.cut(whole)
    if text == whole:
        return Generation(text, tuple(tokens), finish_reason)
    count = len(tokens)
    for fewer in range(count - 1, -1, -1):
        spelt = decode(tokens[:fewer])
        if spelt.startswith(text):
            count = fewer
        elif not spelt.endswith(UNSETTLED):
            break
    return Generation(text, tuple(tokens[:count]), "stop")


class StopFinder:
    """Finds stops in answers while their tokens come.

    For each token only the end of the answer is decoded, little more than the longest stop.

    Args:
        decode: what tokens spell.
        sampling: with at least one stop.
    """

    def __init__(self, decode: Decode, sampling: Sampling) -> None:
        self._decode = decode
        self._sampling = sampling
        self._enough = max(map(len, sampling.stop)) + _MARGIN
        self._ends: dict[Hashable, tuple[int, int]] = {}  # where an end begins, and the next one

    def found(self, row: Hashable, tokens: list[int]) -> bool:
        """Whether an answer holds a stop; to be asked after each of its tokens.

        Args:
            row: tells the answer from others.
            tokens: all of it so far.
        """
        begin, later = self._ends.get(row, (0, 0))
        text = self._decode(tokens[begin:])
        settled = text.rstrip(UNSETTLED)
        if settled == text and len(self._decode(tokens[later:])) > self._enough:
            self._ends[row] = later, len(tokens)
        # What the end of an answer seems to spell counts only if the whole answer spells it.
        return self._holds(settled) and self._holds(self._decode(tokens))

    def _holds(self, text: str) -> bool:
        return self._sampling.cut(text) != text

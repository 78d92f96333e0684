"""RESTA: answers from embeddings with random noise on the user's words, and a vote.

Hase et al. 2025, "Smoothed embeddings for robust language models", arXiv 2501.16497: isotropic
Gaussian noise on the rows of the user's content. The paper aggregates the copies' next tokens, over
the first tokens of an answer; an engine here gives answers, so these vote on whether to refuse, as
in SmoothLLM: whole ones, or their first ``prefix`` tokens, of which one that agrees with the
majority is then finished. No moderator is asked, nothing is optimised.

The settings under which arXiv 2604.26167 reports it: ``noise=0.08,units=absolute,prefix=10``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from rerail.eval.methods.smooth_llm import vote
from rerail.eval.methods.steps import Attempt, Steps, Stepwise
from rerail.types import FloatArray, FrozenDict

Units = Literal["table", "absolute"]


class Resta(Stepwise):
    """Returns an answer, drawn at random, of those that agree with the majority.

    Args:
        copies: noisy prompts.
        noise: standard deviation of a coordinate.
        units: of the noise. ``table``: the RMS of the embedding table. ``absolute``: the
            embeddings' own.
        prefix: tokens of a copy's answer that vote; 0: all of it.
    """

    name = "resta"

    def __init__(
        self, copies: int = 10, noise: float = 0.3, units: Units = "table", prefix: int = 0
    ) -> None:
        self.copies = copies
        self.noise = noise
        self.units = units
        self.prefix = prefix

    @property
    def settings(self) -> Mapping[str, Any]:
        names = ("copies", "noise", "units", "prefix")
        return FrozenDict({name: getattr(self, name) for name in names})

    def steps(self, attempt: Attempt) -> Steps:
        points = [noisy(attempt, self.noise, self.units) for _ in range(self.copies)]
        replies = yield [
            attempt.ask(point=point, draw=draw, tokens=self.prefix or None)
            for draw, point in enumerate(points)
        ]
        chosen = vote(replies, attempt.rng)
        if self.prefix:
            draw = replies.index(chosen)
            (chosen,) = yield [attempt.ask(point=points[draw], draw=draw)]
        return chosen


def noisy(attempt: Attempt, noise: float, units: Units = "table") -> FloatArray:
    """The prompt's embeddings with Gaussian noise on its steerable rows."""
    point = attempt.embedded.point.copy()
    rows = attempt.account.steerable
    scale = noise * (attempt.context.engine.table.rms if units == "table" else 1.0)
    drawn = attempt.rng.standard_normal((int(rows.sum()), point.shape[1]), dtype=np.float32)
    point[rows] += np.float32(scale) * drawn
    return point

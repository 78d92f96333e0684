"""RESTA: answers from embeddings with random noise on the user's words, and a vote.

Hase et al. 2025, "Smoothed embeddings for robust language models", arXiv 2501.16497: isotropic
Gaussian noise on the rows of the user's content. The paper aggregates the copies' next tokens; an
engine here gives whole answers, so whole answers vote on whether to refuse, as in SmoothLLM. No
moderator is asked, nothing is optimised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rerail.eval.methods.smooth_llm import vote
from rerail.eval.methods.steps import Attempt, Steps, Stepwise
from rerail.types import FloatArray, FrozenDict


class Resta(Stepwise):
    """Returns an answer, drawn at random, of those that agree with the majority.

    Args:
        copies: noisy prompts.
        noise: standard deviation of a coordinate, in units of the RMS of the embedding table.
    """

    name = "resta"

    def __init__(self, copies: int = 10, noise: float = 0.3) -> None:
        self.copies = copies
        self.noise = noise

    @property
    def settings(self) -> Mapping[str, Any]:
        return FrozenDict({"copies": self.copies, "noise": self.noise})

    def steps(self, attempt: Attempt) -> Steps:
        replies = yield [
            attempt.ask(point=noisy(attempt, self.noise), draw=draw) for draw in range(self.copies)
        ]
        return vote(replies, attempt.rng)


def noisy(attempt: Attempt, noise: float) -> FloatArray:
    """The prompt's embeddings with Gaussian noise on its steerable rows."""
    point = attempt.embedded.point.copy()
    rows = attempt.account.steerable
    scale = noise * attempt.context.engine.table.rms
    drawn = attempt.rng.standard_normal((int(rows.sum()), point.shape[1]), dtype=np.float32)
    point[rows] += np.float32(scale) * drawn
    return point

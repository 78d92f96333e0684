"""Best of n: draw anew at temperature 1 until the policy accepts an answer.

It draws exactly from the model's own acceptable answers and pays 1/p generations for one, p being
the share of them: what any steering has to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from tsalign.eval.methods.steps import Attempt, Steps, Stepwise
from tsalign.types import FrozenDict


class BestOfN(Stepwise):
    """The first answer is the model's own; the others are drawn one after the other.

    No floor of naturalness: every draw is the model's own answer to the prompt.

    Args:
        temperature: of the draws.
    """

    name = "best-of-n"

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    @property
    def settings(self) -> Mapping[str, Any]:
        return FrozenDict({"temperature": self.temperature})

    def steps(self, attempt: Attempt) -> Steps:
        (reply,) = yield [attempt.ask(moderated=True)]
        reply.require_verdict()
        for draw in count(1):
            if reply.accepted:
                break
            (reply,) = yield [attempt.ask(temperature=self.temperature, draw=draw, moderated=True)]
        return reply

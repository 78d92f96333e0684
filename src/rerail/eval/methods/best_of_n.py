"""Best of n: draw anew at temperature 1 until the policy accepts an answer.

It draws exactly from the model's own acceptable answers and pays 1/p generations for one, p being
the share of them: what any steering has to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from rerail.eval.methods.steps import Attempt, Steps, Stepwise
from rerail.types import FrozenDict


class BestOfN(Stepwise):
    """The first answer is the model's own; the others are drawn one after the other.

    Args:
        temperature: of the draws.
        natural: whether a draw below the policy's floor of naturalness is drawn again, so that it
            can be compared with steering at equal naturalness. Without, any draw will do: it is
            the model's own answer to the prompt.
        draws: at most, besides the first answer; None: as many as the budget has.
    """

    name = "best-of-n"

    def __init__(
        self, temperature: float = 1.0, natural: bool = False, draws: int | None = None
    ) -> None:
        self.temperature = temperature
        self.natural = natural
        self.draws = draws

    @property
    def settings(self) -> Mapping[str, Any]:
        return FrozenDict(
            {"temperature": self.temperature, "natural": self.natural, "draws": self.draws}
        )

    def steps(self, attempt: Attempt) -> Steps:
        (reply,) = yield [attempt.ask(moderated=True)]
        reply.require_verdict()
        for draw in count(1):
            if reply.accepted:
                break
            if self.draws is not None and draw > self.draws:
                return None
            ask = attempt.ask(
                temperature=self.temperature, draw=draw, moderated=True, natural=self.natural
            )
            (reply,) = yield [ask]
        return reply

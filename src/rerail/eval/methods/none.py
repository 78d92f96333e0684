"""No defence: the model's own answer, whatever it is."""

from __future__ import annotations

from rerail.eval.methods.steps import Attempt, Steps, Stepwise


class NoDefence(Stepwise):
    """Plain generation; no moderator is asked."""

    name = "none"

    def steps(self, attempt: Attempt) -> Steps:
        (reply,) = yield [attempt.ask()]
        return reply

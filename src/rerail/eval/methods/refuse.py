"""A gate: the model's answer where it is accepted, else the policy's refusal. What most do."""

from __future__ import annotations

from rerail.eval.methods.steps import Attempt, Steps, Stepwise


class CannedRefusal(Stepwise):
    """One answer and one verdict; a flagged answer is replaced by the refusal message."""

    name = "refuse"

    def steps(self, attempt: Attempt) -> Steps:
        (reply,) = yield [attempt.ask(moderated=True)]
        reply.require_verdict()
        return reply if reply.accepted else None

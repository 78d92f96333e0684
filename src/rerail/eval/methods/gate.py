"""A gate before the model: the policy's moderators judge the prompt alone, and none the answer.

What a guard model in front of a service does. A prompt that is flagged is refused before anything
is generated; of any other, the model's answer is returned, whatever it is. The policy's own gate,
which rerail's methods heed, has no part in it.
"""

from __future__ import annotations

from rerail.errors import ModeratorError
from rerail.eval.methods.steps import Attempt, Steps, Stepwise
from rerail.types import Cost, Exchange, Rejection

_REFUSED = frozenset({Rejection.FLAGGED, Rejection.UNCONFIRMED})


class Gate(Stepwise):
    """The last user turn is judged as a text by itself."""

    name = "gate"

    def steps(self, attempt: Attempt) -> Steps:
        text = attempt.prompt.messages[-1].content
        (judged,) = attempt.context.panel.judge([Exchange((), text)])
        confirmed = judged.confirmation is not None
        attempt.account.cost += Cost(moderator_calls=1 + confirmed)
        if judged.rejection is Rejection.UNSCORED:
            raise ModeratorError(judged.verdict.unscored or "no verdict")
        if judged.rejection in _REFUSED:
            return None
        (reply,) = yield [attempt.ask()]
        return reply

"""What a panel would have made of an answer, for tests that need no panel."""

from __future__ import annotations

import math

from rerail.types import Judged, Rejection, Score, Verdict


def judged(score: Score, harm: float, rejection: str | None = None) -> Judged:
    unscored = math.isinf(harm)
    verdict = Verdict(
        None if unscored else harm, score.categories, 1.0 <= harm < math.inf, score.cause
    )
    return Judged(score, harm, None if rejection is None else Rejection(rejection), verdict)

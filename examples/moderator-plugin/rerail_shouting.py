"""A moderator of one's own: answers should not SHOUT.

After `pip install .`, a policy can name it:

moderators: [embedded, {name: shouting, options: {least_letters: 10}}]
categories: {custom/shouting: 0.6}
"""

from __future__ import annotations

from collections.abc import Sequence

from rerail import Exchange, Score


class ShoutingModerator:
    """The share of capitals among an answer's letters.

    Args:
        least_letters: an answer with fewer letters does not shout.
    """

    name = "shouting"
    categories = ("custom/shouting",)

    def __init__(self, least_letters: int = 20) -> None:
        self.least_letters = least_letters

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange, in order; what cannot be judged is unscored, with a cause."""
        return [self._score(exchange.answer) for exchange in exchanges]

    def _score(self, answer: str) -> Score:
        letters = [c for c in answer if c.isupper() or c.islower()]
        if not letters:
            return Score.unscored("no letters")
        share = sum(map(str.isupper, letters)) / len(letters)
        return Score.of({"custom/shouting": share if len(letters) >= self.least_letters else 0.0})

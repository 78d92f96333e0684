"""A moderator for tests and examples: scores by words, and fails on command."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rerail.types import Exchange, Score

Scorer = Callable[[Exchange], Score | Mapping[str, float]]


class FakeModerator:
    """Scores every exchange by a function, or by the words of its answer.

    Args:
        scorer: exchange to a verdict or to category scores; by default every category is 1.0 if
            the answer holds one of ``words``, else 0.0.
        words: lower-case substrings of flagged answers.
        categories: what every verdict holds.
        error: raised instead of scoring.
        delay: seconds that a batch takes.

    Attributes:
        calls: the batches that were asked for.
    """

    quick = True

    def __init__(
        self,
        scorer: Scorer | None = None,
        *,
        words: Sequence[str] = ("comply",),
        categories: Sequence[str] = ("illicit",),
        name: str = "fake",
        error: Exception | None = None,
        delay: float = 0.0,
    ) -> None:
        self.name = name
        self.categories = tuple(categories)
        self.error = error
        self.delay = delay
        self.calls: list[tuple[Exchange, ...]] = []
        self._words = tuple(words)
        self._scorer = scorer or self._by_words

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange.

        Raises:
            Exception: ``error``, if set.
        """
        self.calls.append(tuple(exchanges))
        if self.delay:
            time.sleep(self.delay)
        if self.error:
            raise self.error
        verdicts = [self._scorer(exchange) for exchange in exchanges]
        return [v if isinstance(v, Score) else Score.of(v) for v in verdicts]

    def _by_words(self, exchange: Exchange) -> dict[str, float]:
        answer = exchange.answer.lower()
        found = any(word in answer for word in self._words)
        return dict.fromkeys(self.categories, float(found))

"""Equal exchanges are scored once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from rerail.moderators.base import Moderator
from rerail.moderators.stats import Stats, counters
from rerail.types import Exchange, Score


class Cached:
    """A moderator that remembers its verdicts, the least recently used forgotten first.

    Unscored verdicts are not remembered: the next time may go well.

    Args:
        moderator: what is asked.
        size: verdicts kept.
    """

    def __init__(self, moderator: Moderator, size: int = 4096) -> None:
        self._moderator = moderator
        self._size = size
        self._verdicts: OrderedDict[Exchange, Score] = OrderedDict()
        self._lock = threading.Lock()
        self.name = moderator.name
        self.categories = moderator.categories

    def stats(self) -> dict[str, Stats]:
        """What the moderator counts, by name."""
        return counters(self._moderator)

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; only new ones reach the moderator, each once."""
        with self._lock:
            known = {e: self._verdicts[e] for e in exchanges if e in self._verdicts}
        missing = [e for e in dict.fromkeys(exchanges) if e not in known]
        if missing:
            known.update(zip(missing, self._moderator.score(missing), strict=True))
        with self._lock:
            for exchange in exchanges:
                if known[exchange].scored:
                    self._verdicts[exchange] = known[exchange]
                    self._verdicts.move_to_end(exchange)
            while len(self._verdicts) > self._size:
                self._verdicts.popitem(last=False)
        return [known[exchange] for exchange in exchanges]

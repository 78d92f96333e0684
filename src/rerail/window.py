"""What leaves of an answer before the rest of it is there (``release: window``).

A piece leaves once the answer up to some tokens beyond it was judged, and is acceptable as far as
it goes. What has left stays: it is the beginning of whatever answer the prompt has in the end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from rerail.engines._common import UNSETTLED
from rerail.engines.base import Sampling
from rerail.types import Generation, Rejection

Release = Callable[[str], None]
"""Is given each piece of an answer as it leaves; together they are its beginning."""

Read = Callable[[Sequence[int]], Generation]
"""What the first tokens of an answer say by themselves."""

NOTHING = Generation("", ())
"""What has left at first."""

FIRST_PIECE = 16
"""Tokens beyond the lookahead at which an answer is judged first, and at least from then on."""

_SHARE = 4


def looks(lookahead: int, most: int) -> tuple[int, ...]:
    """Numbers of tokens at which an unfinished answer is judged.

    As often as the lookahead is long, and in a long answer when there is a quarter more: so that
    the verdicts on an answer's parts have no more than some five times its length to read.

    Args:
        lookahead: tokens that are judged beyond what leaves.
        most: tokens of an answer.
    """
    found: list[int] = []
    at = lookahead + FIRST_PIECE
    while at < most:
        found.append(at)
        at += max(FIRST_PIECE, lookahead, at // _SHARE)
    return tuple(found)


class Window:
    """What has left of one answer, and whether more of it may.

    Args:
        lookahead: tokens that are judged beyond what leaves.
        release: is given each piece, from the thread that generates. What it raises is ignored:
            the piece may have left all the same.

    Attributes:
        lookahead: as given.
        sent: what has left; its tokens have the reasoning before it among them.
    """

    def __init__(self, lookahead: int, release: Release) -> None:
        self.lookahead = lookahead
        self.sent = NOTHING
        self._release = release
        self._open = True
        # Whoever closes it knows what has left: nothing is on its way out any more.
        self._lock = threading.RLock()

    @property
    def open(self) -> bool:
        """Whether more may leave."""
        return self._open

    def close(self) -> None:
        """From now on nothing leaves."""
        with self._lock:
            self._open = False

    def wants(self, so_far: Generation) -> bool:
        """Whether some of an answer may leave if it is acceptable as far as it goes."""
        return self._open and len(so_far.answer_ids) > self.lookahead

    def judged(
        self, so_far: Generation, rejection: Rejection | None, read: Read, sampling: Sampling
    ) -> None:
        """Let go of what may leave, or of nothing more.

        Args:
            so_far: what there is of the answer.
            rejection: why that is not acceptable; None if it is.
            read: says what its first tokens spell.
            sampling: with stops: no part of one leaves.
        """
        if rejection is Rejection.EMPTY:
            return
        with self._lock:
            if rejection is not None or not self.begins(so_far):
                self.close()
            elif self.wants(so_far) and (part := self._part(so_far, read, sampling)):
                piece = part.text[len(self.sent.text) :]
                self.sent = part
                with contextlib.suppress(Exception):
                    self._release(piece)

    def begins(self, answer: Generation) -> bool:
        """Whether an answer begins with what has left, in text and tokens."""
        tokens, text = self.sent.token_ids, self.sent.text
        return answer.token_ids[: len(tokens)] == tokens and answer.text.startswith(text)

    def _part(self, so_far: Generation, read: Read, sampling: Sampling) -> Generation | None:
        """The longest part that may leave: one that what follows cannot change."""
        part = read(so_far.token_ids[: -self.lookahead])
        while part.answer_ids and len(part.token_ids) > len(self.sent.token_ids):
            shorter = read(part.token_ids[:-1])
            settled = not part.text.endswith(UNSETTLED) and not sampling.may_stop(part.text)
            # Of tokens that spell nothing none leaves: an answer that ends here has none of them.
            longer = part.text != shorter.text and len(part.text) > len(self.sent.text)
            if settled and longer and part.text.strip() and so_far.text.startswith(part.text):
                return part
            part = shorter
        return None

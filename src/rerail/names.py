"""Suggestions for names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest valid name, else the list of valid names."""
    known = sorted(valid)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.62)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(known)}"

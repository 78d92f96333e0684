"""Verdicts that outlast the process, for moderators that cost money or time; opt-in."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerail import __version__
from rerail.errors import ModeratorError
from rerail.moderators.base import Moderator
from rerail.moderators.taxonomy import taxonomy_of
from rerail.types import Exchange, Score

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdict (key TEXT PRIMARY KEY, at REAL NOT NULL, scores TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS verdict_at ON verdict (at);
"""
_DAY = 86400.0


class DiskCached:
    """A moderator whose verdicts are kept in an SQLite file of the user's.

    The file holds no text: a verdict's key is the SHA-256 of the exchange, the moderator's name,
    its model, its taxonomy's version and its options, and the version of rerail, which holds
    prompts and weights of its own. A change of any of them asks anew. Who
    already has a text can tell that it was judged; nobody can read a text from its key.

    Unscored verdicts are not kept. A cache that cannot be read or written is as good as none: the
    moderator is asked.

    Args:
        moderator: what is asked.
        path: the file; by default ``verdicts.sqlite3`` in the user's cache folder.
        options: the options that the moderator was made with.
        max_age_days: how long a verdict counts: services change their models.
        max_entries: verdicts kept; the oldest go first.

    Raises:
        ModeratorError: the file cannot be made, is no cache, or others may write to it.
    """

    def __init__(
        self,
        moderator: Moderator,
        path: Path | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        max_age_days: float = 30.0,
        max_entries: int = 200_000,
    ) -> None:
        self._moderator = moderator
        self._max_age = max_age_days * _DAY
        self._max_entries = max_entries
        self._identity = identity(moderator, options or {})
        self._lock = threading.Lock()
        self._database = _open(path or default_path())
        weakref.finalize(self, self._database.close)
        self.name = moderator.name
        self.categories = moderator.categories

    def __repr__(self) -> str:
        return f"DiskCached({self._moderator!r})"

    def __getattr__(self, name: str) -> Any:
        """What else the moderator offers: its taxonomy, its counters."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._moderator, name)

    def close(self) -> None:
        """Close the file, and the moderator if it can be closed."""
        with self._lock:
            self._database.close()
        getattr(self._moderator, "close", lambda: None)()

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; only those not in the file reach the moderator, each once."""
        keys = {exchange: self._key(exchange) for exchange in exchanges}
        known = self._read(keys)
        missing = [exchange for exchange in keys if exchange not in known]
        if missing:
            given = dict(zip(missing, self._moderator.score(missing), strict=True))
            self._write({keys[e]: score for e, score in given.items() if score.scored})
            known |= given
        return [known[exchange] for exchange in exchanges]

    def _key(self, exchange: Exchange) -> str:
        turns = [[message.role, message.said] for message in exchange.messages]
        content = json.dumps([self._identity, turns, exchange.answer])
        return hashlib.sha256(content.encode()).hexdigest()

    def _read(self, keys: Mapping[Exchange, str]) -> dict[Exchange, Score]:
        oldest = time.time() - self._max_age
        query = "SELECT scores FROM verdict WHERE key = ? AND at >= ?"
        found: dict[Exchange, Score] = {}
        try:
            with self._lock:
                rows = {e: self._database.execute(query, (k, oldest)).fetchone()
                        for e, k in keys.items()}  # fmt: skip
        except sqlite3.Error:
            return found
        for exchange, row in rows.items():
            if row and (score := _verdict(row[0], self.categories)):
                found[exchange] = score
        return found

    def _write(self, verdicts: Mapping[str, Score]) -> None:
        now = time.time()
        rows = [(key, now, json.dumps(dict(s.categories))) for key, s in verdicts.items()]
        try:
            with self._lock, self._database:
                self._database.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?)", rows)
                self._database.execute(
                    "DELETE FROM verdict WHERE at < ? OR key IN (SELECT key FROM verdict "
                    "ORDER BY at LIMIT max(0, (SELECT count(*) FROM verdict) - ?))",
                    (now - self._max_age, self._max_entries),
                )
        except sqlite3.Error:
            return


def identity(moderator: Moderator, options: Mapping[str, Any]) -> str:
    """What a verdict depends on besides the exchange, as text."""
    found = taxonomy_of(moderator)
    taxonomy = found.version if found else list(moderator.categories)
    model = str(getattr(moderator, "model", ""))
    parts = [__version__, moderator.name, model, taxonomy, dict(options)]
    return json.dumps(parts, sort_keys=True, default=str)


def default_path() -> Path:
    """``verdicts.sqlite3`` in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("rerail", appauthor=False) / "verdicts.sqlite3"


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        _check_private(path)
        database = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
        try:
            database.executescript(_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise ModeratorError(
            f"cannot use the verdict cache {path} ({type(error).__name__}): delete the file, or "
            "give another path"
        ) from None
    return database


def _check_private(path: Path) -> None:
    """A verdict that somebody else can write is not the moderator's."""
    if os.name == "nt":
        return
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ModeratorError(f"others may write to the verdict cache {path}: delete it")


def _verdict(content: str, categories: Sequence[str]) -> Score | None:
    """A stored verdict; None if it is not a full one."""
    try:
        score = Score.of(json.loads(content))
    except (ValueError, TypeError, AttributeError):
        return None
    return score if all(category in score.categories for category in categories) else None

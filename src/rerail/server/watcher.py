"""Looks at the folder of policies and the file of keys, and takes in what changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from rerail.server.keys import KeyRing, KeysFileError
from rerail.server.policies import LivePolicies

log = logging.getLogger("rerail.server")

_DEBOUNCE_MS = 200
_STEP_MS = 50
_AGAIN = 5.0
"""Seconds after which looking is tried again."""


async def watch(
    policies: LivePolicies, folder: Path | None, keys: KeyRing | None, stop: asyncio.Event
) -> None:
    """Until it is told to stop."""
    key_file = keys.path if keys is not None else None
    places = {path for path in (folder, key_file.parent if key_file else None) if path}
    while places and not stop.is_set():
        try:
            await _look(places, policies, keys, stop)
        except Exception as error:
            log.error("changes of %s are not seen: %s", ", ".join(map(str, places)), error)
            await asyncio.sleep(_AGAIN)


async def _look(
    places: Collection[Path], policies: LivePolicies, keys: KeyRing | None, stop: asyncio.Event
) -> None:
    from watchfiles import awatch

    async for _ in awatch(
        *places,
        watch_filter=None,
        recursive=False,
        debounce=_DEBOUNCE_MS,
        step=_STEP_MS,
        stop_event=stop,
    ):
        await asyncio.to_thread(take_changes, policies, keys)


def take_changes(policies: LivePolicies, keys: KeyRing | None) -> None:
    """Read the folder and the keys again; what cannot be read stays as it was."""
    try:
        policies.rescan()
    except Exception as error:
        log.error("the folder of policies cannot be read: %s", error)
    if keys is not None:
        try:
            keys.reload()
        except KeysFileError as error:
            log.error("%s; the keys stay as they were", error)

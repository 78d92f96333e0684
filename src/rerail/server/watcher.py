"""Looks at the folder of policies and the file of keys, and takes in what changed.

Their content is compared, twice a second, and nothing is subscribed to: whatever is done to the
folder, to a link on the way to it, or on a file system of another machine is seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path

from rerail.errors import PolicyError
from rerail.server.keys import KeyRing, KeysFileError
from rerail.server.policies import LivePolicies

log = logging.getLogger("rerail.server")

_EVERY = 0.5
"""Seconds between looks."""

_SETTLING = 0.2
"""Seconds that whoever changes something gets to finish it: editors write in steps."""

_REMINDER = 60.0
"""Seconds after which the log says again what cannot be read."""


async def watch(policies: LivePolicies, keys: KeyRing | None, stop: asyncio.Event) -> None:
    """Until it is told to stop."""
    if policies.folder is None and (keys is None or keys.path is None):
        return
    seen: Hashable = None
    well, tried = True, 0.0
    while not stop.is_set():
        try:
            reminder = not well and time.monotonic() - tried > _REMINDER
            if await asyncio.to_thread(contents, policies, keys) != seen or reminder:
                await asyncio.sleep(_SETTLING)
                seen = await asyncio.to_thread(contents, policies, keys)
                was_well, tried = well, time.monotonic()
                well = await asyncio.to_thread(take_changes, policies, keys)
                if well and not was_well:
                    log.warning("the folder of policies and the file of keys can be read again")
        except Exception as error:
            log.error("changes of policies and keys are not seen: %s", error)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _EVERY)


def contents(policies: LivePolicies, keys: KeyRing | None) -> Hashable:
    """What differs whenever a policy file or the file of keys does."""
    found: list[Hashable] = []
    try:
        paths = policies.files()
    except PolicyError as error:
        found, paths = [str(error)], []
    if keys is not None and keys.path is not None:
        paths.append(keys.path)
    return (*found, *((path, _content(path)) for path in paths))


def _content(path: Path) -> Hashable:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return error.errno


def take_changes(policies: LivePolicies, keys: KeyRing | None) -> bool:
    """Read the folder and the keys again.

    A folder that cannot be read leaves the policies as they were. A file of keys that cannot be
    read opens nothing: who took a key out of it, or the file away, must not be wrong about that.

    Returns:
        Whether both could be read.
    """
    well = True
    try:
        policies.rescan()
    except Exception as error:
        log.error("%s; the policies stay as they were", error)
        well = False
    if keys is not None:
        try:
            keys.reload()
        except KeysFileError as error:
            log.error("%s; until it can be read, no key opens anything", error)
            well = False
    return well

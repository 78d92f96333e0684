"""Keys of services: they stand in environment variables, and never in a message."""

from __future__ import annotations

import os
import re

from rerail.errors import RerailError


def read_key(variable: str | None, error: type[RerailError], option: str = "api_key_env") -> str:
    """The key that an environment variable holds; empty if there is to be none.

    Raises:
        RerailError: of the class ``error``, if the variable is not set or holds what no header
            can carry, or what was given is no variable's name. No message quotes what may be a
            key.
    """
    if variable is None:
        return ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise error(
            f"option {option!r} takes the name of an environment variable "
            "(capital letters, digits, underscores), never the key itself"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise error(f"no key: set the environment variable {variable}")
    if not (key.isascii() and key.isprintable()):
        raise error(f"the environment variable {variable} does not hold a usable key")
    return key

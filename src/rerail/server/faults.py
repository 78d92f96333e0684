"""What is wrong with what was sent, by the place where it stands there; nothing of it is quoted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rerail.settings import said


def by_place(faults: Iterable[Mapping[str, Any]], body: Any) -> dict[str, str]:
    """What is wrong at each place, the first one first.

    Args:
        faults: as pydantic tells them, their places behind where they were sent: ``body``, or
            another.
        body: what was sent as ``body``.
    """
    found: dict[str, list[str]] = {}
    for fault in faults:
        unknown = fault["type"] == "extra_forbidden"
        message = "unknown parameter" if unknown else said(fault["msg"])
        found.setdefault(_where(fault, body), []).append(message)
    # A value may be of several kinds. Where it is of one, and has a fault inside, that is told.
    inner = {place for place in found if any(p.startswith(f"{place}.") for p in found)}
    return {place: _joined(messages) for place, messages in found.items() if place not in inner}


def in_words(faults: Mapping[str, str]) -> str:
    """Faults by place as one sentence."""
    return "; ".join(f"{place}: {text}" if place else text for place, text in faults.items())


def _where(fault: Mapping[str, Any], body: Any) -> str:
    """The place of a fault in what was sent: steps that lead nowhere there are a validator's."""
    origin, *steps = fault["loc"]
    if origin != "body":
        return ".".join(map(str, steps))
    parts = []
    for i, step in enumerate(steps):
        at = (
            step in body
            if isinstance(body, dict)
            else isinstance(body, list) and step in range(len(body))
        )
        if at:
            body = body[step]
        elif i < len(steps) - 1 or not isinstance(body, dict) or fault["type"] not in _OF_A_KEY:
            continue
        parts.append(str(step))
    return ".".join(parts)


_OF_A_KEY = {"missing", "value_error"}
"""Faults that may be of a key that is not there."""


def _joined(messages: list[str]) -> str:
    """What a value should be, where it may be of several kinds."""
    head = "Input should be "
    first, *others = dict.fromkeys(messages)
    return " or ".join([first, *(text.removeprefix(head) for text in others)])

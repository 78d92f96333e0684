"""JSON that others wrote, read strictly, and JSON that others read, written strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST = 64
"""Lists and objects within each other at most."""


def read_json(text: str) -> Any:
    """The one value of a text.

    Raises:
        ValueError: it is not JSON, or holds NaN, a key twice, half a surrogate pair, or more than
            `DEEPEST` levels. What it holds is not quoted.
    """
    value, end = first_json(text.strip())
    if text.strip()[end:]:
        raise ValueError("something follows the JSON")
    return value


def first_json(text: str) -> tuple[Any, int]:
    """The value that a text begins with, and where it ends.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        value, end = _STRICT.raw_decode(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if _depth(value) > DEEPEST:
        raise ValueError(f"its JSON is more than {DEEPEST} levels deep")
    return value, end


def read_object(text: str) -> dict[str, Any]:
    """The one object of a text.

    Raises:
        ValueError: as `read_json`, or it is no object.
    """
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("its JSON is no object")
    return value


def written(value: Any) -> str:
    """The value as text, its letters as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def dumps(document: Any, encoding: str = "utf-8") -> str:
    """JSON on one line, strict: no NaN, and only characters that the encoding has."""
    text = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return json.dumps(_finite(document), allow_nan=False)
    return text


def spoken(value: Any, key: str = "") -> Iterator[str]:
    """What a value says, line by line: each key, and behind it a text, number or truth value."""
    if isinstance(value, dict | list) and key and (isinstance(value, dict) or not value):
        yield f"{key}:"
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from spoken(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from spoken(inner, key)
    else:
        said = value if isinstance(value, str) else json.dumps(value)
        yield f"{key}: {said}" if key else said


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def _depth(value: Any) -> int:
    level, deep = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        deep += 1
        level = [v for e in level for v in (e.values() if isinstance(e, dict) else e)]
    return deep

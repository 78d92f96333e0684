"""Text that others wrote, made fit for a terminal, a table or a JSON document."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

MASK = "▒▒▒"
"""Stands for a text that is not shown."""


def printable(text: str) -> str:
    """The text with every character replaced that could command a terminal or reorder a line."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"} else "\ufffd"
        for c in text
    )


def one_line(text: str) -> str:
    """The printable text on a single line."""
    return " ".join(printable(text).split())


def dumps(document: Any, encoding: str = "utf-8") -> str:
    """JSON on one line, strict: no NaN, and only characters that the encoding has."""
    text = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return json.dumps(_finite(document), allow_nan=False)
    return text


def print_json(document: Any, stream: TextIO) -> None:
    """Write one JSON document, readably indented where a person reads it."""
    text = dumps(document, stream.encoding or "ascii")
    if stream.isatty():
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=text.isascii())
    stream.write(text + "\n")
    stream.flush()


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

"""Text that others wrote, made fit for a terminal, a table or a JSON document."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, TextIO

from rerail._json import dumps

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


def print_json(document: Any, stream: TextIO) -> None:
    """Write one JSON document, readably indented where a person reads it."""
    text = dumps(document, stream.encoding or "ascii")
    if stream.isatty():
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=text.isascii())
    stream.write(text + "\n")
    stream.flush()

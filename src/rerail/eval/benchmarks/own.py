"""A file of one's own: a column ``prompt``, or ``messages`` (a conversation).

It may have ``id``, ``category``, ``request`` (what is asked for, bare of any wrapper) and ``kind``
(harmful, benign, completion, utility); without ``kind`` its prompts are harmful, or of the kind
that the command line names: ``--benchmark mine:benign=PATH``.
"""

from __future__ import annotations

import json
from typing import Any, cast

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import TEXT, Row
from rerail.eval.benchmarks.base import Benchmark, Item, column, optional
from rerail.eval.types import CASE_KINDS, CaseKind
from rerail.names import nearest
from rerail.types import Message, Prompt


def _item(row: Row) -> Item:
    kind = optional(row, "kind")
    if kind is not None and kind not in CASE_KINDS:
        raise InputFileError(f"unknown kind {kind!r}{nearest(kind, CASE_KINDS)}")
    messages = row.get("messages")
    return Item(
        column(row, "prompt", TEXT) if messages in (None, "") else None,
        request=optional(row, "request"),
        id=optional(row, "id"),
        kind=cast("CaseKind | None", kind),
        category=optional(row, "category"),
        messages=None if messages in (None, "") else _conversation(messages),
    )


def _conversation(value: Any) -> tuple[Message, ...]:
    """The messages; a CSV holds them as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputFileError("'messages' is not JSON") from None
    return Prompt.of(value).messages


def own_file(name: str, kind: CaseKind = "harmful") -> Benchmark:
    """The benchmark of a file of one's own."""
    return Benchmark(
        name=name,
        kind=kind,
        about=__doc__ or "",
        columns=(("prompt", "messages", TEXT),),
        item=_item,
        template=kind != "completion",
    )

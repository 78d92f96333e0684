"""A file of one's own: a column ``prompt``, or ``messages`` (a conversation).

It may have ``id``, ``category``, ``request`` (what is asked for, bare of any wrapper) and ``kind``
(harmful, benign, completion, utility); without ``kind`` its prompts are harmful, or of the kind
that the command line names: ``--benchmark mine:benign=PATH``. In CSV and TSV, a quotation mark
within quotation marks is written twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import TEXT, Row, parsed
from rerail.eval.benchmarks.base import Benchmark, Item, column, optional
from rerail.eval.types import CASE_KINDS, CaseKind
from rerail.names import nearest
from rerail.types import Message, Prompt


def _item(row: Row, item: Item) -> Item:
    kind, messages = optional(row, "kind"), row.get("messages")
    if kind is not None and kind not in CASE_KINDS:
        raise InputFileError(f"unknown kind {kind!r}{nearest(kind, CASE_KINDS)}")
    item = replace(item, kind=cast("CaseKind | None", kind))
    if messages in (None, ""):
        return replace(item, text=column(row, "prompt", TEXT))
    return replace(item, messages=_conversation(messages))


def _conversation(value: Any) -> tuple[Message, ...]:
    """The messages; a CSV holds them as JSON."""
    if isinstance(value, str):
        value = parsed(value, "'messages'")
    return Prompt.of(value).messages


def own_file(name: str, kind: CaseKind = "harmful") -> Benchmark:
    """The benchmark of a file of one's own."""
    return Benchmark(
        name, kind, "", "", "",
        request=("request",), id=("id",), category=("category",),
        needs=(("prompt", "messages", TEXT),), item=_item, template=kind != "completion",
    )  # fmt: skip

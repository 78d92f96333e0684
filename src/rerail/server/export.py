"""Records in a file: a JSON document per line, or a table for a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import IO, Any

from rerail._json import dumps


class Format(StrEnum):
    """Of an export."""

    JSONL = "jsonl"
    CSV = "csv"


def write(
    records: Sequence[Mapping[str, Any]],
    file: IO[str],
    format_: Format,
    encoding: str = "utf-8",
) -> None:
    """Write records to an open file.

    Args:
        records: as `rerail.server.records.as_json` gives them.
        file: opened with ``newline=""`` where it is one.
        format_: a table has a column for each key that any record has.
        encoding: of the file; what it lacks is escaped in JSON.
    """
    if format_ is Format.JSONL:
        for record in records:
            file.write(dumps(record, encoding) + "\n")
        return
    columns = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    for record in records:
        writer.writerow({key: cell(value) for key, value in record.items()})


def cell(value: Any) -> Any:
    """A value in one cell. A text that a spreadsheet would run as a formula is made a text."""
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value

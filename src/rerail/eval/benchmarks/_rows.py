"""Rows of a file or of the hub, as mappings of columns."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rerail.errors import InputFileError, MissingDependencyError

Row = Mapping[str, Any]
"""Column, in lower case, to value."""

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "txt")

TEXT = "text"
"""The column of a file that is a list of texts."""


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV, TSV, JSON, JSONL, Parquet or text file, gzipped or not.

    JSON is a list of objects or of texts, or an object of columns; a text file has a text per
    line.

    Raises:
        InputFileError: the file cannot be read as what its name says.
    """
    kind = format_of(path)
    try:
        if kind == "parquet":
            return rows_of(_parquet(path))
        text = read_text(path)
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from None
    if kind in {"csv", "tsv"}:
        return list(_csv(path, text, "," if kind == "csv" else "\t"))
    if kind == "jsonl":
        return list(_jsonl(path, text))
    if kind == "txt":
        return [{TEXT: line} for line in text.split("\n") if line.strip()]
    return _json(path, text)


def format_of(path: Path) -> str:
    """One of `FORMATS`, by the file's name.

    Raises:
        InputFileError: it is none of them.
    """
    name = path.name.lower().removesuffix(".gz")
    kind = name.rpartition(".")[2]
    if kind not in FORMATS:
        raise InputFileError(f"cannot tell the format of {path}: use {', '.join(FORMATS)}")
    return kind


def read_text(path: Path) -> str:
    """A file's text, gzipped or not.

    Raises:
        InputFileError: it is not UTF-8, not gzipped although its name says so, or damaged.
        OSError: it cannot be opened.
    """
    data = path.read_bytes()
    try:
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except gzip.BadGzipFile:
        raise InputFileError(f"{path} is not gzipped: name it without .gz") from None
    except (zlib.error, EOFError):
        raise InputFileError(f"{path} is damaged: fetch it again") from None
    except UnicodeDecodeError:
        raise InputFileError(f"{path} is not UTF-8 text: convert it first") from None


def hub_rows(path: str, config: str | None, split: str) -> list[Row]:
    """Rows of a data set on the hub.

    Raises:
        MissingDependencyError: ``datasets`` is not installed.
        InputFileError: the hub cannot be reached, or does not give the data set.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingDependencyError("datasets", "eval") from None
    try:
        return rows_of(load_dataset(path, config, split=split))
    except Exception as error:  # whatever the hub's libraries raise
        raise InputFileError(
            f"cannot load {path} from the hub ({type(error).__name__}): check the connection and "
            "your access to it, or give a local copy as NAME=PATH"
        ) from error


def rows_of(items: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows with their columns in lower case, without space around the names."""
    return [{str(key).strip().lower(): value for key, value in row.items()} for row in items]


def _csv(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if None in row:
                raise InputFileError(f"{path}, line {reader.line_num}: more fields than columns")
            yield from rows_of([row])
    except csv.Error as error:
        raise InputFileError(f"{path}, line {reader.line_num}: {error}") from None


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise InputFileError(f"{path}, line {number}: not JSON") from None
        if not isinstance(row, dict):
            raise InputFileError(f"{path}, line {number}: not a JSON object")
        yield from rows_of([row])


def _json(path: Path, text: str) -> list[Row]:
    try:
        value = json.loads(text)
    except ValueError:
        raise InputFileError(f"{path} is not JSON; one object per line is .jsonl") from None
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        columns = list(value)
        if len({len(column) for column in value.values()}) > 1:
            raise InputFileError(f"{path}: its columns are not of one length")
        values = zip(*value.values(), strict=True)
        return rows_of(dict(zip(columns, row, strict=True)) for row in values)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return rows_of(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [{TEXT: item} for item in value]
    raise InputFileError(f"{path} is no list of objects or texts, and no object of columns")


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingDependencyError("pyarrow", "eval") from None
    if not path.is_file():
        raise InputFileError(f"cannot read {path}: no such file")
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except Exception as error:
        raise InputFileError(f"{path} is no Parquet file ({type(error).__name__})") from None
    return rows

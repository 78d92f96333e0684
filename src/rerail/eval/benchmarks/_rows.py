"""Rows of a file or of the hub, as mappings of columns."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
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
            return _rows(str(path), _parquet(path))
        text = read_text(path)
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from None
    if kind in {"csv", "tsv"}:
        return _csv(path, text, "," if kind == "csv" else "\t")
    if kind == "jsonl":
        return list(_jsonl(path, text))
    if kind == "txt":
        return [{TEXT: line} for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    return _json(path, text)


def parsed(text: str, what: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the JSON.
        what: whose text it is, for errors.

    Raises:
        InputFileError: it is not JSON, has a key twice, or is more than can be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_single)
    except InputFileError as error:
        raise InputFileError(f"{what}: {error}") from None
    except RecursionError:
        raise InputFileError(f"{what}: nested too deep to be read") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InputFileError(
            f"{what}: not JSON: {error.msg} at {line}column {error.colno}"
        ) from None
    except ValueError:
        raise InputFileError(f"{what}: holds a number of too many digits to be read") from None


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _once(key for key, _ in pairs)
    return dict(pairs)


def _once(names: Iterable[str]) -> None:
    """Of two columns of one name, none can be told to be the right one."""
    seen: set[str] = set()
    for name in names:
        if name in seen and name:
            raise InputFileError(f"{name!r} stands twice: rename or remove one")
        seen.add(name)


def path_of(text: str) -> Path:
    """The path that a user wrote: with ~, or with environment variables.

    Raises:
        InputFileError: a variable is not set.
    """
    path = os.path.expandvars(text)
    if missing := re.match(r"\$\{?(\w+)", path):
        raise InputFileError(f"{text}: {missing[1]} is not set: set it to the folder of your data")
    return Path(path).expanduser()


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


def hub_rows(name: str, path: str, split: str, config: str | None) -> list[Row]:
    """Rows of a data set on the hub.

    Args:
        name: of the benchmark.
        path: of the data set.
        split: of its rows.
        config: of the data set, if it has several.

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
            f"your access to it, or download it from https://huggingface.co/datasets/{path} and "
            f"give the file, as in --benchmark {name}=FILE"
        ) from error


def rows_of(items: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows with their columns in lower case, without space around the names.

    Raises:
        InputFileError: two columns of a row have one name.
    """
    return [dict(zip(_names(row), row.values(), strict=True)) for row in items]


def _names(columns: Iterable[Any]) -> list[str]:
    names = [str(column).strip().lower() for column in columns]
    _once(names)
    return names


def _csv(path: Path, text: str, delimiter: str) -> list[Row]:
    # Strict: a quote out of place would else swallow the lines after it, or be dropped.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    columns: list[str] = []
    line = 1
    limit = csv.field_size_limit(max(len(text), 1))  # the text is here: no cell is too long
    try:
        for cells in reader:
            if not columns:
                columns = _names(cells)
            elif len(cells) > len(columns):
                raise InputFileError("more fields than columns")
            elif cells:
                rows.append(dict(zip_longest(columns, cells)))
            line = reader.line_num + 1
    except csv.Error:
        raise InputFileError(
            f"{path}, line {line}: a quotation mark out of place, or one that is never closed: "
            'within quotation marks, write "" for one'
        ) from None
    except InputFileError as error:
        raise InputFileError(f"{path}, line {line}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        row = parsed(line, where)
        if not isinstance(row, dict):
            raise InputFileError(f"{where}: not a JSON object")
        yield from _rows(where, [row])


def _rows(where: str, items: Iterable[Mapping[str, Any]]) -> list[Row]:
    try:
        return rows_of(items)
    except InputFileError as error:
        raise InputFileError(f"{where}: {error}") from None


def _json(path: Path, text: str) -> list[Row]:
    try:
        value = parsed(text, str(path))
    except InputFileError as error:
        raise InputFileError(f"{error}; one object per line is .jsonl") from None
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            raise InputFileError(f"{path}: its columns are not of one length")
        rows = zip(*value.values(), strict=True)
        return _rows(str(path), (dict(zip(value, row, strict=True)) for row in rows))
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return _rows(str(path), value)
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

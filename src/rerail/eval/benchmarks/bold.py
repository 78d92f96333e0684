"""BOLD. Dhamala et al. 2021, arXiv 2101.11718. 23,679 beginnings of sentences, CC BY-SA 4.0.

A local copy is one of the repository's JSON files (subgroup -> name -> prompts), or the folder of
them; the hub has a row per name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import Row, read_text
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _rows(path: Path) -> list[Row]:
    files = sorted(path.glob("*_prompt.json")) if path.is_dir() else [path]
    if not files:
        raise InputFileError(f"{path} has no file *_prompt.json: give BOLD's folder 'prompts'")
    return [row for file in files for row in _file_rows(file)]


def _file_rows(path: Path) -> list[Row]:
    try:
        groups: dict[str, dict[str, Any]] = json.loads(read_text(path))
        return [
            {"domain": path.name.split("_")[0], "category": group, "name": name, "prompt": prompt}
            for group, names in groups.items()
            for name, prompts in names.items()
            for prompt in prompts
        ]
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError):
        raise InputFileError(f"{path} is no BOLD file: subgroup -> name -> prompts") from None


def _one_each(rows: list[Row]) -> list[Row]:
    return [{**row, "prompt": p} for row in rows for p in row.get("prompts") or [row["prompt"]]]


def _item(row: Row) -> Item:
    return Item(column(row, "prompt"), category=optional(row, "category"))


BENCHMARK = Benchmark(
    name="bold",
    kind="completion",
    about=__doc__,
    columns=(("prompt", "prompts"), "category"),
    item=_item,
    hub=Hub("AmazonScience/bold", "train"),
    template=False,
    rows=_rows,
    arrange=_one_each,
)

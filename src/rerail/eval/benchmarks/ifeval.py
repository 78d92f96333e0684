"""IFEval. Zhou et al. 2023, arXiv 2311.07911. 541 rows, Apache-2.0.

Prompts with instructions that a program can check.
"""

from __future__ import annotations

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    names, kwargs = row["instruction_id_list"], row["kwargs"]
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs):
        raise InputFileError("'instruction_id_list' and 'kwargs' are not lists of one length")
    # The hub's copy fills every possible argument with null.
    given = [{k: v for k, v in (args or {}).items() if v is not None} for args in kwargs]
    return Item(
        column(row, "prompt"),
        id=optional(row, "key"),
        meta={"instruction_id_list": names, "kwargs": given, "key": row.get("key")},
    )


BENCHMARK = Benchmark(
    name="ifeval",
    kind="utility",
    about=__doc__,
    columns=("prompt", "instruction_id_list", "kwargs"),
    item=_item,
    hub=Hub("google/IFEval", "train"),
)

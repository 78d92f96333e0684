"""OR-Bench. Cui et al. 2024, arXiv 2405.20947. Hard-1K and 80K seem harmful and are not; Toxic is.

CC BY 4.0. ``or-bench`` reads Hard-1K from the hub, and any of the two benign files from a path.
"""

from __future__ import annotations

from dataclasses import replace

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    return Item(column(row, "prompt"), category=optional(row, "category"))


BENCHMARK = Benchmark(
    name="or-bench",
    kind="benign",
    about=__doc__,
    columns=("prompt", "category"),
    item=_item,
    hub=Hub("bench-llm/or-bench", "train", "or-bench-hard-1k"),
)

TOXIC = replace(
    BENCHMARK,
    name="or-bench-toxic",
    kind="harmful",
    hub=Hub("bench-llm/or-bench", "train", "or-bench-toxic"),
)

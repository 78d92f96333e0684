"""AttaQ. Kour et al. 2023, arXiv 2311.04124. 1,402 rows, MIT.

Continued as plain text, as in TIDE (arXiv 2602.02498).
"""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    return Item(column(row, "input"), category=optional(row, "label"))


BENCHMARK = Benchmark(
    name="attaq",
    kind="completion",
    about=__doc__,
    columns=("input", "label"),
    item=_item,
    hub=Hub("ibm-research/AttaQ", "train"),
    template=False,
)

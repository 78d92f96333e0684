"""Do-Not-Answer. Wang et al. 2023, arXiv 2308.13387. 939 rows, CC BY-NC-SA 4.0: evaluation only."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    return Item(
        column(row, "question"), id=optional(row, "id"), category=optional(row, "risk_area")
    )


BENCHMARK = Benchmark(
    name="do-not-answer",
    kind="harmful",
    about=__doc__,
    columns=("question", "risk_area"),
    item=_item,
    hub=Hub("LibrAI/do-not-answer", "train"),
)

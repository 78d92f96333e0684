"""StrongREJECT. Souly et al. 2024, arXiv 2402.10260. 313 rows (small: 60), MIT."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    return Item(column(row, "forbidden_prompt", "prompt"), category=optional(row, "category"))


BENCHMARK = Benchmark(
    name="strongreject",
    kind="harmful",
    about=__doc__,
    columns=(("forbidden_prompt", "prompt"), "category"),
    item=_item,
    hub=Hub("walledai/StrongREJECT", "train"),
)

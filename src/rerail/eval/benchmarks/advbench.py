"""AdvBench, harmful behaviours. Zou et al. 2023, arXiv 2307.15043. 520 rows, MIT."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column


def _item(row: Row) -> Item:
    return Item(column(row, "goal", "prompt"))


BENCHMARK = Benchmark(
    name="advbench",
    kind="harmful",
    about=__doc__,
    columns=(("goal", "prompt"), "target"),
    item=_item,
    hub=Hub("walledai/AdvBench", "train"),
)

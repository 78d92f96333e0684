"""JBB-Behaviors. Chao et al. 2024, arXiv 2404.01318. 100 harmful and 100 benign rows, MIT."""

from __future__ import annotations

from dataclasses import replace

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    return Item(column(row, "goal"), id=optional(row, "index"), category=optional(row, "category"))


BENCHMARK = Benchmark(
    name="jailbreakbench",
    kind="harmful",
    about=__doc__,
    columns=("goal", "behavior"),
    item=_item,
    hub=Hub("JailbreakBench/JBB-Behaviors", "harmful", "behaviors"),
)

BENIGN = replace(
    BENCHMARK,
    name="jailbreakbench-benign",
    kind="benign",
    hub=Hub("JailbreakBench/JBB-Behaviors", "benign", "behaviors"),
)

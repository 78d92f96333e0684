"""SimpleSafetyTests. Vidgen et al. 2023, arXiv 2311.08370. 100 rows, CC BY 4.0."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    return Item(
        column(row, "prompts_final", "prompt"),
        id=optional(row, "id"),
        category=optional(row, "harm_area"),
    )


BENCHMARK = Benchmark(
    name="simple-safety-tests",
    kind="harmful",
    about=__doc__,
    columns=(("prompts_final", "prompt"), "harm_area"),
    item=_item,
    hub=Hub("Bertievidgen/SimpleSafetyTests", "test"),
)

"""AILuminate 1.0, demo prompts. Ghosh et al. 2025, arXiv 2503.05731. 1,200 rows, CC BY 4.0."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Item, column, optional


def _item(row: Row) -> Item:
    return Item(
        column(row, "prompt_text"),
        id=optional(row, "release_prompt_id"),
        category=optional(row, "hazard"),
        meta={"persona": optional(row, "persona"), "locale": optional(row, "locale")},
    )


BENCHMARK = Benchmark(
    name="ailuminate",
    kind="harmful",
    about=__doc__,
    columns=("release_prompt_id", "prompt_text", "hazard"),
    item=_item,
)

"""XSTest. Röttger et al. 2024, arXiv 2308.01263. 250 safe and 200 unsafe rows, CC BY 4.0."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    kind = column(row, "type")
    # Files before the column `label` mark the unsafe counterparts in the type.
    unsafe = (optional(row, "label") or kind.partition("_")[0]) in {"unsafe", "contrast"}
    return Item(
        column(row, "prompt"),
        id=optional(row, "id", "id_v2"),
        kind="harmful" if unsafe else "benign",
        category=kind,
    )


BENCHMARK = Benchmark(
    name="xstest",
    kind="benign",
    about=__doc__,
    columns=("prompt", "type"),
    item=_item,
    hub=Hub("walledai/XSTest", "test"),
)

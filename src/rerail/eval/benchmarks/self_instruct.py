"""Self-Instruct, user-oriented part. Wang et al. 2023, arXiv 2212.10560. 252 rows, Apache-2.0."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Item, column, optional


def _item(row: Row) -> Item:
    instances = row["instances"]
    given = instances[0]["input"].strip() if instances else ""
    instruction = column(row, "instruction").strip()
    return Item(
        f"{instruction}\n\n{given}" if given else instruction,
        id=optional(row, "id"),
        category=optional(row, "motivation_app"),
    )


BENCHMARK = Benchmark(
    name="self-instruct",
    kind="benign",
    about=__doc__,
    columns=("instruction", "instances"),
    item=_item,
)

"""WildJailbreak, evaluation part. Jiang et al. 2024, arXiv 2406.18510. 2,210 rows, ODC-BY, gated.

2,000 adversarial harmful and 210 adversarial benign prompts; the file names no bare request.
"""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    benign = column(row, "data_type").endswith("benign")
    return Item(
        optional(row, "adversarial") or column(row, "vanilla"),
        request=optional(row, "vanilla"),
        kind="benign" if benign else "harmful",
        category=column(row, "data_type"),
    )


BENCHMARK = Benchmark(
    name="wildjailbreak",
    kind="harmful",
    about=__doc__,
    columns=("adversarial", "data_type"),
    item=_item,
    hub=Hub("allenai/wildjailbreak", "train", "eval"),
)

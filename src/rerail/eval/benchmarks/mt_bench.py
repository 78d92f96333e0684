"""MT-Bench, first turns. Zheng et al. 2023, arXiv 2306.05685. 80 open questions, Apache-2.0."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, optional


def _item(row: Row) -> Item:
    turns = row["turns"] if "turns" in row else row["prompt"]
    return Item(
        turns[0],
        id=optional(row, "question_id", "prompt_id"),
        category=optional(row, "category"),
    )


BENCHMARK = Benchmark(
    name="mt-bench",
    kind="benign",
    about=__doc__,
    columns=(("turns", "prompt"), "category"),
    item=_item,
    hub=Hub("HuggingFaceH4/mt_bench_prompts", "train"),
)

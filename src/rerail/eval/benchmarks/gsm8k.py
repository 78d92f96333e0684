"""GSM8K, test part. Cobbe et al. 2021, arXiv 2110.14168. 1,319 rows, MIT."""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column


def _item(row: Row) -> Item:
    return Item(column(row, "question"), meta={"answer": column(row, "answer")})


BENCHMARK = Benchmark(
    name="gsm8k",
    kind="utility",
    about=__doc__,
    columns=("question", "answer"),
    item=_item,
    hub=Hub("openai/gsm8k", "test", "main"),
)

"""RealToxicityPrompts. Gehman et al. 2020, arXiv 2009.11462. Apache-2.0.

Beginnings of sentences, continued as plain text. Of a file that marks its challenging prompts
(1,199 in the whole set) only those are taken, as TIDE (arXiv 2602.02498) does.
"""

from __future__ import annotations

from rerail.eval.benchmarks._rows import TEXT, Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item


def _challenging(rows: list[Row]) -> list[Row]:
    challenging = [row for row in rows if row.get("challenging") in (True, "True", "true")]
    return challenging or rows


def _item(row: Row) -> Item:
    prompt = row.get("prompt", row.get(TEXT))
    return Item(prompt[TEXT] if isinstance(prompt, dict) else prompt)


BENCHMARK = Benchmark(
    name="realtoxicityprompts",
    kind="completion",
    about=__doc__,
    columns=(("prompt", TEXT),),
    item=_item,
    hub=Hub("allenai/real-toxicity-prompts", "train"),
    template=False,
    arrange=_challenging,
)

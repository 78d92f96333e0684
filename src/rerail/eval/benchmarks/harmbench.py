"""HarmBench, text behaviours. Mazeika et al. 2024, arXiv 2402.04249. 400 rows, MIT.

Contextual behaviours are put as HarmBench puts them: the context, a rule, the behaviour.
"""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column, optional


def _item(row: Row) -> Item:
    behaviour = column(row, "behavior", "prompt")
    context = optional(row, "contextstring", "context")
    return Item(
        behaviour if context is None else f"{context}\n\n---\n\n{behaviour}",
        request=behaviour,
        id=optional(row, "behaviorid"),
        category=optional(row, "semanticcategory", "category"),
        meta={"functional_category": optional(row, "functionalcategory")},
    )


BENCHMARK = Benchmark(
    name="harmbench",
    kind="harmful",
    about=__doc__,
    columns=(("behavior", "prompt"), ("semanticcategory", "category")),
    item=_item,
    hub=Hub("walledai/HarmBench", "train", "standard"),
)

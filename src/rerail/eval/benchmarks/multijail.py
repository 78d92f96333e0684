"""MultiJail. Deng et al. 2023, arXiv 2310.06474. 315 harmful requests in ten languages, MIT.

Every language of a row is a case of its own; its category is the language, and by the English text
it is judged.
"""

from __future__ import annotations

from rerail.eval.benchmarks._rows import Row
from rerail.eval.benchmarks.base import Benchmark, Hub, Item, column

LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")


def _each_language(rows: list[Row]) -> list[Row]:
    return [
        {"id": f"{number}-{language}", "en": row["en"], "language": language, "text": row[language]}
        for number, row in enumerate(rows)
        for language in LANGUAGES
        if row.get(language)
    ]


def _item(row: Row) -> Item:
    return Item(
        column(row, "text"),
        request=column(row, "en"),
        id=column(row, "id"),
        category=column(row, "language"),
    )


BENCHMARK = Benchmark(
    name="multijail",
    kind="harmful",
    about=__doc__,
    columns=("en",),
    item=_item,
    hub=Hub("DAMO-NLP-SG/MultiJail", "train"),
    arrange=_each_language,
)

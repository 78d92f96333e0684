"""Rows of figures: a table where it fits, else one block of lines per row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def show_rows(
    console: Console,
    rows: Sequence[Mapping[str, str | Text]],
    right: Collection[str] = (),
    fold: Collection[str] = (),
) -> None:
    """Print rows that have the same keys.

    A table cut to a narrow terminal hides what it is about, and what reads a pipe has no columns:
    both get ``key: value`` lines, and an empty line between two rows.

    Args:
        console: where to.
        rows: at least one for a table.
        right: keys of figures.
        fold: keys whose values may take several lines of a table.
    """
    if console.is_terminal and rows:
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for key in rows[0]:
            justify: JustifyMethod = "right" if key in right else "left"
            table.add_column(key, justify=justify, no_wrap=key not in fold, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        unlimited = console.options.update(max_width=_WIDEST)
        needed = Measurement.get(console, unlimited, table)
        if (needed.minimum if fold else needed.maximum) <= console.width:
            console.print(table)
            return
    for i, row in enumerate(rows):
        if i:
            console.print()
        for key, value in row.items():
            console.print(Text.assemble((key, "dim"), ": ", value), soft_wrap=True)


_WIDEST = 10_000

"""Rows of figures: nothing of them is cut, wherever they are shown."""

import io

import pytest
from rich.console import Console

from rerail.cli._rows import show_rows

ROWS = [{"name": "first", "harm": "1.80"}, {"name": "second", "harm": "0.20"}]


def shown(rows: list[dict[str, str]], width: int, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    show_rows(console, rows, right={"harm"})
    return file.getvalue()


def test_a_table_where_it_fits() -> None:
    lines = [line.split() for line in shown(ROWS, 16, terminal=True).splitlines()]
    assert lines == [["name", "harm"], ["first", "1.80"], ["second", "0.20"]]


@pytest.mark.parametrize(("width", "terminal"), [(10, True), (200, False)])
def test_blocks_where_it_does_not(width: int, terminal: bool) -> None:
    blocks = shown(ROWS, width, terminal).split("\n\n")
    assert blocks == ["name: first\nharm: 1.80", "name: second\nharm: 0.20\n"]


def test_long_values_stay_on_one_line() -> None:
    assert shown([{"id": "x" * 300}], 80, terminal=False) == f"id: {'x' * 300}\n"

"""The demo's prompts are what is drawn, from rows that nothing was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from training.adapter import demo_prompts as adapter
from training.chat import demo_prompts as toy
from training.splits import HELD_OUT, load

ASSETS = Path(__file__).resolve().parents[2] / "src" / "rerail" / "assets"


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("drawn", "name"), [(toy, "toy_prompts.jsonl"), (adapter, "demo_prompts.jsonl")]
)
def test_what_is_shipped_is_what_is_drawn(drawn: ModuleType, name: str) -> None:
    lines = (ASSETS / name).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == drawn.draw(0)


@pytest.mark.usefixtures("data_dir")
def test_every_row_is_held_out() -> None:
    for row in adapter.draw(0):
        name, _, number = row["source"].partition(":")
        held_out = {str(prompt.row): prompt.text.strip() for prompt in load(name, HELD_OUT)}
        assert held_out[number] == row["request"]


@pytest.mark.usefixtures("data_dir")
def test_every_wrapper_is_used_about_as_often() -> None:
    rows = adapter.draw(0)
    for kind in adapter.FRAMES:
        used = [row["fragments"] for row in rows if row["kind"] == kind]
        counts = [used.count(name) for name in adapter.frames(kind)]
        assert sum(counts) == len(used)
        assert max(counts) - min(counts) <= 1

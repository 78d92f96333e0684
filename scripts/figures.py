"""The README's table of the demo's figures, from the JSON of one run for each method.

rerail demo --json --method fast > fast.json    # and random, tide, tsa
python scripts/figures.py fast.json random.json tide.json tsa.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def _share(key: str) -> Callable[[Document], str]:
    return lambda d: "–" if d[key] is None else f"{d[key]:.1%}".replace("%", " %")


def _number(key: str, form: str) -> Callable[[Document], str]:
    return lambda d: "–" if d[key] is None else format(d[key], form)


ROWS: tuple[tuple[str, Callable[[Document], str]], ...] = (
    ("first answers flagged, of {prompts} prompts", _number("flagged", "d")),
    ("neutralised, of those flagged", _share("neutralised_share")),
    ("steered / refused", lambda d: f"{d['steered']} / {d['refused']}"),
    ("generations per steered answer", _number("generations_per_steered", ".1f")),
    ("generated tokens per steered answer", _number("generated_tokens_per_steered", ",.0f")),
    ("naturalness, median", _number("naturalness_median", ".2f")),
    ("steered answers that refuse", _share("steered_refusal_share")),
    ("steered answers that refuse the request or speak of it", _share("steered_on_topic_share")),
    ("tokens preserved, least", _number("tokens_preserved_min", ".2f")),
    ("flagged text that left", _number("emitted_flagged", "d")),
    ("steered text that left and is not clearly harmless", _number("emitted_borderline", "d")),
    ("passed answers identical to plain generation", _share("benign_identical")),
    ("seconds", _number("seconds", ".0f")),
)


def table(documents: list[Document]) -> str:
    """A column for each run; all are of one model, one policy and the same prompts.

    Raises:
        ValueError: they are not.
    """
    alike = {(d["model"], d["policy"]["name"], d["seed"], d["prompts"]) for d in documents}
    if len(alike) > 1:
        raise ValueError(f"runs of different models, policies, seeds or prompts: {sorted(alike)}")
    head = ["", *(f"`{d['method']}`" for d in documents)]
    rows = [[name.format(**documents[0]), *map(cell, documents)] for name, cell in ROWS]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]))

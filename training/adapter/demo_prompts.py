"""Draws the demo's prompts: the rows of the toy's, in disguises and provocations.

    python -m training.adapter.demo_prompts --out src/rerail/assets/demo_prompts.jsonl

The rows are held out, the disguises are trained on by nobody, and each is used in its turn: nothing
looks at how the model answers to any of them.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from training.chat import demo_prompts as toy

HERE = Path(__file__).parent
FRAMES = {"wrapped": "disguises.yaml", "rude": "provocations.yaml"}


@cache
def frames(kind: str) -> dict[str, str]:
    """What is put around the requests of a kind, by name."""
    return yaml.safe_load((HERE / FRAMES[kind]).read_text(encoding="utf-8"))


def draw(seed: int) -> list[dict[str, Any]]:
    """All demo prompts, each with the request inside and where it came from."""
    rows = toy.draw(seed)
    for kind in FRAMES:
        own = [row for row in rows if row["kind"] == kind]
        names = list(frames(kind))
        for place, row in enumerate(own):
            name = names[place % len(names)]
            text = frames(kind)[name].strip().replace("{request}", row["request"])
            row |= {"messages": [{"role": "user", "content": text}], "fragments": name}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    toy.write(draw(args.seed), args.out)


if __name__ == "__main__":
    main()

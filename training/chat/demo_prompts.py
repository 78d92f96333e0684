"""Draws the toy model's prompts from held-out rows, by a seed, with no look at how steering fares.

    python -m training.chat.demo_prompts --out src/rerail/assets/toy_prompts.jsonl

Requests about minors are left out, and so are sources whose licence does not allow shipping. Half
of the wrapped prompts are put together from held-out wrapper fragments, half from known ones.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from training.chat import requests, wrappers
from training.splits import HELD_OUT, SOURCES, Prompt, load

HARMFUL = ("advbench", "simple-safety-tests", "strongreject", "catqa", "harmfulqa", "dangerousqa")
COUNTS = {"plain": 8, "wrapped": 24, "benign": 10, "rude": 8}
MAX_CHARS = 220
# Under a weak wrapper there is nothing to steer. This is the strength written in wrappers.yaml, and
# says nothing of what the model does with it.
LEAST_STRENGTH = 1.574


def draw(seed: int) -> list[dict[str, Any]]:
    """All demo prompts, each with the request inside and where it came from."""
    rng = random.Random(seed)
    harmful = _shuffled(HARMFUL, rng)
    harmful = [row for row in harmful if not requests.is_about_children(row.text)]
    benign = _shuffled(("self-instruct-user",), rng)
    rows: list[dict[str, Any]] = []
    for place in range(COUNTS["plain"]):
        prompt = harmful.pop()
        rows.append(_row("plain", place, prompt, prompt.text.strip(), "none"))
    for place in range(COUNTS["wrapped"]):
        prompt, held_out = harmful.pop(), place % 2 == 1
        while True:
            wrapped = wrappers.wrap(prompt.text.strip(), rng, held_out)
            if wrapped.strength >= LEAST_STRENGTH:
                break
        rows.append(_row("wrapped", place, prompt, wrapped.text, _name(held_out)))
    for place in range(COUNTS["benign"]):
        prompt = benign.pop()
        rows.append(_row("benign", place, prompt, prompt.text.strip(), "none"))
    for place in range(COUNTS["rude"]):
        prompt, held_out = benign.pop(), place % 2 == 1
        provoked = wrappers.provoke(prompt.text.strip(), rng, held_out)
        rows.append(_row("rude", place, prompt, provoked.text, _name(held_out)))
    return rows


def _shuffled(names: tuple[str, ...], rng: random.Random) -> list[Prompt]:
    rows = []
    for name in names:
        if not SOURCES[name].may_ship:
            raise ValueError(f"the licence of {name} does not allow shipping")
        short = [row for row in load(name, HELD_OUT) if _is_short(row.text)]
        # No source may crowd out the others.
        rows += rng.sample(short, min(len(short), 40))
    rng.shuffle(rows)
    return rows


def _is_short(text: str) -> bool:
    return len(text) <= MAX_CHARS and "\n" not in text.strip()


def _name(held_out: bool) -> str:
    return "held-out" if held_out else "known"


def _row(kind: str, place: int, prompt: Prompt, text: str, fragments: str) -> dict[str, Any]:
    return {
        "id": f"{kind}-{place + 1:02d}",
        "kind": kind,
        "messages": [{"role": "user", "content": text}],
        "request": prompt.text.strip(),
        "fragments": fragments,
        "source": f"{prompt.source}:{prompt.row}",
        "licence": SOURCES[prompt.source].licence,
    }


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write prompts, one a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(draw(args.seed), args.out)


if __name__ == "__main__":
    main()

"""What tells an answer that is about its prompt from one about something else?

    python -m benchmarks.relevance

Answers of smollm2 and smollm2-safe to moved embeddings and to guidance, harmless by the
moderators, each labelled by a reader: about the prompt (it answers it or declines it), vague (an
offer of help), or other. For each measure: the area under the curve, about against other, and what
a floor keeps of either.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rerail.rounds import NEUTRAL

READ = Path(__file__).parents[1] / "training" / "labelled" / "about.jsonl"

Row = dict[str, Any]


def naturalness(row: Row) -> float:
    """Against the model's first answer."""
    first = row["first"]
    return -np.inf if first is None else row["log_likelihood"] - first


def relevance(text: str) -> Callable[[Row], float]:
    """Against a neutral prompt."""
    return lambda row: row["log_likelihood"] - row["neutral"][text]


def area(good: np.ndarray, others: np.ndarray) -> float:
    """Chance that a good answer has the larger value (Mann and Whitney); ties count half."""
    pairs = good[:, None] - others[None]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def main() -> None:
    """Print the table."""
    rows = [json.loads(line) for line in READ.read_text(encoding="utf-8").splitlines()]
    texts = [NEUTRAL, *(text for text in rows[0]["neutral"] if text != NEUTRAL)]
    measures = {"naturalness": (naturalness, -0.3)}
    measures |= {f"relevance, {text!r}": (relevance(text), -0.05) for text in texts}
    print(
        "| model | measure | area | floor | kept, about | kept, other |\n|---|---|---|---|---|---|"
    )
    for model in ("smollm2", "smollm2-safe"):
        own = [row for row in rows if row["model"] == model]
        for name, (measure, floor) in measures.items():
            good, others = (
                np.array([measure(row) for row in own if row["label"] == label])
                for label in ("about", "other")
            )
            print(
                f"| {model} | {name} | {area(good, others):.2f} | {floor} "
                f"| {np.mean(good >= floor):.0%} of {len(good)} "
                f"| {np.mean(others >= floor):.0%} of {len(others)} |"
            )


if __name__ == "__main__":
    main()

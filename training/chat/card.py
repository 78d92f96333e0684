"""Writes the model card from the held-out figures and the recipe; its text is in card.md.

python -m training.chat.card --figures FILE --recipe FILE --minutes N --out FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

TEMPLATE = Path(__file__).with_name("card.md")


def card(figures: dict[str, dict[str, float]], recipe: dict[str, float], minutes: float) -> str:
    """The text of the model card."""
    sampled = figures["sampled wrapped/held-out"]
    lines = []
    for group, row in figures.items():
        if "refused" in row:
            answered = row["refused"] < 1
            cells = (
                group,
                f"{row['prompts']:.0f}",
                _percent(row["refused"]),
                _percent(row["answered_on_topic"]),
                _percent(row["topic_copied_when_answered"]) if answered else "-",
                _percent(row["rude"]),
                f"{row['mean_tokens']:.0f}",
                _percent(row["distinct"]),
            )
            lines.append("| " + " | ".join(cells) + " |")
    width, depth, inner = recipe["hidden"], recipe["layers"], recipe["feed_forward"]
    size = 2048 * width + depth * (4 * width * width + 3 * width * inner + 2 * width) + width
    return TEMPLATE.read_text(encoding="utf-8").format(
        **recipe,
        table="\n".join(lines) + "\n",
        parameters=f"{size / 1e6:.1f}",
        minutes=f"{minutes:.0f}",
        both_modes=_percent(sampled["both_modes"]),
        both_prompts=f"{sampled['prompts']:.0f}",
        mean_refusal=_percent(sampled["mean_refusal"]),
        right=_percent(figures["fact"]["right"]),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=Path, required=True, help="JSON of evaluate.py")
    parser.add_argument("--recipe", type=Path, required=True, help="recipe.json of train.py")
    parser.add_argument("--minutes", type=float, required=True, help="what the training took")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figures = json.loads(args.figures.read_text(encoding="utf-8"))
    recipe = json.loads(args.recipe.read_text(encoding="utf-8"))
    args.out.write_text(card(figures, recipe, args.minutes), encoding="utf-8")


if __name__ == "__main__":
    main()

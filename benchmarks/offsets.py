"""What does any offset of the user's rows do, if it is long enough?

    python -m benchmarks.offsets
    python -m benchmarks.offsets --split train --length 0.5 --length 1

Held-out AdvBench rows in the demo's four disguises. Of those whose first answer is flagged, each is
answered once from one random offset of all steered rows, the same for all, of each length (as a
share of a typical row's), in all directions or in the leading ones. Counted are answers harmless
enough to leave, refusals by rule, and those that are natural enough as well.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import yaml

from rerail.align import Aligner, offset
from rerail.engines import Sampling, load_engine
from rerail.eval.rules import is_refusal
from rerail.eval.statistics import wilson
from rerail.panel import Panel
from rerail.policy import PolicyStore
from rerail.rounds import evaluate
from rerail.search import Search, advance
from rerail.types import Rejection
from training.chat.requests import is_about_children
from training.splits import load

DISGUISES = Path(__file__).parents[1] / "training" / "adapter" / "disguises.yaml"


def flagged(aligner: Aligner, split: str, rows: int) -> list[Search]:
    """Searches of disguised requests whose first answers are flagged."""
    texts = [row.text.strip() for row in load("advbench", split)]
    texts = [text for text in texts if not is_about_children(text)]
    random.Random(f"smooth {split} 0").shuffle(texts)
    frames = yaml.safe_load(DISGUISES.read_text(encoding="utf-8")).values()
    searches = [
        aligner.open(frame.replace("{request}", text)) for text in texts[:rows] for frame in frames
    ]
    for start in range(0, len(searches), aligner.max_open):
        advance(searches[start : start + aligner.max_open])
    return [search for search in searches if not search.done and search.evaluations[0].flagged]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-safe")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--split", choices=("train", "held_out"), default="held_out")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--rank", type=int, help="leading directions; default: all")
    parser.add_argument("--length", type=float, action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = load_engine(args.model)
    policy = PolicyStore.shipped().get(args.policy)
    aligner = Aligner(engine, Panel.load(policy), sampling=Sampling(64), max_open=16)
    searches = flagged(aligner, args.split, args.rows)
    rank = args.rank or searches[0].embedded.point.shape[1]
    direction = np.random.default_rng(args.seed).standard_normal(rank)
    direction /= np.linalg.norm(direction)
    print("| length | harmless enough | refuses | natural, too | naturalness, median |")
    print("|---|---|---|---|---|")
    for length in args.length or (0.7, 1.4, 2.9):
        shift = offset(engine.table, (length * direction).tolist())
        asks, found = [search.probe(shift) for search in searches], []
        for start in range(0, len(asks), aligner.max_open):
            found += [one for _, one in evaluate(asks[start : start + aligner.max_open])]
        accepted = sum(one.accepted for one in found)
        harmless = accepted + sum(one.rejection is Rejection.UNNATURAL for one in found)
        refuses = sum(is_refusal(one.generation.text) for one in found)
        natural = np.median([one.naturalness for one in found if one.naturalness is not None])
        low, high = wilson(harmless, len(found))
        print(f"| {length:g} | {harmless} of {len(found)} ({low:.0%} to {high:.0%}) | {refuses} | "
              f"{accepted} | {natural:+.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

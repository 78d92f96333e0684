"""Does what a search has seen so far tell which direction to ask next?

    python -m benchmarks.gradient --count 64 --directions 24 --scale 0.4

Every flagged tuning prompt is answered from the same random offsets in the leading principal
directions of the table. Then, offline, four searchers take the candidates of each prompt one after
the other until one is acceptable:

- random: in random order;
- own gradient: the direction lowest in a ridge regression on the losses of this prompt so far;
- own gradient, sampled: the same with the weights drawn from their posterior (Thompson sampling);
- common gradient: lowest in a regression on the losses of all *other* prompts.

Tokens count flagged candidates as cut at 8, 16, 32, ... tokens, as the search cuts them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.search import wrapped_prompts
from rerail.align import Aligner, offset
from rerail.engines import Sampling, load_engine
from rerail.panel import Panel
from rerail.policy import PolicyStore
from rerail.rounds import evaluate
from rerail.search import Search, advance, loss

RIDGE = 4.0


class Tried(NamedTuple):
    """All candidates of one prompt: ``(n,)`` losses, whether acceptable, and tokens."""

    losses: Any
    accepted: Any
    tokens: Any


Choose = Callable[[np.random.Generator, list[int], list[int], Any, int], int]
"""``(generator, left, told, losses, prompt) -> candidate``."""


def collect(aligner: Aligner, prompts: list[str], directions: Any) -> list[Tried]:
    """Answers of every flagged prompt from every direction, ``(n, rank)``."""
    searches = [aligner.open(prompt) for prompt in prompts]
    advance(searches)
    flagged = [search for search in searches if not search.done]
    shifts = [offset(aligner.engine.table, row) for row in directions]
    return [_tried(search, shifts) for search in flagged]


def _tried(search: Search, shifts: list[Any]) -> Tried:
    found = evaluate([search.probe(shift) for shift in shifts])
    evaluations = [evaluation for _, evaluation in found]
    return Tried(
        np.array([min(loss(e), 2.0) if not e.accepted else 0.0 for e in evaluations]),
        np.array([e.accepted for e in evaluations]),
        np.array([len(e.generation.token_ids) for e in evaluations]),
    )


def searchers(directions: Any, tried: list[Tried]) -> dict[str, Choose]:
    """The four ways to choose."""
    rank = directions.shape[1]
    unit = directions / np.sqrt((directions**2).mean())
    common = []
    for own in tried:
        others = [t.losses - t.losses.mean() for t in tried if t is not own]
        rows, values = np.tile(unit, (len(others), 1)), np.concatenate(others)
        common.append(np.linalg.solve(rows.T @ rows + RIDGE * np.eye(rank), rows.T @ values))

    def posterior(told: list[int], losses: Any) -> tuple[Any, Any]:
        rows, values = unit[told], losses[told]
        spread = np.linalg.inv(rows.T @ rows + RIDGE * np.eye(rank))
        return spread @ rows.T @ (values - values.mean()), spread

    def lowest(weights: Any, left: list[int]) -> int:
        return min(left, key=lambda place: float(unit[place] @ weights))

    def random(rng: Any, left: list[int], told: list[int], losses: Any, prompt: int) -> int:
        return left[0]

    def own(rng: Any, left: list[int], told: list[int], losses: Any, prompt: int) -> int:
        return lowest(posterior(told, losses)[0], left) if told[1:] else left[0]

    def sampled(rng: Any, left: list[int], told: list[int], losses: Any, prompt: int) -> int:
        if not told[1:]:
            return left[0]
        mean, spread = posterior(told, losses)
        return lowest(rng.multivariate_normal(mean, 0.3 * spread), left)

    def shared(rng: Any, left: list[int], told: list[int], losses: Any, prompt: int) -> int:
        return lowest(common[prompt], left)

    return {
        "random": random,
        "own gradient": own,
        "own gradient, sampled": sampled,
        "common gradient": shared,
    }


def cost(choose: Choose, tried: list[Tried], orders: int) -> tuple[float, float]:
    """Mean tries and tokens until an acceptable answer, over prompts that have one."""
    tries, tokens = [], []
    for prompt, (losses, accepted, spent) in enumerate(tried):
        if not accepted.any():
            continue
        for seed in range(orders):
            rng = np.random.default_rng(seed)
            left = [int(place) for place in rng.permutation(len(losses))]
            told: list[int] = []
            while not (told and accepted[told[-1]]):
                told.append(choose(rng, left, told, losses, prompt))
                left.remove(told[-1])
            tries.append(len(told))
            tokens.append(int(spent[told].sum()))
    return statistics.fmean(tries), statistics.fmean(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", choices=("tuning", "held-out"), default="tuning")
    parser.add_argument("--count", type=int, default=64, help="prompts")
    parser.add_argument("--directions", type=int, default=24)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--scale", type=float, default=0.4, help="μ")
    parser.add_argument("--orders", type=int, default=40, help="random orders per prompt")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    policy = PolicyStore.shipped().get("quick")
    engine = load_engine("embedded")
    aligner = Aligner(engine, Panel.load(policy), sampling=Sampling(160), seed=args.seed)
    prompts = [wrapped for _, wrapped in wrapped_prompts(args.set, args.count, args.seed)]
    rng = np.random.default_rng(args.seed)
    directions = rng.standard_normal((args.directions, args.rank))
    directions *= args.scale / np.sqrt(args.rank)
    tried = collect(aligner, prompts, directions)
    shares = [float(t.accepted.mean()) for t in tried]
    solved = sum(share > 0 for share in shares)
    print(f"{len(tried)} flagged prompts, {statistics.fmean(shares):.1%} of candidates acceptable, "
          f"{solved} prompts with at least one")  # fmt: skip
    print("| next candidate | tries | tokens |\n|---|---|---|")
    for name, choose in searchers(directions, tried).items():
        tries, tokens = cost(choose, tried, args.orders)
        print(f"| {name} | {tries:.2f} | {tokens:.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""Compare searches on wrapped harmful prompts that the embedded model was not trained on.

    python -m benchmarks.search --set tuning   --grid directions --out directions.json
    python -m benchmarks.search --set held-out --grid presets    --out presets.json
    python -m benchmarks.search --set held-out --count 200 --write held-out.jsonl
    python -m benchmarks.search --set tuning   --count 60 --without-demo --write tuning.jsonl

The last lines only write the prompts, as files for ``rerail eval --benchmark`` and ``rerail tune
--input``; ``--without-demo`` leaves out requests of which the demo has the same.

Settings are chosen on ``tuning`` (held-out rows of CatQA, HarmfulQA, DangerousQA, StrongREJECT)
and reported on ``held-out`` (AdvBench rows 420-519 and SimpleSafetyTests): no request is in both.
Half of the wrappers of each are made of fragments that the model never saw. Every search of a grid
gets the same prompts, policy and budget; only prompts whose first answer is flagged count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rerail.align import Aligner
from rerail.demo import demo_prompts
from rerail.engines import Sampling, load_engine
from rerail.eval.rules import is_refusal, on_topic
from rerail.panel import Panel
from rerail.policy import PolicyStore
from rerail.settings import OptimizerSettings
from rerail.types import Outcome
from training.chat import wrappers
from training.splits import HELD_OUT, load

SETS = {
    "tuning": ("catqa", "harmfulqa", "dangerousqa", "strongreject"),
    "held-out": ("advbench", "simple-safety-tests"),
}
MAX_CHARACTERS = 220


def wrapped_prompts(name: str, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` pairs (request, wrapped request), by a seed."""
    rng = random.Random(f"{name}-{seed}")
    rows = [row for source in SETS[name] for row in load(source, HELD_OUT)]
    rows = [row for row in rows if len(row.text) <= MAX_CHARACTERS]
    rng.shuffle(rows)
    pairs = []
    for place, row in enumerate(itertools.islice(itertools.cycle(rows), count)):
        wrapped = wrappers.wrap(row.text.strip(), rng, held_out=place % 2 == 1)
        pairs.append((row.text.strip(), wrapped.text))
    return pairs


def write(pairs: list[tuple[str, str]], path: Path) -> None:
    """The prompts as JSONL: id, request, prompt and, as category, whose wrappers they are in."""
    with path.open("w", encoding="utf-8") as file:
        for place, (request, wrapped) in enumerate(pairs):
            row = {
                "id": f"{place:04}",
                "request": request,
                "prompt": wrapped,
                "category": "unseen wrapper" if place % 2 else "known wrapper",
            }
            file.write(json.dumps(row) + "\n")


FIXED = {
    "orthogonalize": False,
    "perturbation_growth": 1.0,
    "max_iterations": 4,
    "use_fades": False,
}


def directions_grid() -> Iterable[tuple[str, dict[str, Any]]]:
    """Every direction family at several fixed μ, undirected and directed."""
    families: list[tuple[str, dict[str, Any]]] = [
        ("rows", {"directions": "rows", "subspace_rank": None}),
        ("rows in 32", {"directions": "rows", "subspace_rank": 32}),
        ("shared", {"directions": "shared", "subspace_rank": None}),
        ("shared in 8", {"directions": "shared", "subspace_rank": 8}),
    ]
    for (family, changes), scale, descend in itertools.product(
        families, (0.15, 0.3), (False, True)
    ):
        name = f"{family}, μ {scale}, {'descent' if descend else 'random'}"
        search = {**FIXED, **changes, "perturbation_scale": scale, "max_perturbation_scale": scale}
        yield name, {"preset": "fast", "num_directions": 16, **search, "descend": descend}


def presets_grid() -> Iterable[tuple[str, dict[str, Any]]]:
    """The shipped presets."""
    for preset in ("fast", "random", "tide"):
        yield preset, {"preset": preset}


GRIDS = {
    "directions": directions_grid,
    "presets": presets_grid,
}

COLUMNS = ("flagged", "solved", "generations", "tokens", "naturalness", "naturalness_p10",
           "on_topic", "refusals", "cosine", "tokens_preserved", "seconds")  # fmt: skip


def measure(
    changes: dict[str, Any], engine: Any, pairs: list[tuple[str, str]], seed: int, floor: float
) -> dict[str, float]:
    """One search over all prompts: means over steered prompts, the first answer included."""
    policy = PolicyStore.shipped().get("quick")
    policy = policy.model_copy(
        update={
            "optimizer": OptimizerSettings.model_validate(changes),
            "naturalness_floor": floor,
        }
    )
    aligner = Aligner(engine, Panel.load(policy), sampling=Sampling(max_new_tokens=160), seed=seed)
    started = time.perf_counter()
    responses = aligner.align_many([wrapped for _, wrapped in pairs])
    seconds = time.perf_counter() - started
    flagged = [(q, r) for (q, _), r in zip(pairs, responses, strict=True) if r.initial.flagged]
    steered = [(q, r) for q, r in flagged if r.outcome is Outcome.STEERED]
    natural = sorted(r.naturalness for _, r in steered)

    def mean(values: Iterable[float]) -> float:
        values = list(values)
        return statistics.fmean(values) if values else float("nan")

    return {
        "flagged": len(flagged),
        "solved": len(steered),
        "generations": mean(r.cost.generations for _, r in steered),
        "tokens": mean(r.cost.generated_tokens for _, r in steered),
        "naturalness": statistics.median(natural) if natural else float("nan"),
        "naturalness_p10": natural[len(natural) // 10] if natural else float("nan"),
        "on_topic": mean(is_refusal(r.text) or on_topic(q, r.text) for q, r in steered),
        "refusals": mean(is_refusal(r.text) for _, r in steered),
        "cosine": mean(r.cosine for _, r in steered),
        "tokens_preserved": min((r.tokens_preserved for _, r in steered), default=float("nan")),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default="tuning")
    parser.add_argument("--grid", choices=GRIDS, default="presets")
    parser.add_argument("--only", default="", help="only searches whose name holds this")
    parser.add_argument("--count", type=int, default=48, help="prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--floor", type=float, default=-1.0, help="naturalness floor")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--without-demo", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path, help="only write the prompts to this file")
    args = parser.parse_args()
    pairs = wrapped_prompts(args.set, args.count, args.seed)
    if args.without_demo:
        known = {prompt.request.strip() for prompt in demo_prompts(toy=True)}
        pairs = [(request, wrapped) for request, wrapped in pairs if request not in known]
    if args.write:
        write(pairs, args.write)
        return
    engine = load_engine(args.model)
    results = {}
    print("| search | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, changes in GRIDS[args.grid]():
        if args.only not in name:
            continue
        row = results[name] = measure(changes, engine, pairs, args.seed, args.floor)
        print(f"| {name} | " + " | ".join(f"{row[c]:.3g}" for c in COLUMNS) + " |", flush=True)
    if args.out:
        document = {"settings": {**vars(args), "out": str(args.out)}, "results": results}
        args.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

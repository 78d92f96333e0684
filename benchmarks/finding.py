"""Does descent beat undirected search, what does each part bring, and when is drawing cheaper?

    python -m benchmarks.finding --out build/finding           # about an hour on one core
    python -m benchmarks.finding --out build/finding --tables  # of runs that are finished

Two runs of `rerail eval` on wrapped held-out prompts of `benchmarks.search`, with the embedded
model. *frontier*: every family of directions, directed and undirected, at a floor of naturalness
of -0.1 and 40 generations; a search under a lower floor is the beginning of one under a higher, so
this run holds them all. *parts*: `fast`, `fast` without each part, the undirected search, the
published loop and resampling, under the shipped policy. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.search import wrapped_prompts, write
from rerail.eval import statistics
from rerail.eval.frontier import break_even, head_to_head, price, success
from rerail.eval.quantities import cluster
from rerail.eval.records import RunFolder
from rerail.eval.types import Trial
from rerail.policy import PolicyStore

FAMILIES = {
    "independent rows": "directions=rows,subspace_rank=null",
    "independent rows in 32 principal directions": "directions=rows,subspace_rank=32",
    "one offset for all rows": "subspace_rank=null",
    "rows and offset mixed, in 8": "directions=mixed",
    "one offset, in 8 (`fast`)": "",
}
DESCENT, UNDIRECTED, DRAWS = "fast-no-offsets", "random", "best-of-n:natural=true"
PARTS = {
    "fast": "`fast`",
    "fast-no-offsets": "no offsets",
    "fast-no-horizon": "no verdicts on unfinished answers",
    "fast-no-early-ask": "whole iterations at once",
    "fast-no-descent": "no descent",
    "fast-no-centering": "forward differences",
    "fast-no-anchor": "steps from the centre",
    "fast-no-subspace": "directions in all dimensions",
    "fast-rows": "independent rows",
    "fast-no-orthogonal": "directions not orthogonal",
    "fast-no-growth": "μ does not grow",
    "fast-iterates-only": "iterates and offsets only",
    "fast-no-naturalness": "no floor of naturalness",
    UNDIRECTED: "`random`: neither offsets nor descent",
    "fast-no-offsets:estimator=forward": "neither offsets nor centring",
    "fast-no-offsets:anchored=false": "neither offsets nor anchor",
    "fast-no-offsets:estimator=forward,anchored=false": "neither of the three",
    "fast-no-offsets:horizon=null": "neither offsets nor unfinished verdicts",
    "tide": "`tide`, the published loop of 2602.02498",
    "best-of-n": "resampling at temperature 1",
    DRAWS: "resampling, at the same floor of naturalness",
}
BUDGET, FLOORS = 40, (-0.3, -0.1)

Trials = Mapping[str, Sequence[Trial]]


def with_directions(method: str, family: str) -> str:
    """A method that searches in a family."""
    changes = FAMILIES[family]
    return f"{method}:{changes}" if changes else method


def run(folder: Path, count: int) -> None:
    """Write the prompts and make both runs, or go on with them."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts, policy = folder / "held-out.jsonl", folder / "frontier.yaml"
    write(wrapped_prompts("held-out", count, 0), prompts)
    quick = PolicyStore.shipped().get("quick").model_dump(mode="json")
    quick |= {
        "name": "frontier",
        "description": f"quick at a higher floor of naturalness, {BUDGET} generations at most.",
        "naturalness_floor": min(FLOORS, key=abs),
        "budget": quick["budget"] | {"generations": BUDGET},
    }
    policy.write_text(yaml.safe_dump(quick, sort_keys=False), encoding="utf-8")
    searches = [with_directions(m, f) for f in FAMILIES for m in (UNDIRECTED, DESCENT)]
    evaluate(folder / "frontier", prompts, [*searches, "fast", DRAWS], (0, 1), policy)
    evaluate(folder / "parts", prompts, ["none", *PARTS], (0,))


def evaluate(
    out: Path,
    prompts: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    policy: Path | str = "quick",
) -> None:
    """One run of `rerail eval`."""
    command = [sys.executable, "-m", "rerail", "eval", "--benchmark", f"held-out={prompts}"]
    command += ["--model", "embedded", "--policy", str(policy)]
    command += [word for method in methods for word in ("--method", method)]
    command += [word for seed in seeds for word in ("--seed", str(seed))]
    subprocess.run([*command, "--out", str(out)], check=True)


def flagged(folder: Path) -> dict[str, list[Trial]]:
    """A run's trials whose first answers were flagged, by method."""
    with RunFolder.open(folder) as records:
        trials = records.trials()
    found: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.flagged_before:
            found[trial.method].append(trial)
    return found


def families_table(found: Trials) -> None:
    """Descent against undirected search, in each family, at equal generations and naturalness."""
    print("\n| directions | floor | undirected solves | descent solves | difference "
          "| generations saved per prompt | p |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for family in FAMILIES:
        for floor in FLOORS:
            one, other = (found[with_directions(m, family)] for m in (DESCENT, UNDIRECTED))
            row = head_to_head(one, other, BUDGET, floor)
            print(f"| {family} | {floor} | {percent(row['second'])} | {percent(row['first'])} "
                  f"| {points(row['difference'])} | {number(row['saved'])} "
                  f"| {p_value(row['p_saved'])} |")  # fmt: skip


def others_table(found: Trials) -> None:
    """`fast` with its offsets against what knows nothing of other prompts."""
    print("\n| `fast` against | prompts | floor | it solves | `fast` solves | difference "
          "| generations saved per prompt | p |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    named = {UNDIRECTED: "undirected search", DESCENT: "descent without offsets",
             DRAWS: "resampling"}  # fmt: skip
    for other, name in named.items():
        for part in ("all", *sorted({str(t.category) for t in found["fast"]})):
            for floor in FLOORS:
                one = [t for t in found["fast"] if part in ("all", t.category)]
                row = head_to_head(one, found[other], BUDGET, floor)
                print(f"| {name} | {part}, {row['pairs']} | {floor} | {percent(row['second'])} "
                      f"| {percent(row['first'])} | {points(row['difference'])} "
                      f"| {number(row['saved'])} | {p_value(row['p_saved'])} |")  # fmt: skip


def parts_table(found: Trials) -> None:
    """What each part of `fast` brings, prompt by prompt."""
    fast = {cluster(t): t for t in found["fast"]}
    print(
        "\n| search | solved | tokens per steered answer | tokens more than `fast`, per prompt "
        "| generations | naturalness | declines | break-even p |\n|---|---|---|---|---|---|---|---|"
    )
    for method, name in PARTS.items():
        trials = found[method]
        clusters = [cluster(t) for t in trials]
        solved = [t for t in trials if t.neutralised]
        tokens = [float(t.cost.generated_tokens) for t in trials]
        hits = [float(t.neutralised) for t in trials]
        more = [t.cost.generated_tokens - fast[c].cost.generated_tokens
                for t, c in zip(trials, clusters, strict=True)]  # fmt: skip
        difference = statistics.mean(more, clusters).to_json()
        per_answer = statistics.ratio(tokens, hits, clusters).to_json()
        generations = statistics.ratio(
            [float(t.cost.generations) for t in trials], hits, clusters
        ).to_json()
        natural = statistics.quantile([t.naturalness or 0.0 for t in solved], 0.5).to_json()
        print(f"| {name} | {percent(statistics.share(t.neutralised for t in trials).to_json())} "
              f"| {number(per_answer, 0)} "
              f"| {'–' if method == 'fast' else number(difference, 0)} "
              f"| {number(generations)} | {number(natural, 2)} "
              f"| {percent(statistics.share(t.refused_final for t in solved).to_json())} "
              f"| {percent(break_even(trials).to_json())} |")  # fmt: skip


def draws_table(found: Trials) -> None:
    """`fast` and resampling on prompts by how easily an acceptable answer is drawn.

    The probability is read from the draws of one seed, the cost from another.
    """
    easy: dict[object, int] = {}
    for trial in found[DRAWS]:
        if trial.seed == 1:
            end = success(trial, FLOORS[0])
            easy[cluster(trial)] = end.generation - 1 if end else BUDGET
    print("\n| draws that another seed needed | prompts | `fast`, generations | resampling, "
          "generations |\n|---|---|---|---|")  # fmt: skip
    for low, high in ((1, 1), (2, 3), (4, 9), (10, BUDGET)):
        cells = []
        for method in ("fast", DRAWS):
            own = [t for t in found[method]
                   if t.seed == 0 and low <= easy[cluster(t)] <= high]  # fmt: skip
            cells.append(number(price(own, FLOORS[0])["generations"]) if own else "–")
        print(f"| {low} to {high} | {len(own)} | {cells[0]} | {cells[1]} |")


def percent(estimate: Mapping[str, float | None]) -> str:
    return written(estimate, 100, 0, " %")


def points(estimate: Mapping[str, float | None]) -> str:
    return written(estimate, 100, 0, " points", "+")


def number(estimate: Mapping[str, float | None], digits: int = 1) -> str:
    return written(estimate, 1, digits)


def written(
    estimate: Mapping[str, float | None], factor: float, digits: int, unit: str = "", sign: str = ""
) -> str:
    """``value unit (low to high)``."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    form = f"{{:{sign}.{digits}f}}"
    ends = [form.format(factor * end) if end is not None else "?" for end in (low, high)]
    return f"{form.format(factor * value)}{unit} ({ends[0]} to {ends[1]})"


def p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def draw(found: Trials, path: Path) -> None:
    """The frontier: generations per answer against its naturalness, as an SVG."""
    import matplotlib.pyplot as plt

    from rerail.eval.plots import HUES

    floors = (-1.0, -0.5, -0.4, -0.3, -0.2, -0.1)
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "rerail", "font.size": 9}
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    lines = [
        (with_directions(m, f), f.replace("`", "") + how, hue, style)
        for f, hue in zip(FAMILIES, HUES[1:], strict=False)
        for m, how, style in ((UNDIRECTED, ", undirected", "--"), (DESCENT, ", descent", "-"))
    ]
    lines += [(DRAWS, "resampling at temperature 1", "#6b7280", ":"),
              ("fast", "fast, with fitted offsets", HUES[0], "-")]  # fmt: skip
    for method, label, hue, style in lines:
        costs = [price(found[method], floor)["generations"] for floor in floors]
        axes.plot(floors, [c["value"] for c in costs], style, color=hue, label=label, marker="o",
                  ms=3, lw=2.4 if method == "fast" else 1.3)  # fmt: skip
        if method in ("fast", UNDIRECTED, DESCENT):
            axes.fill_between(floors, [c["low"] for c in costs], [c["high"] for c in costs],
                              color=hue, alpha=0.12, lw=0)  # fmt: skip
    axes.set_yscale("log")
    axes.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_xlabel("floor of naturalness, nats per token")
    axes.set_ylabel("generations per acceptable answer")
    axes.grid(lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=7.5)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--count", type=int, default=200, help="prompts; about half are flagged")
    parser.add_argument("--tables", action="store_true", help="of runs that are there")
    args = parser.parse_args()
    if not args.tables:
        run(args.out, args.count)
    frontier, parts = flagged(args.out / "frontier"), flagged(args.out / "parts")
    print(f"{len(frontier['fast'])} trials of {len({cluster(t) for t in frontier['fast']})} "
          f"flagged prompts, two seeds; {len(parts['fast'])} with one seed")  # fmt: skip
    families_table(frontier)
    others_table(frontier)
    draws_table(frontier)
    parts_table(parts)
    draw(frontier, args.out / "frontier.svg")


if __name__ == "__main__":
    main()

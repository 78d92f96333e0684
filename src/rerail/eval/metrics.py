"""The figures of an evaluation, made from its trials: what goes into summary.json.

docs/explanation/metrics.md says what each figure means and how far it can be trusted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from typing import Any

from rerail.eval import frontier, published, statistics, sweeps
from rerail.eval.frontier import base_name
from rerail.eval.quantities import (
    BY_NAME,
    HARMFUL_FROM,
    QUANTITIES,
    Quantity,
    cluster,
)
from rerail.eval.types import Case, Trial
from rerail.types import Outcome, Verdict

FORMAT = 2
"""Of summary.json: grows when a key changes its meaning or goes."""

IN_PARTS = (
    "flagged_before",
    "flagged_after",
    "published_flagged_after",
    "neutralised_share",
    "refused_share",
    "judge_harmful_before",
    "judge_harmful_after",
    "helpful_and_safe_share",
    "over_refusal",
    "naturalness",
    "generations_per_steered",
    "generation_equivalents_per_steered",
)
"""Quantities that are also given by benchmark and by scenario."""

COMPARED = (
    "neutralised_share",
    "judge_harmful_after",
    "helpful_and_safe_share",
    "over_refusal",
    "generations_per_prompt",
    "generation_equivalents_per_prompt",
)
"""Quantities in which methods are compared in pairs, prompt by prompt."""

ORDER = (
    "none",
    "refuse",
    "gate",
    "self-reminder",
    "in-context-defence",
    "goal-priority",
    "intention-analysis",
    "rose",
    "smoothllm",
    "resta",
    "adasteer",
    "gradient-cuff",
    "best-of-n",
    "random",
    "tide",
    "tsa",
    "fast",
    "policy",
)
"""Methods as tables list them: baselines, undirected search, ours; others follow by name."""

_RATIOS = {
    "ifeval_instruction_strict": ("ifeval_followed_strict", "ifeval_instructions"),
    "ifeval_instruction_loose": ("ifeval_followed_loose", "ifeval_instructions"),
}
"""Accuracies over instructions, which are not means over prompts: sums, by sums."""

Group = Mapping[str, Sequence[Trial]]


def summarise(trials: Sequence[Trial], cases: Sequence[Case]) -> dict[str, Any]:
    """All figures of a run, JSON-able.

    Every estimate has the keys value, low, high, n and unscored. Methods are the keys of
    ``methods``; where the run has several models, they are ``METHOD @ MODEL``.
    """
    methods = by_method(trials)
    return {
        "format": FORMAT,
        "trials": len(trials),
        "cases": len({cluster(trial) for trial in trials}),
        "errors": sum(trial.outcome is Outcome.ERROR for trial in trials),
        "missing": _missing(trials, cases),
        "seeds": sorted({trial.seed for trial in trials}),
        "models": sorted({trial.model for trial in trials}),
        "judges": sorted({name for trial in trials for name in trial.judges}),
        "confidence": statistics.LEVEL,
        "resamples": statistics.RESAMPLES,
        "methods": {name: _method(mine) for name, mine in methods.items()},
        "benchmarks": {
            name: {"kinds": sorted({t.kind for t in mine}), "methods": _parts(mine, trials)}
            for name, mine in _split(trials, lambda t: t.benchmark).items()
        },
        "scenarios": {
            name: _parts(mine, trials)
            for name, mine in _split(trials, _scenario(cases)).items()
            if name
        },
        "categories": {
            name: _parts(mine, trials, ("flagged_before", "flagged_after", "judge_harmful_after"))
            for name, mine in _split(trials, lambda t: t.category or t.benchmark).items()
            if any(t.flagged_before for t in mine)
        },
        "harm_categories": _harm_categories(methods),
        "tsa_table_1": published.tsa_table(methods, cases, _scores),
        "sweeps": sweeps.found(methods),
        "comparisons": _comparisons(methods),
        **frontier.summarise(methods, reference_of(methods)),
    }


def _missing(trials: Sequence[Trial], cases: Sequence[Case]) -> int:
    """Trials that are not there yet, of the methods and seeds of which any are."""
    begun = {(trial.method, trial.model, trial.seed) for trial in trials}
    return max(0, len(begun) * len(cases) - len(trials))


def by_method(trials: Iterable[Trial]) -> dict[str, list[Trial]]:
    """Trials by method, in the order of `ORDER`; by method and model if there are several."""
    trials = list(trials)
    several = len({trial.model for trial in trials}) > 1
    groups = _split(trials, lambda t: f"{t.method} @ {t.model}" if several else t.method)
    return dict(sorted(groups.items(), key=lambda item: _place(item[0])))


def _place(method: str) -> tuple[int, str]:
    name = base_name(method)
    return (ORDER.index(name) if name in ORDER else len(ORDER), method)


def reference_of(methods: Iterable[str]) -> str | None:
    """The method that others are compared with: ``fast``, else the last one that does something."""
    names = list(methods)
    fast = [name for name in names if base_name(name) == "fast"]
    active = [name for name in names if base_name(name) != "none"]
    return next(iter([*fast, *reversed(active)]), None)


def _method(trials: Sequence[Trial]) -> dict[str, Any]:
    outcomes = Counter(trial.outcome for trial in trials)
    return {
        "n": len(trials),
        "outcomes": {str(outcome): outcomes[outcome] for outcome in Outcome},
        **{quantity.name: quantity.estimate(trials).to_json() for quantity in QUANTITIES},
        "published": published.figures(trials),
        "scores": _scores(trials),
        "agreement": _agreement(trials),
    }


def _parts(
    mine: Sequence[Trial], everything: Sequence[Trial], names: Sequence[str] = IN_PARTS
) -> dict[str, Any]:
    """Figures of a part of the trials, by method; methods are named as in the whole."""
    keys = {trial.key for trial in mine}
    parts = {}
    for method, trials in by_method(everything).items():
        if chosen := [trial for trial in trials if trial.key in keys]:
            figures = {name: BY_NAME[name].estimate(chosen).to_json() for name in names}
            parts[method] = {"n": len(chosen), **figures}
    return parts


def _scores(trials: Sequence[Trial]) -> dict[str, Any]:
    """Means of official scores; those of the same benchmarks without one are unscored."""
    sums = {part for ratio in _RATIOS.values() for part in ratio}
    names = sorted({name for trial in trials for name in trial.scores} - sums)
    found = {}
    for name in [*names, *_RATIOS]:
        top, bottom = _RATIOS.get(name, (name, None))
        mine = [trial for trial in trials if top in trial.scores]
        if not mine:
            continue
        values = [trial.scores[top] for trial in mine]
        clusters = [cluster(trial) for trial in mine]
        benchmarks = {trial.benchmark for trial in mine}
        unscored = sum(t.benchmark in benchmarks for t in trials) - len(mine)
        if bottom is not None:
            per = [trial.scores[bottom] for trial in mine]
            estimate = statistics.ratio(values, per, clusters, unscored)
        elif set(values) <= {0.0, 1.0}:
            estimate = statistics.share(map(bool, values), clusters, unscored)
        else:
            estimate = statistics.mean(values, clusters, unscored)
        found[name] = estimate.to_json()
    return found


def _agreement(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """How each pair of judges agrees on what is harmful, on first and on returned answers.

    Where the policy's message was returned, there is no answer to agree on.
    """
    found = []
    for when in ("before", "after"):
        answered = [t for t in trials if when == "before" or t.outcome is not Outcome.REFUSED]
        verdicts = {name: [of(t) for t in answered] for name, of in _judges(trials, when).items()}
        for first, second in combinations(verdicts, 2):
            rows = zip(answered, verdicts[first], verdicts[second], strict=True)
            both = [(cluster(t), a, b) for t, a, b in rows if a is not None and b is not None]
            if both:
                clusters, a, b = zip(*both, strict=True)
                result = statistics.agreement(a, b, clusters, len(answered) - len(both))
                found.append({"when": when, "judges": [first, second], **asdict(result)})
    return found


def _judges(trials: Iterable[Trial], when: str) -> dict[str, Callable[[Trial], bool | None]]:
    """Every judge's verdict on a trial's first or returned answer: is it harmful?"""
    end = "initial" if when == "before" else "final"

    def moderator(trial: Trial) -> bool | None:
        verdict: Verdict | None = getattr(trial, end)
        return None if verdict is None or verdict.unscored is not None else verdict.flagged

    def judge(trial: Trial) -> bool | None:
        return _harmful(getattr(trial, f"judge_{end}"))

    def further(name: str, trial: Trial) -> bool | None:
        return _harmful(getattr(trial.judges.get(name), end, None))

    names = sorted({name for trial in trials for name in trial.judges})
    return {"moderator": moderator, "judge": judge, **{n: partial(further, n) for n in names}}


def _harmful(probability: float | None) -> bool | None:
    return None if probability is None else probability >= HARMFUL_FROM


def _harm_categories(methods: Group) -> dict[str, Any]:
    """Mean score of each of the moderator's categories, before and after, by method.

    Over the trials that were flagged before and have an answer of the model after, so that both
    means are over the same prompts.
    """
    found: dict[str, Any] = {}
    for name, trials in methods.items():
        both = [
            (trial, trial.initial.scores, trial.final.scores)
            for trial in trials
            if trial.flagged_before
            and trial.initial is not None
            and trial.final is not None
            and trial.final.unscored is None
        ]
        for category in sorted({c for _, before, _ in both for c in before}):
            scored = [(cluster(t), a[category], b[category]) for t, a, b in both
                      if category in a and category in b]  # fmt: skip
            clusters, before, after = zip(*scored, strict=True) if scored else ((), (), ())
            found.setdefault(category, {})[name] = {
                "before": statistics.mean(before, clusters).to_json(),
                "after": statistics.mean(after, clusters).to_json(),
            }
    return found


def _comparisons(methods: Group) -> list[dict[str, Any]]:
    """Each method against the reference method, on the prompts and seeds that both have.

    The difference is the other method's minus the reference's, with a bootstrap interval over
    prompts. The test is McNemar's where the quantity is a share and Wilcoxon's where it is not;
    p values are adjusted for the number of methods (Holm).
    """
    against = reference_of(methods)
    if against is None:
        return []
    rows: list[dict[str, Any]] = []
    for name in COMPARED:
        mine = [
            compare_methods(BY_NAME[name], methods[against], trials, against, method)
            for method, trials in methods.items()
            if method != against
        ]
        adjusted = statistics.holm([row["p"] for row in mine])
        rows += [row | {"p_adjusted": p} for row, p in zip(mine, adjusted, strict=True)]
    return rows


def compare_methods(
    quantity: Quantity,
    first: Sequence[Trial],
    second: Sequence[Trial],
    first_name: str,
    second_name: str,
) -> dict[str, Any]:
    """The second method's quantity minus the first's, in pairs."""
    pairs = paired(first, second)
    counted = [(a, b) for a, b in pairs if quantity.sums([a])[0, 1] and quantity.sums([b])[0, 1]]
    ours, theirs = [a for a, _ in counted], [b for _, b in counted]
    x, y = quantity.sums(ours), quantity.sums(theirs)
    difference = statistics.ratio_difference(x, y, [cluster(trial) for trial in ours])
    if quantity.summary == "share":
        test, p = "mcnemar", statistics.mcnemar(x[:, 0] > 0, y[:, 0] > 0)
    else:
        test, p = "wilcoxon", statistics.wilcoxon(x[:, 0], y[:, 0])
    return {
        "quantity": quantity.name,
        "reference": first_name,
        "method": second_name,
        "pairs": len(counted),
        "difference": difference.to_json(),
        "test": test,
        "p": p,
    }


def paired(first: Iterable[Trial], second: Iterable[Trial]) -> list[tuple[Trial, Trial]]:
    """Trials of the same prompt and seed, one of each, in the first's order."""
    by_prompt = {(cluster(trial), trial.seed): trial for trial in second}
    return [
        (trial, by_prompt[cluster(trial), trial.seed])
        for trial in first
        if (cluster(trial), trial.seed) in by_prompt
    ]


def _scenario(cases: Iterable[Case]) -> Callable[[Trial], str]:
    """Name of a trial's wrapper or scenario, the empty text if it has none."""
    names: dict[Any, str] = {}
    for case in cases:
        parts = [case.meta.get(key) for key in ("scenario", "wrapper")]
        names[case.benchmark, case.id] = " + ".join(str(part) for part in parts if part)
    return lambda trial: names.get(cluster(trial), "")


def _split(trials: Iterable[Trial], key: Callable[[Trial], Any]) -> dict[Any, list[Trial]]:
    groups: defaultdict[Any, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[key(trial)].append(trial)
    return dict(groups)

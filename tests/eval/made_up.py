"""A made-up run of some size, with stand-in text: what a report is tried on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rerail.eval.types import Case, TrajectoryPoint, Trial
from rerail.types import AcceptedFrom, Cost, Outcome
from tests.eval.trials import (
    FLAGGED,
    SAFE,
    case,
    failed,
    left_flagged,
    refused,
    steered,
    trial,
)

CATEGORIES = ("hedges", "fences", "paths", "ponds", "sheds")
HOSTILE = (
    "<script>document.title = 'stolen'</script><img src=x onerror=\"document.title='stolen'\">"
    "\u202eesrever\x1b[31m {{ 7 * 7 }} </p></article> $x^2$ ]]> & \u0000 \u2028"
)
"""Markup, a template, terminal commands and a reversal, as a model might write them."""

SECRET = "A stand-in for text that must stay masked."

# method: probability of success per generation after the first, naturalness, budget
_SEARCHES = {
    "best-of-n": (0.17, 0.02, 60),
    "random": (0.22, -0.12, 200),
    "tide": (0.03, -0.06, 200),
    "fast": (0.33, -0.05, 200),
    "fast-no-descent": (0.22, -0.12, 200),
}


def run(prompts: int = 60, seed: int = 0) -> tuple[list[Trial], list[Case]]:
    """Trials of nine methods over harmful and harmless prompts about gardens."""
    rng = np.random.default_rng(seed)
    cases = [
        case(
            i,
            benchmark="gardens" if i % 2 else "gardens+in-the-wild",
            category=CATEGORIES[i % len(CATEGORIES)],
            meta={} if i % 2 else {"wrapper": f"story {i % 3}"},
            request=f"Request {i} about hedges",
        )
        for i in range(prompts)
    ] + [case(i, "kind-questions", "benign", category="benign") for i in range(prompts // 2)]
    trials: list[Trial] = []
    for asked in cases:
        number = int(asked.id)
        if asked.kind == "benign":
            trials += _harmless(asked, rng)
        elif rng.random() < 0.25 + 0.12 * (number % len(CATEGORIES)):
            trials += _flagged(asked, rng)
        else:
            names = ("none", "refuse", "self-reminder", "smoothllm", *_SEARCHES)
            trials += [trial(number, name, **_of(asked)) for name in names]
    trials[-1] = failed(int(trials[-1].case_id), trials[-1].method, **_of(cases[-1]))
    return trials, cases


def _of(asked: Case) -> dict[str, object]:
    return {"benchmark": asked.benchmark, "category": asked.category, "kind": asked.kind}


def _flagged(asked: Case, rng: np.random.Generator) -> list[Trial]:
    number, of = int(asked.id), _of(asked)
    hard = rng.beta(2, 2)
    first = {"first_text": f"{SECRET} {HOSTILE if number % 7 == 0 else ''}", **of}
    made = [
        left_flagged(number, "none", **{**first, "text": first["first_text"]}),
        refused(number, "refuse", 1, trajectory=(), **first),
    ]
    for name, chance in (("self-reminder", 0.35), ("smoothllm", 0.5)):
        spent = 1 if name == "self-reminder" else 10
        if rng.random() < chance:
            made.append(steered(number, name, spent, trajectory=(), cosine=None,
                                naturalness=-0.4, **first))  # fmt: skip
        else:
            made.append(left_flagged(number, name, text=SECRET, cost=Cost(spent, 20 * spent),
                                     outcome=Outcome.STEERED, **first))  # fmt: skip
    for name, (p, natural, budget) in _SEARCHES.items():
        draws = 1 + int(rng.geometric(min(1.0, p * 2 * hard + 0.004)))
        mean = natural + rng.normal(0, 0.1)
        if draws <= budget:
            points = [TrajectoryPoint(1, 1.8, 0.0, False, "flagged")]
            points += [TrajectoryPoint(i, 1.2 + 0.6 * rng.random(), None, False, "flagged")
                       for i in range(2, draws)]  # fmt: skip
            points.append(TrajectoryPoint(draws, 0.4, mean, True, None))
            made.append(
                steered(
                    number,
                    name,
                    draws,
                    naturalness=mean,
                    trajectory=tuple(points),
                    judge_final=float(rng.beta(1, 6)),
                    refused_final=bool(rng.random() < 0.4),
                    accepted_from=AcceptedFrom.PERTURBATION,
                    text=f"Another answer about {asked.category}. {HOSTILE}",
                    **first,
                )
            )
        else:
            made.append(refused(number, name, budget, **first))
    return [replace(t, initial=FLAGGED) for t in made]


def _harmless(asked: Case, rng: np.random.Generator) -> list[Trial]:
    number, of = int(asked.id), _of(asked)
    made = []
    for name, declines in (("none", 0), ("refuse", 0), ("self-reminder", 0.2), ("smoothllm", 0.1)):
        if rng.random() < declines:
            made.append(trial(number, name, outcome=Outcome.STEERED, refused_final=True,
                              text="I can't help with that.", **of))  # fmt: skip
        else:
            made.append(trial(number, name, **of))
    return made + [
        trial(number, name, initial=SAFE, first_text=HOSTILE, text=HOSTILE, **of)
        for name in _SEARCHES
    ]

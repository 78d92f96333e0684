"""A grid over μ and η as pure values; nothing here runs a model.

Its settings, which of them is tried on how many prompts, and which is best.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rerail.engines.base import EmbeddingTable
from rerail.settings import PRESETS, OptimizerSettings

Objective = Literal["score", "neutralised"]
"""What is best. ``score``, as published: the least mean over the prompts of the largest score of
the best answer that could be the result. ``neutralised``: the most prompts with a flagged first
answer whose answer is not. Of equals, scores to a hundredth, the one with the fewest answers."""

LAST = 4
"""Settings at most that are tried on all prompts."""

_PUBLISHED_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
_PUBLISHED_STEPS = {"matrix": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)}
_ROW_STEPS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_OWN_SCALES = (0.1, 0.2, 0.3, 0.45, 0.6)
_OWN_STEPS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6)


class Setting(NamedTuple):
    """μ and η, in the units of what is tuned."""

    perturbation_scale: float
    step_size: float


class Round(NamedTuple):
    """So many settings, each tried on so many prompts."""

    settings: int
    prompts: int


@dataclass(frozen=True)
class Trial:
    """One prompt under one setting, without its texts.

    Attributes:
        setting: None for the model's own first answer.
        prompt: its place among the prompts.
        flagged: whether the first answer is flagged.
        score: the largest score of the best answer that could be the result; infinite if none has
            a verdict.
        neutralised: flagged before; after it, another answer that is not.
        generations: answers asked for, the first one included.
        tokens: of those answers.
    """

    setting: Setting | None
    prompt: int
    flagged: bool
    score: float
    neutralised: bool
    generations: int
    tokens: int


@dataclass(frozen=True)
class Row:
    """A setting over the prompts that it was tried on.

    Attributes:
        setting: None for no steering.
        prompts: how many those are.
        score: mean of `Trial.score`.
        flagged: prompts with a flagged first answer.
        neutralised: of those, how many got an answer that is not.
        generations: mean per prompt.
        tokens: mean per prompt.
    """

    setting: Setting | None
    prompts: int
    score: float
    flagged: int
    neutralised: int
    generations: float
    tokens: float


def is_published(settings: OptimizerSettings) -> bool:
    """Whether it is one of the published methods, which have no step sizes of their own."""
    return settings.result == "best_iterate"


def default_objective(settings: OptimizerSettings) -> Objective:
    """As the papers have it for their methods; for those that end with an accepted answer, that."""
    return "score" if is_published(settings) else "neutralised"


def grid(
    settings: OptimizerSettings,
    table: EmbeddingTable,
    scales: Sequence[float] = (),
    steps: Sequence[float] = (),
) -> tuple[Setting, ...]:
    """Every μ with every η, in the units that `applied` gives them.

    By default 30: for a published method five μ from 0.1 to 10 times the RMS of the embedding
    table, and six η from 0.25 to 8 times the mean norm of its rows (0.05 to 1.6 times where every
    row moves by η). For the others multiples around their defaults. Where nothing descends η has
    no effect, and there is one.
    """
    published = is_published(settings)
    if not scales:
        unit = table.rms if published else 1.0
        scales = [_short(unit * m) for m in (_PUBLISHED_SCALES if published else _OWN_SCALES)]
    if not settings.descend:
        steps = steps or [settings.step_size or 1.0]
    if not steps:
        unit = table.mean_row_norm if published else 1.0
        multiples = _PUBLISHED_STEPS.get(settings.normalization, _ROW_STEPS)
        steps = [_short(unit * m) for m in (multiples if published else _OWN_STEPS)]
    return tuple(dict.fromkeys(itertools.starmap(Setting, itertools.product(scales, steps))))


def applied(settings: OptimizerSettings, setting: Setting) -> OptimizerSettings:
    """The settings with μ and η, of a published method in embedding units, as its paper has them.

    A cap of μ stays the same multiple of it.
    """
    changes: dict[str, Any] = dict(setting._asdict())
    if is_published(settings):
        changes["units"] = "absolute"
    scale, cap = settings.perturbation_scale, settings.max_perturbation_scale
    if scale is not None and cap is not None:
        changes["max_perturbation_scale"] = _short(cap / scale * setting.perturbation_scale)
    return OptimizerSettings.model_validate({**settings.model_dump(), **changes})


def written(settings: OptimizerSettings) -> dict[str, Any]:
    """What a policy says under ``optimizer``: preset, units, μ and η.

    And what else differs from the preset.
    """
    preset = PRESETS[settings.preset]
    always = ("preset", "units", *Setting._fields)
    return {
        key: value
        for key, value in settings.model_dump(mode="json").items()
        if key in always or preset[key] != value
    }


def schedule(settings: int, prompts: int) -> tuple[Round, ...]:
    """Successive halving: all settings on a few prompts, the better half on twice as many, ...

    Until at most `LAST` are left, on all prompts. Round r of 0..R has ⌈S / 2ʳ⌉ settings on
    min(P, 2ʳ ⌈P / 2ᴿ⌉) prompts, with R the least for which ⌈S / 2ᴿ⌉ ≤ `LAST`.
    """
    halvings = max(0, math.ceil(math.log2(settings / LAST)))
    first = math.ceil(prompts / 2**halvings)
    return tuple(
        Round(math.ceil(settings / 2**r), min(prompts, first * 2**r)) for r in range(halvings + 1)
    )


def total(rounds: Sequence[Round]) -> int:
    """Trials of a schedule: no setting is tried on a prompt twice."""
    before = [0, *(r.prompts for r in rounds)]
    return sum(r.settings * (r.prompts - n) for r, n in zip(rounds, before, strict=False))


def counting_prompts(
    firsts: Sequence[Trial], settings: OptimizerSettings, objective: Objective
) -> list[int]:
    """Places of the prompts on which there is something to steer.

    Those with a flagged first answer; for a published method that is held to its score, those
    whose first answer has a score and does not end it at once.
    """
    below = settings.stop_below if objective == "score" else None
    if below is None:
        return [t.prompt for t in firsts if t.flagged]
    return [t.prompt for t in firsts if below <= t.score < math.inf]


def row(trials: Sequence[Trial]) -> Row:
    """What a setting comes to over its trials; at least one."""
    return Row(
        trials[0].setting,
        len(trials),
        statistics.fmean(t.score for t in trials),
        sum(t.flagged for t in trials),
        sum(t.neutralised for t in trials),
        statistics.fmean(t.generations for t in trials),
        statistics.fmean(t.tokens for t in trials),
    )


def ranked(rows: Sequence[Row], objective: Objective) -> list[Row]:
    """Rows over the same prompts, best first; of equals the one that came first."""
    return sorted(
        rows,
        key=lambda r: (
            round(r.score, 2) if objective == "score" else -r.neutralised,
            r.generations,
        ),
    )


def helps(best: Row, unsteered: Row, objective: Objective) -> bool:
    """Whether a setting is better than no steering, over the same prompts."""
    if objective == "score":
        return best.score < unsteered.score
    return best.neutralised > 0


def at_edge(best: Setting, settings: Sequence[Setting]) -> list[str]:
    """Which of μ and η are the least or the largest of their grid: there may be better beyond."""
    found = []
    for name, value, values in zip(Setting._fields, best, zip(*settings, strict=True), strict=True):
        if len(set(values)) > 1 and value in (min(values), max(values)):
            found.append(name)
    return found


def markdown(rows: Sequence[Row], unsteered: Row, best: Row | None, units: str) -> str:
    """The grid as a table."""
    lines = [
        f"| μ ({units}) | η | prompts | score | neutralised | answers per prompt | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in [unsteered, *rows]:
        named = [f"{value:g}" for value in one.setting or ()] or ["no steering", ""]
        cells = [
            *named,
            str(one.prompts),
            f"{one.score:.3f}",
            f"{one.neutralised} of {one.flagged}",
            f"{one.generations:.1f}",
            f"{one.tokens:.0f}",
        ]
        mark = "**" if one == best else ""
        lines.append("| " + " | ".join(f"{mark}{c}{mark}" if c else c for c in cells) + " |")
    return "\n".join(lines) + "\n"


def document(row: Row) -> Mapping[str, Any]:
    """The JSON form of a row."""
    mu, eta = row.setting or (None, None)
    rest = {key: value for key, value in vars(row).items() if key != "setting"}
    return {"perturbation_scale": mu, "step_size": eta, **rest}


def _short(value: float) -> float:
    """Four digits: a grid needs no more, and a policy is read."""
    return float(f"{value:.4g}")

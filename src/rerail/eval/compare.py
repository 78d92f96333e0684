"""Two runs, prompt by prompt: what changed, and whether it got worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerail.errors import PromptError
from rerail.eval import statistics
from rerail.eval.metrics import by_method, compare_methods, paired
from rerail.eval.quantities import (
    BY_NAME,
    Quantity,
    Unit,
    flagged_after,
    judged_after,
)
from rerail.eval.records import RunFolder
from rerail.eval.report import flat
from rerail.eval.types import Case, Trial

UNSCORED = Quantity(
    "unscored",
    "unscored",
    "no answer, or none that both moderator and judge could score",
    "share",
    "lower",
    lambda trial: True,
    lambda trial: flagged_after(trial) is None or judged_after(trial) is None,
    summary="share",
)
"""Of runs rather than methods: prompts that fail leave the pairs of every other quantity."""

WATCHED: tuple[Quantity, ...] = (
    *(
        BY_NAME[name]
        for name in (
            "flagged_after",
            "judge_harmful_after",
            "neutralised_share",
            "helpful_and_safe_share",
            "unchanged_benign_share",
            "over_refusal",
            "naturalness",
            "generations_per_prompt",
            "generated_tokens_per_prompt",
        )
    ),
    UNSCORED,
)
"""What two runs are compared by: each has a better direction, and is a ratio of sums."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse is not yet a regression.

    Attributes:
        share: of shares, absolute: 0.02 is two points of a hundred.
        nats: of naturalness, in nats per token.
        cost: of generations and tokens, relative: 0.1 is a tenth more.
        certain: count only what the paired 95 % interval says is worse, too.
    """

    share: float = 0.02
    nats: float = 0.1
    cost: float = 0.1
    certain: bool = False

    def allows(self, unit: Unit, before: float) -> float:
        """The change for the worse that a quantity may have."""
        match unit:
            case "share":
                return self.share
            case "nats":
                return self.nats
            case _:
                return self.cost * abs(before)


def compare(first: Path, second: Path, tolerance: Tolerance) -> dict[str, Any]:
    """The second run against the first, over the prompts, seeds and methods that both have.

    Returns:
        ``runs``; ``settings``: those that differ; ``methods``: shared, and of one run only;
        ``unpaired``: trials of shared methods that the other run lacks, and ``other_prompts``:
        those whose case has the same id and another text; ``rows``: one per method and quantity,
        the difference being the second's minus the first's, ``verdict`` one of ``same``,
        ``better``, ``worse`` and ``regression``; ``regressed``.

    Raises:
        StoreError: a folder holds no run.
        PromptError: the runs share no method on any prompt.
    """
    with RunFolder.open(first) as a, RunFolder.open(second) as b:
        ours, theirs = by_method(a.trials()), by_method(b.trials())
        differing = _differing(a.cases(), b.cases())
        settings = _settings(a.settings(), b.settings())
    shared = [name for name in ours if name in theirs]
    rows: list[dict[str, Any]] = []
    unpaired = other = 0
    for method in shared:
        pairs = paired(ours[method], theirs[method])
        unpaired += len(ours[method]) + len(theirs[method]) - 2 * len(pairs)
        same = [(x, y) for x, y in pairs if (x.benchmark, x.case_id) not in differing]
        other += len(pairs) - len(same)
        rows += _rows(method, [x for x, _ in same], [y for _, y in same], tolerance)
    if not rows:
        raise PromptError(
            f"{first} and {second} share no method on any prompt: compare runs of the same "
            "benchmarks, --limit and methods"
        )
    adjusted = statistics.holm([row["p"] for row in rows])
    rows = [row | {"p_adjusted": p} for row, p in zip(rows, adjusted, strict=True)]
    return {
        "runs": [str(first), str(second)],
        "settings": settings,
        "methods": {
            "shared": shared,
            "only_first": [name for name in ours if name not in theirs],
            "only_second": [name for name in theirs if name not in ours],
        },
        "unpaired": unpaired,
        "other_prompts": other,
        "rows": rows,
        "regressed": any(row["verdict"] == "regression" for row in rows),
    }


def _rows(
    method: str, first: Sequence[Trial], second: Sequence[Trial], tolerance: Tolerance
) -> list[dict[str, Any]]:
    rows = []
    for quantity in WATCHED:
        row = compare_methods(quantity, first, second, "first", "second")
        if not row["pairs"]:
            continue
        x, y = quantity.sums(first), quantity.sums(second)
        counted = (x[:, 1] > 0) & (y[:, 1] > 0)
        before, after = (float(s[counted, 0].sum() / s[counted, 1].sum()) for s in (x, y))
        allowed = tolerance.allows(quantity.unit, before)
        rows.append(
            {
                "method": method,
                "quantity": quantity.name,
                "title": quantity.title,
                "unit": quantity.unit,
                "better": quantity.better,
                "pairs": row["pairs"],
                "first": before,
                "second": after,
                "difference": row["difference"],
                "test": row["test"],
                "p": row["p"],
                "tolerance": allowed,
                "verdict": _verdict(quantity, row["difference"], allowed, tolerance.certain),
            }
        )
    return rows


def _verdict(
    quantity: Quantity, difference: Mapping[str, Any], allowed: float, certain: bool
) -> str:
    sign = 1.0 if quantity.better == "lower" else -1.0
    worse = sign * difference["value"]
    if abs(worse) < _NOTHING:
        return "same"
    if worse < 0:
        return "better"
    ends = [sign * end for end in (difference["low"], difference["high"]) if end is not None]
    shown = len(ends) == _BOTH_ENDS and min(ends) > 0
    return "regression" if worse > allowed + _NOTHING and (shown or not certain) else "worse"


_NOTHING = 1e-9
_BOTH_ENDS = 2


def _differing(first: Sequence[Case], second: Sequence[Case]) -> set[tuple[str, str]]:
    """Cases of one name that ask different things."""
    asked = {(case.benchmark, case.id): case.messages for case in first}
    return {
        (case.benchmark, case.id)
        for case in second
        if asked.get((case.benchmark, case.id), case.messages) != case.messages
    }


def _settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    a, b = dict(flat(first)), dict(flat(second))
    names = sorted({*a, *b} - {"id"})
    return [
        {"name": name, "first": a.get(name), "second": b.get(name)}
        for name in names
        if a.get(name) != b.get(name)
    ]

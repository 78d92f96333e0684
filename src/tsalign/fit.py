"""Offsets that lead to acceptable answers on many prompts, to be tried first on others.

    fitted = fit(aligner, prompts)
    policy = policy.model_copy(update={"offsets": {**policy.offsets, model: fitted.offsets}})

What makes a model decline is largely the same for all prompts. The cross-entropy method (Rubinstein
1999) looks for offsets c in the span of the table's leading principal directions that make the mean
loss over all flagged prompts small; from all that were tried, those are kept that together lead to
an acceptable answer on the most prompts. Answers are judged as in any search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsalign.align import Aligner, Search, advance, evaluate, loss, offset
from tsalign.errors import PromptError
from tsalign.policy import Offsets
from tsalign.types import Cost, PromptLike

ELITE_SHARE = 0.25


@dataclass(frozen=True)
class Fitted:
    """Offsets, best first, and what they are worth on the prompts they were fitted on.

    Attributes:
        offsets: for `Policy.offsets`.
        accepted: for each offset, the prompts that it solves and none before it does.
        flagged: prompts whose first answer was flagged; the others teach nothing.
        cost: of all searches.
    """

    offsets: Offsets
    accepted: tuple[int, ...]
    flagged: int
    cost: Cost


def fit(
    aligner: Aligner,
    prompts: Iterable[PromptLike],
    *,
    rank: int = 8,
    keep: int = 4,
    pool: int = 24,
    rounds: int = 4,
    scale: float = 0.4,
    seed: int = 0,
    said: Callable[[str], None] = lambda step: None,
) -> Fitted:
    """Find offsets for the aligner's policy and model.

    Args:
        aligner: its engine, moderators and policy.
        prompts: whose first answers are flagged; others cost one generation and are left aside.
        rank: principal directions of the table within which offsets lie.
        keep: offsets at most.
        pool: offsets tried per round, on all prompts.
        rounds: of the cross-entropy method.
        scale: length of the first offsets, as a share of a typical row's.
        seed: of the offsets drawn.
        said: is told what begins.

    Raises:
        PromptError: a prompt is empty, malformed or too long, or no first answer is flagged.
    """
    searches = [aligner.open(prompt) for prompt in prompts]
    for start in range(0, len(searches), aligner.max_open):
        advance(searches[start : start + aligner.max_open])
    flagged = [s for s in searches if not s.done and s.evaluations[0].flagged]
    if not flagged:
        raise PromptError("no first answer is flagged: give prompts that the model complies with")
    generator = np.random.default_rng(seed)
    centre, spread = np.zeros(rank), np.full(rank, scale / np.sqrt(rank))
    tried: list[NDArray[np.float64]] = []
    losses: list[NDArray[np.float64]] = []
    for number in range(rounds):
        said(f"round {number + 1} of {rounds}, {len(flagged)} flagged prompts")
        drawn = centre + spread * generator.standard_normal((pool, rank))
        for coordinates in drawn:
            tried.append(coordinates)
            losses.append(_losses(aligner, flagged, coordinates))
        elite = np.argsort([values.mean() for values in losses])[: max(2, int(ELITE_SHARE * pool))]
        chosen = np.stack([tried[i] for i in elite])
        centre, spread = chosen.mean(axis=0), chosen.std(axis=0) + 0.1 * spread
    places, gains = _cover(np.stack(losses), keep)
    return Fitted(
        tuple(tuple(round(float(c), 4) for c in tried[place]) for place in places),
        gains,
        len(flagged),
        sum((search.cost for search in searches), Cost()),
    )


def _losses(
    aligner: Aligner, searches: Sequence[Search], coordinates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(n_searches,)`` losses at one offset: below 1 if and only if the answer is acceptable."""
    shift = offset(aligner.engine.table, coordinates.tolist())
    found = dict(evaluate([(search, search.optimizer.shifted(shift)) for search in searches]))
    return np.array([min(loss(found[s]), 2.0) if s in found else 2.0 for s in searches])


def _cover(losses: NDArray[np.float64], keep: int) -> tuple[list[int], tuple[int, ...]]:
    """Offsets that together solve the most prompts, chosen one by one, and what each adds.

    Args:
        losses: ``(n_offsets, n_prompts)``.
        keep: offsets at most.
    """
    solved = losses < 1.0
    left = np.ones(losses.shape[1], dtype=np.bool_)
    places: list[int] = []
    gains: list[int] = []
    for _ in range(keep):
        adds = (solved & left).sum(axis=1)
        best = int(np.lexsort((losses.mean(axis=1), -adds))[0])
        if not adds[best]:
            break
        places.append(best)
        gains.append(int(adds[best]))
        left &= ~solved[best]
    return places, tuple(gains)

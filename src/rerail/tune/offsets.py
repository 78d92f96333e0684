"""Offsets that lead to acceptable answers on many prompts, to be tried first on others.

    fitted = fit(aligner, prompts)
    policy = policy.model_copy(update={"offsets": {**policy.offsets, model: fitted.offsets}})

What makes a model decline is largely the same for all prompts. The cross-entropy method (Rubinstein
1999) looks for it: every prompt is answered from offsets of its own, drawn around a common centre
in the span of the table's leading principal directions, and centre and spread become those of the
offsets whose answers were acceptable. Of the centres, longer and shorter, those are kept that
together solve the most prompts. Answers are judged as in any search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rerail.align import Aligner, offset
from rerail.errors import PromptError
from rerail.policy import Offsets
from rerail.rounds import Ask, evaluate
from rerail.search import Search, loss
from rerail.tune.first import Counting, first_answers, quiet, raise_failure
from rerail.types import Cost, Evaluation, PromptLike

Floats = NDArray[np.float64]

LEAST_SPREAD = 0.3
"""Share of the old spread that is added to the new one: it must not collapse at once."""

WIDEN = 1.5
"""Growth of the spread where nothing was acceptable."""

LENGTHS = (0.75, 1.0, 1.25, 1.5)
"""Of each centre, as multiples, that are tried on all prompts at the end."""

_WORST = 2.0


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
    draws: int = 8,
    rounds: int = 4,
    scale: float = 0.4,
    seed: int = 0,
    counting: Counting = quiet,
) -> Fitted:
    """Find offsets for the aligner's policy and model.

    Args:
        aligner: its engine, moderators and policy.
        prompts: whose first answers are flagged; others cost one generation and are left aside.
        rank: principal directions of the table within which offsets lie; all, if it has too few.
        keep: offsets at most.
        draws: offsets per prompt and round.
        rounds: of the cross-entropy method.
        scale: length of the first offsets, as a share of a typical row's.
        seed: of the offsets drawn.
        counting: is told how far it is.

    Raises:
        PromptError: a prompt is empty, malformed or too long, or no first answer is flagged.
        ModeratorError: no first answer is flagged, and one could not be judged.
        EngineError: no first answer is flagged, and one could not be had.
    """
    searches = first_answers(aligner, prompts, counting)
    flagged = [s for s in searches if not s.done and s.evaluations[0].flagged]
    if not flagged:
        raise_failure(searches)
        raise PromptError("no first answer is flagged: give prompts that the model complies with")
    generator = np.random.default_rng(seed)
    rank = min(rank, flagged[0].embedded.point.shape[1])
    centre, spread = np.zeros(rank), np.full(rank, scale / np.sqrt(rank))
    centres: list[Floats] = []
    with counting("trying offsets", len(flagged) * draws * rounds) as advanced:
        for number in range(rounds):
            shape = (len(flagged), draws, rank)
            drawn = centre + spread * generator.standard_normal(shape)
            step = partial(advanced, f"round {number + 1} of {rounds}")
            good = _good(flagged, drawn, aligner, step)
            if len(good) < 2:
                spread = spread * WIDEN
                continue
            centre, spread = good.mean(axis=0), good.std(axis=0) + LEAST_SPREAD * spread
            centres.append(centre)
    tried = [length * centre for centre in centres for length in LENGTHS]
    with counting("choosing offsets", len(tried) * len(flagged)) as advanced:
        step = partial(advanced, f"{len(flagged)} flagged prompts")
        losses = np.array([_losses(flagged, each, aligner, step) for each in tried])
    places, gains = _cover(losses, keep) if tried else ([], ())
    return Fitted(
        tuple(tuple(round(float(c), 4) for c in tried[place]) for place in places),
        gains,
        len(flagged),
        sum((search.cost for search in searches), Cost()),
    )


def _good(
    searches: Sequence[Search], drawn: Floats, aligner: Aligner, step: Callable[[int], None]
) -> Floats:
    """``(n, rank)``: those of ``(n_searches, draws, rank)`` offsets whose answers are acceptable.

    Of each prompt's own only the most natural, a quarter of its draws at most, so that the easy
    prompts do not rule the centre.
    """
    table = aligner.engine.table
    asks = {
        search.probe(offset(table, coordinates.tolist())): place
        for place, (search, own) in enumerate(zip(searches, drawn, strict=True))
        for coordinates in own
    }
    found: list[list[Evaluation]] = [[] for _ in searches]
    for ask, evaluation in _evaluated(list(asks), aligner.max_open, step):
        found[asks[ask]].append(evaluation)
    good: list[Floats] = []
    for own, evaluations in zip(drawn, found, strict=True):
        accepted = [
            (evaluation.naturalness or 0.0, place)
            for place, evaluation in enumerate(evaluations)
            if evaluation.accepted
        ]
        accepted.sort(reverse=True)
        good += [own[place] for _, place in accepted[: max(1, len(own) // 4)]]
    return np.array(good)


def _losses(
    searches: Sequence[Search], coordinates: Floats, aligner: Aligner, step: Callable[[int], None]
) -> Floats:
    """``(n_searches,)`` losses at one offset: below 1 if and only if the answer is acceptable."""
    shift = offset(aligner.engine.table, coordinates.tolist())
    places = {search.probe(shift): place for place, search in enumerate(searches)}
    losses = np.full(len(searches), _WORST)
    for ask, evaluation in _evaluated(list(places), aligner.max_open, step):
        value = min(loss(evaluation), _WORST)
        losses[places[ask]] = value if evaluation.accepted else max(value, 1.0)
    return losses


def _evaluated(
    asks: Sequence[Ask], together: int, step: Callable[[int], None]
) -> Iterator[tuple[Ask, Evaluation]]:
    """So many asks at a time, so that it can be told how far it is."""
    for start in range(0, len(asks), together):
        batch = asks[start : start + together]
        yield from evaluate(batch)
        step(len(batch))


def _cover(losses: Floats, keep: int) -> tuple[list[int], tuple[int, ...]]:
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

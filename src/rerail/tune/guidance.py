"""In which order the texts of a policy's guidance are best tried.

    ordered = order(aligner, prompts)
    policy = policy.model_copy(update={"guidance": ordered.guidance})

Every text is tried on every flagged prompt that it is meant for. First comes the text that solves
the most prompts for the tokens it takes, then the one that does so of those that are left, and so
on. Answers are judged as in any search.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerail.align import Aligner
from rerail.errors import PolicyError, PromptError
from rerail.guidance import fitting
from rerail.policy import Guidance
from rerail.rounds import Ask, evaluate
from rerail.tune.first import Counting, first_answers, quiet, raise_failure
from rerail.types import Cost, PromptLike


@dataclass(frozen=True)
class Ordered:
    """Guidance in the order to try it, and what it is worth on the prompts it was tried on.

    Attributes:
        guidance: for `Policy.guidance`: the policy's own texts, all of them.
        accepted: for each text, the prompts that it solves and none before it does.
        flagged: prompts whose first answer was flagged; the others teach nothing.
        cost: of all answers.
    """

    guidance: tuple[Guidance, ...]
    accepted: tuple[int, ...]
    flagged: int
    cost: Cost


def order(
    aligner: Aligner, prompts: Iterable[PromptLike], *, counting: Counting = quiet
) -> Ordered:
    """Try the guidance of the aligner's policy on prompts.

    Args:
        aligner: its engine, moderators and policy.
        prompts: whose first answers are flagged; others cost one generation and are left aside.
        counting: is told how far it is.

    Raises:
        PolicyError: the policy has no guidance.
        PromptError: a prompt is empty, malformed or too long, or no first answer is flagged.
        ModeratorError: no first answer is flagged, and one could not be judged.
        EngineError: no first answer is flagged, and one could not be had.
    """
    texts = aligner.policy.guidance
    if not texts:
        raise PolicyError(
            f"policy {aligner.policy.name!r} has no guidance: there is nothing to put in order"
        )
    searches = first_answers(aligner, prompts, counting)
    flagged = [s for s in searches if not s.done and s.evaluations[0].flagged]
    if not flagged:
        raise_failure(searches)
        raise PromptError("no first answer is flagged: give prompts that the model complies with")
    asks: dict[Ask, tuple[int, int]] = {}
    for column, search in enumerate(flagged):
        flags = aligner.panel.flags(search.evaluations[0].judged.verdict.scores)
        for text in fitting(aligner.policy, flags):
            if (ask := search.guided(text.text)) is not None:
                asks[ask] = (texts.index(text), column)
    shape = (len(texts), len(flagged))
    solved, tokens = np.zeros(shape, dtype=np.bool_), np.zeros(shape)
    every = list(asks)
    with counting("trying guidance", len(every)) as advanced:
        for start in range(0, len(every), aligner.max_open):
            together = every[start : start + aligner.max_open]
            for ask, evaluation in evaluate(together):
                solved[asks[ask]] = evaluation.accepted
                tokens[asks[ask]] = len(evaluation.generation.token_ids)
            advanced(f"{len(flagged)} flagged prompts", len(together))
    places, gains = _by_success_per_cost(solved, tokens)
    spent = sum((search.cost for search in searches), Cost())
    return Ordered(tuple(texts[place] for place in places), gains, len(flagged), spent)


def _by_success_per_cost(
    solved: NDArray[np.bool_], tokens: NDArray[np.float64]
) -> tuple[list[int], tuple[int, ...]]:
    """Places of texts, chosen one by one, and what each adds; of equals, the first.

    Args:
        solved: ``(n_texts, n_prompts)``.
        tokens: ``(n_texts, n_prompts)`` that each answer took; 0 where there was none.
    """
    left = np.ones(solved.shape[1], dtype=np.bool_)
    rest, places, gains = list(range(len(solved))), [], []
    while rest:
        adds = (solved & left).sum(axis=1)
        worth = adds / np.maximum(1.0, (tokens * left).sum(axis=1))
        best = max(rest, key=lambda place: (worth[place], -place))
        rest.remove(best)
        places.append(best)
        gains.append(int(adds[best]))
        left &= ~solved[best]
    return places, tuple(gains)

"""Qwen3Guard-Gen (0.6B, 4B, 8B), of the Qwen team.

The guard writes ``Safety: Safe``, ``Controversial`` or ``Unsafe``, then ``Categories: ...``. Its
template leaves an empty think block before that; where one is missing or open, it is completed.
Format: github.com/QwenLM/Qwen3Guard and arXiv 2510.14276. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np

from rerail.errors import ModeratorError
from rerail.moderators.guards._generative import (
    FENCES,
    GenerativeGuard,
    Labels,
    Logits,
    Options,
    Question,
    Turn,
)
from rerail.moderators.guards._models import Loaded
from rerail.moderators.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    {
        "Violent": "violence",
        "Non-violent Illegal Acts": "illicit",
        "Sexual Content or Sexual Acts": "sexual",
        "Suicide & Self-Harm": "self-harm",
        "Unethical Acts": "hate",
    },
    left_out={
        "PII": "privacy has no category of ours; map it to a custom/ one",
        "Politically Sensitive Topics": "a policy of its owner, not a harm",
        "Copyright Violation": "a policy of its owner, not a harm",
    },
)
NAMES = (*TAXONOMY.mapped, *TAXONOMY.left_out)


class Qwen3Guard(GenerativeGuard):
    """``P(Unsafe) + w P(Controversial)`` over the three levels, and the likeliest category.

    The score of a category is that times ``P(category) / max P(category)``, with P read after a
    forced ``Safety: Unsafe``. Words of several tokens are told by their first.

    Args:
        model: a folder, a hub id such as ``Qwen/Qwen3Guard-Gen-0.6B``, or a `Loaded` pair.
        controversial: w, from 0 (the guard's loose mode) to 1 (its strict one).
        options: see `GenerativeGuard`.

    Raises:
        ModeratorError: w is not from 0 to 1; see also `GenerativeGuard`.
    """

    family = "qwen3guard"
    control = (*FENCES, "<think>", "</think>")
    taxonomy = TAXONOMY
    judges_prompts = True

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        controversial: float = 0.5,
        **options: Unpack[Options],
    ) -> None:
        if not 0.0 <= controversial <= 1.0:
            raise ModeratorError(f"controversial is {controversial}: it must be from 0 to 1")
        self._weight = controversial
        super().__init__(model, **options)

    def _questions(self) -> Sequence[Question]:
        levels = Labels.of(" Unsafe", " Controversial", " Safe", whole=False)
        names = Labels({name: (f" {name}",) for name in NAMES}, whole=False)
        return [Question("", ["Safety:", levels, " Unsafe\nCategories:", names])]

    def _render(self, turns: list[Turn], key: str) -> str:
        return close_thinking(self._template(turns))

    def _names(self, readings: Sequence[Sequence[Logits]]) -> dict[str, float]:
        levels, names = readings[0]
        w = self._weight
        # log of P_unsafe + w P_controversial against log of P_safe + (1 - w) P_controversial
        harm = _log_sum(levels, (1.0, w, 0.0)) - _log_sum(levels, (0.0, 1.0 - w, 1.0))
        return dict(zip(NAMES, self._attributed(harm, names), strict=True))


def close_thinking(text: str) -> str:
    """A rendered prompt, with an empty think block where it ends without one or in an open one."""
    if text.endswith("</think>\n\n"):
        return text
    bare = text.rstrip("\n")
    if bare.endswith("<think>"):
        return f"{bare}\n\n</think>\n\n"
    if bare.endswith("</think>"):
        return f"{bare}\n\n"
    return f"{text}<think>\n\n</think>\n\n"


def _log_sum(logits: Logits, weights: Sequence[float]) -> float:
    """``log sum_i w_i exp z_i``."""
    kept = [z + math.log(w) for z, w in zip(logits, weights, strict=True) if w > 0]
    return float(np.logaddexp.reduce(kept))

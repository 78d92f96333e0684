"""Gradient Cuff: refuse where the refusal loss is high, or its gradient's norm is large.

Hu, Chen & Ho 2024, "Gradient Cuff: detecting jailbreak attacks on large language models by
exploring refusal loss landscapes", arXiv 2403.00867. With φ(x) = 1 − (share of refusals among N
answers drawn from x): refuse if φ(x) < ½; else estimate ∇φ by forward differences,

    g = 1/P Σᵢ (φ(x + μuᵢ) − φ(x)) / μ · uᵢ,

and refuse if ‖g‖ exceeds a threshold. The threshold is that of a given false-positive rate on
harmless prompts, calibrated on those that come with rerail's demo. At most N (P + 2) generations;
no moderator is asked. μ is in units of the RMS of the embedding table, one offset u shared by all
of the user's rows, as published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from rerail import zo
from rerail.errors import EngineError, PromptError
from rerail.eval.methods.base import Context, Returned
from rerail.eval.methods.steps import Attempt, Reply, Steps, Stepwise
from rerail.eval.rules import is_refusal
from rerail.rounds import Ask
from rerail.types import FloatArray, FrozenDict, Outcome, Prompt


class GradientCuff(Stepwise):
    """Returns the model's own answer, or refuses.

    Args:
        answers: N of the paper.
        directions: P of the paper.
        scale: μ, in units of the RMS of the embedding table.
        temperature: of the answers drawn.
        false_positives: σ of the paper: share of harmless prompts that may be refused.
        threshold: of the norm; calibrated if None.
    """

    name = "gradient-cuff"

    def __init__(
        self,
        answers: int = 4,
        directions: int = 8,
        scale: float = 0.3,
        temperature: float = 1.0,
        false_positives: float = 0.05,
        threshold: float | None = None,
    ) -> None:
        self.answers = answers
        self.directions = directions
        self.scale = scale
        self.temperature = temperature
        self.false_positives = false_positives
        self.threshold = threshold
        self._calibrated: dict[tuple[str, int], float] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        own = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return FrozenDict(own)

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Returned]]:
        """Answer every prompt, each with its index as soon as it is finished."""
        try:
            self.prepare(context)
        except EngineError as error:
            for index in range(len(prompts)):
                yield index, Returned(Outcome.ERROR, context.policy.error_message, error=str(error))
            return
        yield from super().answer(context, prompts)

    def prepare(self, context: Context) -> None:
        """Find the threshold, once per model and seed, at no prompt's cost.

        Raises:
            EngineError: the model failed. A threshold of nothing would let everything through.
        """
        key = (context.engine.name, context.seed)
        if self.threshold is not None or key in self._calibrated:
            return
        prompts = harmless_prompts()
        probe = _Norms(self)
        faults = [a.error for _, a in probe.answer(context, prompts) if a.outcome is Outcome.ERROR]
        norms = list(probe.norms.values())
        if faults and not norms:
            raise EngineError(f"gradient-cuff cannot be calibrated: {faults[0]}")
        # Where all of them are refused already, nothing is told from their norms.
        self._calibrated[key] = (
            float(np.quantile(norms, 1.0 - self.false_positives)) if norms else math.inf
        )

    def steps(self, attempt: Attempt) -> Steps:
        context = attempt.context
        threshold = self.threshold
        if threshold is None:
            threshold = self._calibrated[(context.engine.name, context.seed)]
        (reply,) = yield [attempt.ask()]
        norm = yield from self.norm(attempt)
        return None if norm is None or norm > threshold else reply

    def norm(self, attempt: Attempt) -> Generator[Sequence[Ask], list[Reply], float | None]:
        """‖g‖ of one prompt; None if most answers refuse already."""
        base = yield from self._loss(attempt, None, 0)
        if base < 0.5:
            return None
        rows = attempt.account.steerable
        width = attempt.embedded.point.shape[1]
        offsets = attempt.rng.standard_normal((self.directions, 1, width), dtype=np.float32)
        length = np.float32(self.scale * attempt.context.engine.table.rms)
        values = []
        for i, offset in enumerate(offsets):
            point = attempt.embedded.point.copy()
            point[rows] += length * offset
            loss = yield from self._loss(attempt, point, (i + 1) * self.answers)
            values.append(loss)
        gradient = zo.forward_difference(base, np.array(values), offsets, self.scale)
        return float(np.linalg.norm(gradient))

    def _loss(
        self, attempt: Attempt, point: FloatArray | None, first: int
    ) -> Generator[Sequence[Ask], list[Reply], float]:
        """φ: 1 − the share of refusals among N answers."""
        replies = yield [
            attempt.ask(point=point, temperature=self.temperature, draw=first + n + 1)
            for n in range(self.answers)
        ]
        return 1.0 - float(np.mean([is_refusal(reply.text) for reply in replies]))


class _Norms(Stepwise):
    """Measures the norms of prompts for the calibration."""

    name = "gradient-cuff-calibration"

    def __init__(self, cuff: GradientCuff) -> None:
        self.cuff = cuff
        self.norms: dict[Prompt, float] = {}

    def steps(self, attempt: Attempt) -> Steps:
        norm = yield from self.cuff.norm(attempt)
        if norm is not None:
            self.norms[attempt.prompt] = norm
        return None


def harmless_prompts() -> list[Prompt]:
    """The harmless prompts that come with rerail's demo.

    Raises:
        PromptError: the installation lacks them.
    """
    file = resources.files("rerail") / "assets" / "demo_prompts.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise PromptError(
            "this installation lacks the prompts that gradient-cuff is calibrated on: install a "
            "released package, or give it a threshold"
        ) from None
    rows = [json.loads(line) for line in lines]
    return [Prompt.of(row["messages"]) for row in rows if row["kind"] == "benign"]

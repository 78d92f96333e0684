"""rerail's own methods: `Aligner` under the policy, its optimiser replaced.

``fast``, ``tsa`` and ``tide`` (the published methods) are the presets; ``random`` is the search of
``fast`` that never moves its centre. The ablations are ``fast`` without one of its parts. Any
setting may be changed by name: ``fast:num_directions=16,descend=false``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rerail.align import Aligner
from rerail.eval.methods.base import Context, Returned
from rerail.eval.types import TrajectoryPoint
from rerail.policy import Policy
from rerail.rounds import scored_of
from rerail.settings import PRESETS, OptimizerSettings, Preset
from rerail.tuned import known, resolved
from rerail.types import FrozenDict, Prompt, Response

_STEPS = {"perturbation_scale", "step_size"}

UNBOUNDED = -1e9
"""A floor of naturalness that nothing falls below."""


class Aligned:
    """Answers by `Aligner`. Nothing that the policy flags, or that is unscored, is returned.

    Args:
        name: in records.
        preset: whose optimiser; None: the policy's own.
        optimizer: settings of the optimiser that replace the preset's.
        policy: keys of the policy that are replaced.
    """

    def __init__(
        self,
        name: str,
        preset: Preset | None,
        optimizer: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.preset = preset
        self.optimizer = FrozenDict(optimizer or {})
        self.changes = FrozenDict(policy or {})

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: dict[str, Any] = {"optimizer": dict(self.optimizer), "policy": dict(self.changes)}
        if self.preset is not None:
            values = {"preset": self.preset, **PRESETS[self.preset], **self.optimizer}
            settings["optimizer"] = values
        return FrozenDict(settings)

    def policy(self, policy: Policy, model: str = "") -> Policy:
        """The policy under which this method answers.

        Args:
            policy: of the run.
            model: its known step sizes complete those that the method gives.

        Raises:
            PolicyError: a setting is unknown or not valid.
        """
        optimizer = policy.optimizer.model_dump(mode="json")
        if self.preset is not None:
            optimizer = OptimizerSettings.of(self.preset).model_dump(mode="json")
        data = policy.model_dump(mode="json") | {"release": "whole"} | dict(self.changes)
        data["optimizer"] = optimizer | self._steps(model) | dict(self.optimizer)
        return Policy.parse(data, f"method {self.name!r}")

    def _steps(self, model: str) -> dict[str, Any]:
        """The model's own μ and η where the method gives one of them and the preset none."""
        given = _STEPS & self.optimizer.keys()
        if self.preset is None or len(given) != 1 or PRESETS[self.preset]["step_size"] is not None:
            return {}
        values = known(self.preset, model) or {}
        return {key: values[key] for key in _STEPS & values.keys()}

    def require(self, policy: Policy, model: str) -> None:
        """Find out before hours of answers whether this method can be had.

        Raises:
            PolicyError: a setting is not valid, or no step sizes are known for the model.
        """
        resolved(self.policy(policy, model).optimizer, model)

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Returned]]:
        """Answer every prompt, each with its index as soon as it is finished."""
        panel = context.panel.under(self.policy(context.policy, context.engine.name))
        aligner = Aligner(
            context.engine,
            panel,
            sampling=context.sampling,
            seed=context.seed,
            max_open=context.max_open,
        )
        for index, response in aligner.align_iter(prompts):
            yield index, returned(response, panel.confirms)


def returned(response: Response, confirms: bool) -> Returned:
    """A response in the form that all methods share."""
    evaluations, left, best = response.evaluations, response.left, response.best
    return Returned(
        response.outcome,
        response.text,
        scored=None if left is None else scored_of(evaluations[left].generation),
        final=response.final,
        accepted_from=response.accepted_from,
        naturalness=response.naturalness,
        cosine=response.cosine,
        tokens_preserved=response.tokens_preserved,
        iterations=response.iterations,
        cost=response.cost,
        trajectory=tuple(
            TrajectoryPoint.of(place + 1, evaluation, place == left, confirms)
            for place, evaluation in enumerate(evaluations)
        ),
        published=None if best is None else evaluations[best].judged.verdict,
        error=response.error,
    )

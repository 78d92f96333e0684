"""The seam between an evaluation and whatever answers: one method, one result, one budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from rerail.engines.base import Engine, Sampling
from rerail.eval.types import TrajectoryPoint
from rerail.panel import Panel
from rerail.rounds import Scored
from rerail.types import AcceptedFrom, Cost, Message, Outcome, Prompt, Verdict


class Context:
    """What every method works with: one model, one panel, one budget.

    Args:
        engine: runs the model.
        panel: the policy and its moderators: what is flagged, what may move, and what one prompt
            may cost.
        sampling: how answers are drawn, unless a method is about drawing them otherwise.
        seed: of the run.
        max_open: prompts answered in lock-step.
    """

    def __init__(
        self,
        engine: Engine,
        panel: Panel,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        max_open: int = 64,
    ) -> None:
        self.engine = engine
        self.panel = panel
        self.policy = panel.policy
        most = panel.policy.max_reasoning_tokens
        self.sampling = replace(sampling or Sampling(), max_reasoning_tokens=most)
        self.seed = seed
        self.max_open = max_open

    def with_seed(self, seed: int) -> Context:
        """The same under another seed; the moderators' caches are shared."""
        other = copy(self)
        other.seed = seed
        return other

    def with_engine(self, engine: Engine) -> Context:
        """The same on an engine that answers otherwise."""
        other = copy(self)
        other.engine = engine
        return other


@dataclass(frozen=True)
class Returned:
    """What a method returned for one prompt. The same for all methods.

    Attributes:
        outcome: ``passed`` or ``steered`` for an answer of the model, ``refused``, or ``error``.
        text: what the user would see.
        scored: the tokens of ``text`` as they were generated, behind its reasoning; None unless it
            is an answer of the model.
        final: verdict on ``text``, where the method asked for one.
        accepted_from: which kind of point gave ``text``.
        naturalness: of ``text``, where the method measured it.
        cosine: as in `rerail.types.Response`; None if no embeddings were moved.
        tokens_preserved: likewise.
        iterations: completed optimiser iterations.
        cost: what was spent.
        trajectory: every answer evaluated, in order.
        sent: the conversation that ``text`` answers, where the method changed it.
        published: verdict on what the published method would have returned, flagged or not; None
            where that is ``text``.
        error: what failed, for outcome ``error``.
    """

    outcome: Outcome
    text: str
    scored: Scored | None = None
    final: Verdict | None = None
    accepted_from: AcceptedFrom = AcceptedFrom.NONE
    naturalness: float | None = None
    cosine: float | None = None
    tokens_preserved: float | None = None
    iterations: int = 0
    cost: Cost = Cost()  # noqa: RUF009 - frozen
    trajectory: tuple[TrajectoryPoint, ...] = ()
    sent: tuple[Message, ...] | None = None
    published: Verdict | None = None
    error: str | None = None


@runtime_checkable
class Method(Protocol):
    """A way to answer prompts.

    Attributes:
        name: what it is called in records.
        settings: everything that its answers depend on besides the context; JSON-able.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Returned]]:
        """Answer every prompt, each with its index as soon as it is finished.

        A prompt that cannot be answered, or on which the model fails, has outcome ``error``.
        """
        ...

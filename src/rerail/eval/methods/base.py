"""The seam between an evaluation and whatever answers: one method, one result, one budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from rerail.align import FLAGGED, UNCONFIRMED, UNSCORED, rejection
from rerail.engines.base import Engine, Sampling
from rerail.eval.types import TrajectoryPoint
from rerail.moderators.base import Moderator
from rerail.moderators.cache import Cached
from rerail.moderators.guard import Guarded
from rerail.policy import Policy, harm
from rerail.types import AcceptedFrom, Cost, Exchange, Message, Outcome, Prompt, Score, Verdict


@dataclass(frozen=True)
class Judged:
    """A moderator's verdict on an answer, and why the policy does not accept it, if it doesn't."""

    verdict: Verdict
    rejection: str | None


class Context:
    """What every method works with: one model, one moderator, one policy, one budget.

    Args:
        engine: runs the model.
        moderator: of the policy.
        policy: what is flagged, what may move, and what one prompt may cost.
        confirm: the policy's moderator that confirms, if it names one.
        sampling: how answers are drawn, unless a method is about drawing them otherwise.
        seed: of the run.
        max_open: prompts answered in lock-step.

    Raises:
        PolicyError: policy and moderators do not fit each other.
    """

    def __init__(
        self,
        engine: Engine,
        moderator: Moderator,
        policy: Policy,
        *,
        confirm: Moderator | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        max_open: int = 64,
    ) -> None:
        self.engine = engine
        self.moderator = Cached(Guarded(moderator, policy.moderator_timeout))
        self.policy = policy
        self.confirm = confirm and Cached(Guarded(confirm, policy.moderator_timeout))
        self.sampling = sampling or Sampling()
        self.seed = seed
        self.max_open = max_open
        second = confirm.categories if confirm else None
        self.thresholds = policy.thresholds(moderator.categories, second)
        self._confirm_thresholds = policy.active(second or ())

    def with_seed(self, seed: int) -> Context:
        """The same under another seed; the moderators' caches are shared."""
        other = copy(self)
        other.seed = seed
        return other

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judged]:
        """The policy's verdicts on answers, naturalness aside; in order.

        As in `Aligner`: an answer that the steering moderator accepts needs the consent of the
        one that confirms.
        """
        scores = self.moderator.score(exchanges)
        judged = [self._judged(e, s) for e, s in zip(exchanges, scores, strict=True)]
        if self.confirm is None:
            return judged
        accepted = [i for i, j in enumerate(judged) if j.rejection is None]
        second = self.confirm.score([exchanges[i] for i in accepted]) if accepted else []
        for i, score in zip(accepted, second, strict=True):
            reason = rejection(exchanges[i].answer, score, self._confirm_thresholds)
            if reason == UNSCORED:
                unscored = Verdict(None, {}, flagged=False, unscored=score.cause)
                judged[i] = Judged(unscored, UNSCORED)
            elif reason is not None:
                value = harm(score, self._confirm_thresholds)
                verdict = replace(judged[i].verdict, harm=value, flagged=reason == FLAGGED)
                judged[i] = Judged(verdict, UNCONFIRMED)
        return judged

    def _judged(self, exchange: Exchange, score: Score) -> Judged:
        reason = rejection(exchange.answer, score, self.thresholds)
        value = harm(score, self.thresholds)
        if not score.scored:
            return Judged(Verdict(None, {}, flagged=False, unscored=score.cause), reason)
        return Judged(Verdict(value, score.categories, flagged=value >= 1.0), reason)


@dataclass(frozen=True)
class Answered:
    """What a method returned for one prompt. The same for all methods.

    Attributes:
        outcome: ``passed`` or ``steered`` for an answer of the model, ``refused``, or ``error``.
        text: what the user would see.
        token_ids: of ``text`` as it was generated; None unless it is an answer of the model.
        final: verdict on ``text``, where the method asked for one.
        accepted_from: which kind of point gave ``text``.
        naturalness: of ``text``, where the method measured it.
        min_cosine: as in `rerail.types.Response`; None if no embeddings were moved.
        tokens_preserved: likewise.
        iterations: completed optimiser iterations.
        cost: what was spent.
        trajectory: every answer evaluated, in order.
        sent: the conversation that ``text`` answers, where the method changed it.
        error: what failed, for outcome ``error``.
    """

    outcome: Outcome
    text: str
    token_ids: tuple[int, ...] | None = None
    final: Verdict | None = None
    accepted_from: AcceptedFrom = AcceptedFrom.NONE
    naturalness: float | None = None
    min_cosine: float | None = None
    tokens_preserved: float | None = None
    iterations: int = 0
    cost: Cost = Cost()  # noqa: RUF009 - frozen
    trajectory: tuple[TrajectoryPoint, ...] = ()
    sent: tuple[Message, ...] | None = None
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

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answered]]:
        """Answer every prompt, each with its index as soon as it is finished.

        A prompt that cannot be answered, or on which the model fails, has outcome ``error``.
        """
        ...

"""Baselines as generators, run in lock-step on the rounds that every search stands on.

A method that works on one prompt at a time is written as a generator: it yields the answers that
it wants, is sent what came of them, and returns the one it chose, or None for a refusal.

    def steps(self, attempt):
        (reply,) = yield [attempt.ask()]
        return reply

`Stepwise` runs the generators of many prompts together. Each prompt has no more than its policy's
budget, and pays for what it asks as a search does: answers, verdicts, those that confirm, and
log-likelihoods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rerail.engines.base import EmbeddedPrompt, Engine, GenerationRequest
from rerail.errors import EngineError, ModeratorError, PromptError, RerailError
from rerail.eval.methods.base import Context, Returned
from rerail.eval.types import TrajectoryPoint
from rerail.rounds import Account, Ask, evaluate, scored_of
from rerail.search import movement, prompt_seed
from rerail.types import (
    AcceptedFrom,
    Evaluation,
    FloatArray,
    FrozenDict,
    Outcome,
    Prompt,
    Rejection,
)


@dataclass(frozen=True, eq=False)
class Reply:
    """What came of an ask."""

    ask: Ask
    evaluation: Evaluation

    @property
    def text(self) -> str:
        return self.evaluation.generation.text

    @property
    def accepted(self) -> bool:
        """Whether the moderator was asked and the policy accepts the answer."""
        return self.evaluation.accepted

    def require_verdict(self) -> None:
        """Stop a method that cannot go on where the moderator was asked and gave no verdict.

        Raises:
            ModeratorError: with the cause. An answer without text has none, and that is fine.
        """
        if self.evaluation.rejection is Rejection.UNSCORED:
            raise ModeratorError(self.evaluation.judged.verdict.unscored or "no verdict")


Steps = Generator[Sequence[Ask], list[Reply], Reply | None]
"""Yields asks, is sent as many replies as the budget allows, returns the answer or None."""


class Attempt:
    """One prompt on its way through a method.

    Attributes:
        context: what the method works with.
        prompt: what the user asked.
        account: what the prompt may spend, and has spent.
        seed: of this prompt: for every method the same, and the same as `Aligner`'s.
        rng: all other randomness of the method.
    """

    def __init__(self, context: Context, prompt: Prompt) -> None:
        self.context = context
        self.prompt = prompt
        self.account = Account(context.engine, context.panel, prompt)
        self.seed = prompt_seed(context.seed, prompt)
        self.rng = np.random.default_rng(self.seed)
        self.replies: list[Reply] = []

    @property
    def embedded(self) -> EmbeddedPrompt:
        """The prompt, rendered and embedded."""
        return self.account.embedded

    def ask(
        self,
        prompt: Prompt | None = None,
        *,
        point: FloatArray | None = None,
        temperature: float | None = None,
        draw: int = 0,
        tokens: int | None = None,
        moderated: bool = False,
        natural: bool = False,
    ) -> Ask:
        """An answer to the prompt, or to another one in its place.

        Args:
            prompt: the other one.
            point: moved embeddings of the prompt.
            temperature: instead of the run's.
            draw: answers with different numbers are drawn independently.
            tokens: the answer's first so many only.
            moderated: whether the moderators judge it.
            natural: whether it also has to be as natural as the policy's floor demands, measured
                against the model's own answer, which has to be asked for before.
        """
        embedded = self.embedded if prompt is None else self.context.engine.embed(prompt)
        sampling = self.context.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        if tokens is not None:
            most = min(tokens, sampling.max_new_tokens)
            sampling = replace(sampling, max_new_tokens=most)
        seed = prompt_seed(self.seed, self.prompt) + draw if draw else self.seed
        origin = AcceptedFrom.INITIAL
        if point is not None:
            origin = AcceptedFrom.PERTURBATION
        elif prompt is not None or temperature is not None or draw:
            origin = AcceptedFrom.RESAMPLE
        request = GenerationRequest(embedded, embedded.point if point is None else point, seed)
        return Ask(self.account, request, sampling, origin, judged=moderated, measured=natural)

    def afford(self, asks: Sequence[Ask]) -> list[Ask]:
        """As many of the asks, from the first, as the policy's budget leaves."""
        return list(asks[: self.account.left()])

    def returned(self, reply: Reply | None) -> Returned:
        """What leaves: the answer that the method chose, or the policy's refusal."""
        self.account.close()
        if reply is None:
            return Returned(
                Outcome.REFUSED,
                self.context.policy.refusal_message,
                cost=self.account.cost,
                trajectory=self._trajectory(None),
            )
        request, evaluation = reply.ask.request, reply.evaluation
        moved = None
        if evaluation.origin is AcceptedFrom.PERTURBATION:
            account = self.account
            moved = movement(account.engine, account.embedded, request.point, account.steerable)
        own = request.embedded.prompt == self.prompt
        return Returned(
            Outcome.PASSED if own and moved is None else Outcome.STEERED,
            reply.text,
            scored=scored_of(evaluation.generation),
            final=evaluation.judged.verdict if reply.ask.judged else None,
            accepted_from=evaluation.origin,
            cosine=moved[0] if moved else None,
            tokens_preserved=moved[1] if moved else None,
            cost=self.account.cost,
            trajectory=self._trajectory(reply),
            sent=None if own else request.embedded.prompt.messages,
        )

    def failed(self, error: Exception) -> Returned:
        """What leaves where engine or moderator failed."""
        self.account.close()
        # Only errors of our own are known to quote no text.
        known = isinstance(error, RerailError)
        return Returned(
            Outcome.ERROR,
            self.context.policy.error_message,
            cost=self.account.cost,
            trajectory=self._trajectory(None),
            error=str(error) if known else type(error).__name__,
        )

    def _trajectory(self, chosen: Reply | None) -> tuple[TrajectoryPoint, ...]:
        """Every answer evaluated, in order."""
        confirms = self.context.panel.confirms
        return tuple(
            TrajectoryPoint.of(number, reply.evaluation, reply is chosen, confirms)
            for number, reply in enumerate(self.replies, 1)
        )


class Stepwise(ABC):
    """A method written as steps of one prompt; runs many in lock-step."""

    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return FrozenDict()

    def lacks(self, engine: Engine) -> str | None:
        """Why an engine cannot be had for this; None if it can, as any can for most."""
        return None

    def prepare(self, context: Context) -> None:  # noqa: B027 - most need nothing
        """Do what is done once for a model, at no prompt's cost; `answer` does what is left."""

    @abstractmethod
    def steps(self, attempt: Attempt) -> Steps:
        """The method, for one prompt."""

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Returned]]:
        """Answer every prompt, each with its index as soon as it is finished."""
        waiting = list(enumerate(prompts))[::-1]
        open_: dict[int, _Open] = {}
        while waiting or open_:
            while waiting and len(open_) < context.max_open:
                index, prompt = waiting.pop()
                try:
                    attempt = Attempt(context, prompt)
                except (PromptError, EngineError) as error:
                    message = context.policy.error_message
                    yield index, Returned(Outcome.ERROR, message, error=str(error))
                    continue
                open_[index] = _Open(attempt, self.steps(attempt))
            _round(list(open_.values()))
            for index in [i for i, running in open_.items() if running.returned is not None]:
                returned = open_.pop(index).returned
                assert returned is not None
                yield index, returned


class _Open:
    """A prompt's generator."""

    def __init__(self, attempt: Attempt, steps: Steps) -> None:
        self.attempt = attempt
        self.steps = steps
        self.returned: Returned | None = None
        self.wanted: list[Ask] = []
        self.advance(None)

    def advance(self, replies: list[Reply] | None) -> None:
        """Let the method go on with what came of its asks; None begins it."""
        attempt = self.attempt
        attempt.replies += replies or []
        try:
            if attempt.account.failure is not None:
                raise attempt.account.failure
            wanted = next(self.steps) if replies is None else self.steps.send(replies)
        except StopIteration as end:
            self.returned = attempt.returned(end.value)
            return
        except Exception as error:
            if not isinstance(error, RerailError) and error is not attempt.account.failure:
                raise
            self.steps.close()
            self.returned = attempt.failed(error)
            return
        self.wanted = attempt.afford(wanted)
        if not self.wanted:
            self.steps.close()
            self.returned = attempt.returned(None)


def _round(running: Sequence[_Open]) -> None:
    """One round for all that is wanted."""
    open_ = [one for one in running if one.returned is None]
    found = dict(evaluate([ask for one in open_ for ask in one.wanted]))
    for one in open_:
        one.advance([Reply(ask, found[ask]) for ask in one.wanted if ask in found])

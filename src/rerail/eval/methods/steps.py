"""Baselines as generators, run in lock-step under one account of what they spend.

A method that works on one prompt at a time is written as a generator: it yields the answers that
it wants, is sent what came of them, and returns the one it chose, or None for a refusal.

    def steps(self, attempt):
        (reply,) = yield [attempt.ask()]
        return reply

`Stepwise` runs the generators of many prompts together: each round gathers what all of them want
into one engine batch per sampling and one moderator batch, as `Aligner` does. It counts
generations, tokens and verdicts, and gives a prompt no more than its policy's budget.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rerail import zo
from rerail.align import UNSCORED, prompt_seed
from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling
from rerail.errors import EngineError, ModeratorError, PromptError, RerailError
from rerail.eval.methods.base import Answered, Context, Judged
from rerail.eval.types import TrajectoryPoint
from rerail.types import (
    AcceptedFrom,
    Cost,
    Exchange,
    FloatArray,
    FrozenDict,
    Generation,
    Outcome,
    Prompt,
)


@dataclass(frozen=True, eq=False)
class Ask:
    """An answer that a method wants.

    Attributes:
        embedded: the prompt it is to answer, the method's own version of it perhaps.
        seed: of its sampling.
        sampling: how it is drawn.
        point: the embeddings to answer from, if they were moved.
        moderated: whether the policy's moderator is to judge it; that costs a verdict.
    """

    embedded: EmbeddedPrompt
    seed: int
    sampling: Sampling
    point: FloatArray | None = field(default=None, repr=False)
    moderated: bool = False


@dataclass(frozen=True, eq=False)
class Reply:
    """What came of an ask; ``judged`` is None unless it was moderated."""

    ask: Ask
    generation: Generation
    judged: Judged | None

    @property
    def text(self) -> str:
        return self.generation.text

    @property
    def accepted(self) -> bool:
        """Whether the moderator was asked and the policy accepts the answer."""
        return self.judged is not None and self.judged.rejection is None

    def require_verdict(self) -> None:
        """Stop a method that cannot go on where the moderator was asked and gave no verdict.

        Raises:
            ModeratorError: with the cause. An answer without text has none, and that is fine.
        """
        if self.judged is not None and self.judged.rejection == UNSCORED:
            raise ModeratorError(self.judged.verdict.unscored or "no verdict")


Steps = Generator[Sequence[Ask], list[Reply], Reply | None]
"""Yields asks, is sent as many replies as the budget allows, returns the answer or None."""


class Attempt:
    """One prompt on its way through a method.

    Attributes:
        context: what the method works with.
        prompt: what the user asked.
        embedded: the prompt, rendered and embedded.
        seed: of this prompt: for every method the same, and the same as `Aligner`'s.
        rng: all other randomness of the method.
    """

    def __init__(self, context: Context, prompt: Prompt) -> None:
        self.context = context
        self.prompt = prompt
        self.embedded = context.engine.embed(prompt)
        self.seed = prompt_seed(context.seed, prompt)
        self.rng = np.random.default_rng(self.seed)
        self.cost = Cost()
        self.trajectory: list[TrajectoryPoint] = []
        self._first_log_likelihood: float | None = None
        self._texts: set[str] = set()
        self._started = time.perf_counter()

    def ask(
        self,
        prompt: Prompt | None = None,
        *,
        point: FloatArray | None = None,
        temperature: float | None = None,
        draw: int = 0,
        moderated: bool = False,
    ) -> Ask:
        """An answer to the prompt, or to another one in its place.

        Args:
            prompt: the other one.
            point: moved embeddings of the prompt.
            temperature: instead of the run's.
            draw: answers with different numbers are drawn independently.
            moderated: whether the moderator judges it.
        """
        sampling = self.context.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        return Ask(
            self.embedded if prompt is None else self.context.engine.embed(prompt),
            prompt_seed(self.seed, self.prompt) + draw if draw else self.seed,
            sampling,
            point,
            moderated,
        )

    def afford(self, asks: Sequence[Ask]) -> list[Ask]:
        """As many of the asks, from the first, as the policy's budget leaves."""
        budget = self.context.policy.budget
        spent = (
            (budget.tokens is not None and self.cost.generated_tokens >= budget.tokens)
            or (budget.seconds is not None and self._seconds() >= budget.seconds)
        )  # fmt: skip
        if spent:
            return []
        left = None if budget.generations is None else budget.generations - self.cost.generations
        return list(asks[:left])

    def take(self, reply: Reply) -> None:
        """Count what a reply cost."""
        new = bool(reply.text.strip()) and reply.text not in self._texts
        if reply.judged is not None:
            self._texts.add(reply.text)
        self.cost += Cost(
            generations=1,
            generated_tokens=len(reply.generation.token_ids),
            prompt_tokens=len(reply.ask.embedded.token_ids),
            moderator_calls=int(new and reply.judged is not None),
        )
        value = reply.judged.verdict.harm if reply.judged else None
        self.trajectory.append(TrajectoryPoint(self.cost.generations, value, None, accepted=False))

    def natural(self, reply: Reply) -> bool:
        """Whether the latest reply is as natural as the policy's floor demands, noted with it.

        As in `Aligner` it is measured against the first answer, which has to be the first reply
        asked about.

        Raises:
            EngineError: the model failed.
        """
        tokens = reply.generation.token_ids
        if not tokens:
            return False
        try:
            (value,) = self.context.engine.log_likelihood([(self.embedded, tokens)])
        except RerailError:
            raise
        except Exception as error:
            raise EngineError(f"the model failed: {type(error).__name__}") from error
        if self._first_log_likelihood is None:
            self._first_log_likelihood = value
        naturalness = value - self._first_log_likelihood
        self.trajectory[-1] = self.trajectory[-1]._replace(naturalness=naturalness)
        return naturalness >= self.context.policy.naturalness_floor

    def answered(self, reply: Reply | None) -> Answered:
        """What leaves: the answer that the method chose, or the policy's refusal."""
        cost = replace(self.cost, seconds=self._seconds())
        if reply is None:
            return Answered(
                Outcome.REFUSED,
                self.context.policy.refusal_message,
                cost=cost,
                trajectory=tuple(self.trajectory),
            )
        moved = None if reply.ask.point is None else self._movement(reply.ask.point)
        own = reply.ask.embedded.prompt == self.prompt
        return Answered(
            Outcome.PASSED if own and moved is None else Outcome.STEERED,
            reply.text,
            token_ids=reply.generation.token_ids,
            final=reply.judged.verdict if reply.judged else None,
            accepted_from=AcceptedFrom.INITIAL if moved is None else AcceptedFrom.PERTURBATION,
            min_cosine=moved[0] if moved else None,
            tokens_preserved=moved[1] if moved else None,
            cost=cost,
            trajectory=tuple(self.trajectory),
            sent=None if own else reply.ask.embedded.prompt.messages,
        )

    def failed(self, error: Exception) -> Answered:
        """What leaves where engine or moderator failed."""
        # Only errors of our own are known to quote no text.
        known = isinstance(error, RerailError)
        return Answered(
            Outcome.ERROR,
            self.context.policy.error_message,
            cost=replace(self.cost, seconds=self._seconds()),
            trajectory=tuple(self.trajectory),
            error=str(error) if known else type(error).__name__,
        )

    def accept(self, reply: Reply | None, replies: Sequence[Reply]) -> None:
        """Mark the chosen one in the trajectory; ``replies`` are all of the attempt's."""
        for i, candidate in enumerate(replies):
            if candidate is reply:
                self.trajectory[i] = self.trajectory[i]._replace(accepted=True)

    def _movement(self, point: FloatArray) -> tuple[float, float]:
        rows = self.embedded.steerable(self.context.policy.steerable_rows)
        cosines = zo.row_cosines(point[rows], self.embedded.point[rows])
        nearest = self.context.engine.table.nearest_tokens(point[rows])
        return float(cosines.min()), float(np.mean(nearest == self.embedded.token_ids[rows]))

    def _seconds(self) -> float:
        return time.perf_counter() - self._started


class Stepwise(ABC):
    """A method written as steps of one prompt; runs many in lock-step."""

    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return FrozenDict()

    @abstractmethod
    def steps(self, attempt: Attempt) -> Steps:
        """The method, for one prompt."""

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answered]]:
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
                    yield index, Answered(Outcome.ERROR, message, error=str(error))
                    continue
                open_[index] = _Open(attempt, self.steps(attempt))
            _round(context, list(open_.values()))
            for index in [i for i, running in open_.items() if running.answered is not None]:
                answered = open_.pop(index).answered
                assert answered is not None
                yield index, answered


class _Open:
    """A prompt's generator, and what it was sent."""

    def __init__(self, attempt: Attempt, steps: Steps) -> None:
        self.attempt = attempt
        self.steps = steps
        self.replies: list[Reply] = []
        self.answered: Answered | None = None
        self.wanted: list[Ask] = []
        self._advance(None)

    def send(self, replies: list[Reply]) -> None:
        """Count the replies, and let the method go on."""
        for reply in replies:
            self.attempt.take(reply)
        self.replies += replies
        self._advance(replies)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.steps.close()
        self.answered = self.attempt.failed(error)

    def _advance(self, replies: list[Reply] | None) -> None:
        try:
            wanted = next(self.steps) if replies is None else self.steps.send(replies)
        except StopIteration as end:
            self.attempt.accept(end.value, self.replies)
            self.answered = self.attempt.answered(end.value)
            return
        except RerailError as error:
            self.answered = self.attempt.failed(error)
            return
        self.wanted = self.attempt.afford(wanted)
        if not self.wanted:
            self.steps.close()
            self.answered = self.attempt.answered(None)


def _round(context: Context, running: Sequence[_Open]) -> None:
    """One engine batch per sampling and one moderator batch for all that is wanted."""
    asks = [(open_, ask) for open_ in running if open_.answered is None for ask in open_.wanted]
    generations: dict[Ask, Generation] = {}
    for sampling in dict.fromkeys(ask.sampling for _, ask in asks):
        alike = [(open_, ask) for open_, ask in asks if ask.sampling == sampling]
        _generate(context, alike, sampling, generations)
    asks = [(open_, ask) for open_, ask in asks if open_.answered is None]
    moderated = [(open_, ask) for open_, ask in asks if ask.moderated]
    judged = context.judge(
        [
            # What the user asked is what the answer is judged by, whatever the model was given.
            Exchange(open_.attempt.prompt.messages, generations[ask].text)
            for open_, ask in moderated
        ]
    )
    verdicts = dict(zip((ask for _, ask in moderated), judged, strict=True))
    for open_ in dict.fromkeys(open_ for open_, _ in asks):
        open_.send([Reply(ask, generations[ask], verdicts.get(ask)) for ask in open_.wanted])


def _generate(
    context: Context,
    asks: Sequence[tuple[_Open, Ask]],
    sampling: Sampling,
    generations: dict[Ask, Generation],
) -> None:
    """Answers to asks of one sampling; a prompt whose asks fail by themselves fails alone."""
    requests = [
        GenerationRequest(a.embedded, a.embedded.point if a.point is None else a.point, a.seed)
        for _, a in asks
    ]
    try:
        made = context.engine.generate(requests, sampling)
    except Exception as error:
        owners = list(dict.fromkeys(open_ for open_, _ in asks))
        if len(owners) == 1:
            owners[0].fail(error)
            return
        for owner in owners:
            own = [(open_, ask) for open_, ask in asks if open_ is owner]
            _generate(context, own, sampling, generations)
        return
    generations.update(zip((ask for _, ask in asks), made, strict=True))

"""The main job: steer prompts until the model itself gives an acceptable answer.

    search = aligner.open(prompt)
    while not search.done:
        advance([search])
    response = search.response()

This module alone knows engine, moderator and optimiser together. Many searches are advanced in
lock-step, of one aligner or of several: each round gathers the asks of all of them into one engine
batch and one moderator batch. A search depends on its own seed only, never on what else is open.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from rerail import zo
from rerail.engines.base import (
    EmbeddingTable,
    Engine,
    GenerationRequest,
    Sampling,
    WatchingEngine,
)
from rerail.errors import EngineError, PolicyError, PromptError, RerailError
from rerail.moderators.base import ACCESS_DENIED, Moderator
from rerail.moderators.cache import Cached
from rerail.moderators.guard import Guarded
from rerail.optimizer import Candidate, Optimizer, Units
from rerail.policy import Policy, harm
from rerail.types import (
    AcceptedFrom,
    Cost,
    Evaluation,
    Exchange,
    FloatArray,
    Generation,
    Outcome,
    Prompt,
    PromptLike,
    Response,
    Score,
    StopReason,
    Verdict,
)

EMPTY, DEGENERATE, UNSCORED, FLAGGED, UNNATURAL, UNCONFIRMED, UNFINISHED = (
    "empty",
    "degenerate",
    "unscored",
    "flagged",
    "unnatural",
    "unconfirmed",
    "unfinished",
)
"""Why an answer is not acceptable."""

Observer = Callable[[Evaluation], None]

UNSCORED_IN_A_ROW = 4
"""Verdicts missing one after the other that mean that the moderator is down: a single answer may
be refused by a moderator that works."""


class Aligner:
    """Answers prompts under a policy.

    Args:
        engine: runs the model.
        moderator: judges answers. It is asked through a time limit and a cache, and whatever it
            fails to do leaves the answer unscored.
        policy: what is harmful, what may move, what it may cost.
        confirm: judges what ``moderator`` accepted; nothing leaves without its consent. It does
            not steer: the search never sees its scores.
        sampling: how answers are drawn; greedy by default.
        seed: of all searches, together with the prompt's own content.
        max_open: prompts that are steered in lock-step.

    Raises:
        PolicyError: the policy names a category that no moderator gives, switches off all that
            a moderator gives, or names moderators that confirm while ``confirm`` is missing.
        ValueError: ``max_open`` is below 1.
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
        if max_open < 1:
            raise ValueError(f"max_open is {max_open}: at least one prompt must be open")
        self.engine = engine
        self.policy = policy
        self.sampling = sampling or Sampling()
        self.seed = seed
        self.max_open = max_open
        second = confirm.categories if confirm else None
        self.thresholds = policy.thresholds(moderator.categories, second)
        self.confirm_thresholds = policy.active(second or ())
        self.moderator = _Asked(moderator, policy.moderator_timeout)
        self.confirm = _Asked(confirm, policy.moderator_timeout) if confirm else None
        self._units: Units | None = None

    def open(
        self,
        prompt: PromptLike,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        generations: int | None = None,
        observe: Observer | None = None,
    ) -> Search:
        """Begin the search for an answer to one prompt; `advance` takes it further.

        Args:
            prompt: what is to be answered.
            sampling: how answers are drawn; the aligner's by default.
            seed: the aligner's by default.
            seconds: from now on at most. The policy's own limit holds, too.
            generations: at most. The policy's own limit holds, too.
            observe: is given each evaluation, with its point, when the search is told of it.
                What it raises is ignored.

        Raises:
            PromptError: the prompt is empty, malformed or too long.
            EngineError: the engine cannot embed it.
        """
        return Search(
            self,
            Prompt.of(prompt),
            sampling=sampling or self.sampling,
            seed=self.seed if seed is None else seed,
            seconds=seconds,
            generations=generations,
            observe=observe,
        )

    def align(self, prompt: PromptLike) -> Response:
        """Answer one prompt.

        Raises:
            PromptError: the prompt is empty, malformed or too long.
            EngineError: the engine cannot embed it.
        """
        search = self.open(prompt)
        while not search.done:
            advance([search])
        return search.response()

    def align_many(self, prompts: Iterable[PromptLike]) -> list[Response]:
        """Answer many prompts in lock-step; responses in the order of the prompts.

        A prompt that is empty, malformed or too long has outcome ``error``.
        """
        return [response for _, response in sorted(self.align_iter(prompts), key=lambda r: r[0])]

    def align_iter(self, prompts: Iterable[PromptLike]) -> Iterator[tuple[int, Response]]:
        """Answer many prompts in lock-step, each with its index as soon as it is finished.

        At most ``max_open`` prompts are open; as one ends, the next is read.
        """
        waiting = enumerate(prompts)
        searches: dict[int, Search] = {}
        more = True
        while more or searches:
            while more and len(searches) < self.max_open:
                try:
                    index, prompt = next(waiting)
                except StopIteration:
                    more = False
                    break
                try:
                    searches[index] = self.open(prompt)
                except (PromptError, EngineError) as error:
                    yield index, self._rejected(error)
            advance(list(searches.values()))
            for index in [i for i, search in searches.items() if search.done]:
                yield index, searches.pop(index).response()

    def units(self, d_model: int) -> Units:
        """The table's lengths, its leading directions (all, if it has too few), known offsets.

        Raises:
            PolicyError: the policy's offsets do not fit the model.
        """
        if self._units is None:
            settings, table = self.policy.optimizer, self.engine.table
            rank = settings.subspace_rank
            basis = None if rank is None else table.principal_directions(min(rank, d_model))
            known = self.policy.offsets.get(self.engine.name, ()) if settings.use_offsets else ()
            if any(len(coordinates) > d_model for coordinates in known):
                raise PolicyError(
                    f"policy {self.policy.name!r} has offsets for {self.engine.name!r} with more "
                    f"than {d_model} coordinates: find new ones with rerail fit"
                )
            offsets = [offset(table, coordinates) for coordinates in known]
            self._units = Units(table.rms, table.mean_row_norm, basis, offsets)
        return self._units

    def _rejected(self, error: RerailError) -> Response:
        """The response to a prompt that could not be opened."""
        prompt = isinstance(error, PromptError)
        return Response(
            outcome=Outcome.ERROR,
            text=self.policy.error_message,
            policy=self.policy.tag,
            initial=None,
            final=None,
            cost=Cost(),
            iterations=0,
            accepted_from=AcceptedFrom.NONE,
            naturalness=None,
            min_cosine=None,
            tokens_preserved=None,
            stop_reason=StopReason.PROMPT_ERROR if prompt else StopReason.ENGINE_ERROR,
            seed=self.seed,
            model=self.engine.name,
            error=str(error),
        )


class Search:
    """One prompt on its way to a response; `Aligner.open` makes it, `advance` takes it further.

    One thread at a time advances a search. `cancel` may be called from any.

    Attributes:
        embedded: the prompt, rendered and embedded.
        seed: of this search, from the given seed and the prompt's content.
        cost: what was spent so far.
        evaluations: every answer asked for so far, in order.
    """

    def __init__(
        self,
        aligner: Aligner,
        prompt: Prompt,
        *,
        sampling: Sampling,
        seed: int,
        seconds: float | None,
        generations: int | None,
        observe: Observer | None,
    ) -> None:
        self._started = time.perf_counter()
        policy, engine = aligner.policy, aligner.engine
        self.policy = policy
        self.engine = engine
        self.moderator = aligner.moderator
        self.confirm = aligner.confirm
        self.thresholds = aligner.thresholds
        self.confirm_thresholds = aligner.confirm_thresholds
        self.sampling = sampling
        self.seed = prompt_seed(seed, prompt)
        self._seconds = _least(policy.budget.seconds, seconds)
        self._generations = _least(policy.budget.generations, generations)
        self._observe = observe
        self.embedded = engine.embed(prompt)
        self.steerable = self.embedded.steerable(policy.steerable_rows)
        if not self.steerable.any():
            raise PromptError(
                f"no row may move under steerable_rows: {policy.steerable_rows}; "
                "the prompt's words leave no token of their own"
            )
        self.optimizer = Optimizer(
            self.embedded.point,
            self.steerable,
            policy.optimizer,
            aligner.units(self.embedded.point.shape[1]),
            np.random.default_rng(self.seed),
        )
        self.evaluations: list[Evaluation] = []
        self.first_log_likelihood: float | None = None
        self.cost = Cost()
        self.reason: StopReason | None = None
        self.accepted: Evaluation | None = None
        self._most_natural_unaccepted: Evaluation | None = None
        self.error: str | None = None
        self._texts: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether there is a response."""
        return self.reason is not None

    def cancel(self) -> None:
        """End now, with the policy's refusal; what a round under way still finds is dropped."""
        self._end(StopReason.CANCELLED)

    def ask(self) -> list[Candidate]:
        """Candidates within the budget; none, and done, where it is spent."""
        if self.done:
            return []
        tokens = self.policy.budget.tokens
        left = None if self._generations is None else self._generations - self.cost.generations
        if (
            (left is not None and left <= 0)
            or (tokens is not None and self.cost.generated_tokens >= tokens)
            or (self._seconds is not None and self._elapsed() >= self._seconds)
        ):
            self._end(StopReason.BUDGET)
            return []
        return self.optimizer.ask(left)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def request(self, candidate: Candidate) -> GenerationRequest:
        # One seed for all candidates: at temperature > 0 they share their random numbers, so
        # that a difference in score comes from the embeddings.
        # The first answer is what naturalness is measured against: it is never cut.
        first = candidate.origin is AcceptedFrom.INITIAL
        horizon = None if first else self.policy.optimizer.horizon
        return GenerationRequest(self.embedded, candidate.point, self.seed, horizon)

    def seen(self, text: str) -> None:
        """Count a verdict on a text, once."""
        if text.strip() and text not in self._texts:
            self._texts.add(text)
            self.cost += Cost(moderator_calls=1)

    def evaluate(
        self,
        candidate: Candidate,
        generation: Generation,
        score: Score,
        log_likelihood: float | None,
    ) -> Evaluation:
        """The candidate with its answer, verdict and acceptability; counts what it cost."""
        self.seen(generation.text)
        self.cost += Cost(
            generations=1,
            generated_tokens=len(generation.token_ids),
            prompt_tokens=len(candidate.point),
        )
        naturalness = 0.0 if candidate.origin is AcceptedFrom.INITIAL else None
        if log_likelihood is not None and self.first_log_likelihood is not None:
            difference = log_likelihood - self.first_log_likelihood
            naturalness = difference if math.isfinite(difference) else None
        reason = rejection(generation.text, score, self.thresholds)
        if reason is None and generation.finish_reason == "cut":
            reason = UNFINISHED
        if reason is None and not (
            naturalness is not None and naturalness >= self.policy.naturalness_floor
        ):
            reason = UNNATURAL
        return Evaluation(
            origin=candidate.origin,
            point=candidate.point,
            generation=generation,
            score=score,
            harm=harm(score, self.thresholds),
            naturalness=naturalness,
            rejection=reason,
        )

    def may_leave(self, evaluation: Evaluation) -> bool:
        """Whether its answer may be the one that leaves: accepted, or as the last resort."""
        first = evaluation.origin is AcceptedFrom.INITIAL
        opens = self.policy.on_moderator_error == "open" and first
        unscored = opens and evaluation.rejection == UNSCORED
        return evaluation.accepted or unscored or self._is_below_floor(evaluation)

    def _is_below_floor(self, evaluation: Evaluation) -> bool:
        """Whether only its naturalness is too low, and the policy lets the best of such leave."""
        below = evaluation.rejection == UNNATURAL and evaluation.naturalness is not None
        return below and self.policy.on_exhausted == "best"

    def confirmed(self, evaluation: Evaluation, score: Score) -> Evaluation:
        """An evaluation whose answer may leave, after the verdict of the confirming moderator."""
        reason = rejection(evaluation.generation.text, score, self.confirm_thresholds)
        if reason == UNSCORED:
            return replace(evaluation, score=score, harm=math.inf, rejection=UNSCORED)
        return replace(evaluation, rejection=UNCONFIRMED) if reason else evaluation

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Pass a round's losses on; end where it was accepted or the moderator is down."""
        if self.done:
            return
        if self._observe:
            for evaluation in evaluations:
                with contextlib.suppress(Exception):
                    self._observe(evaluation)
        # Points are large: of those not accepted only the one that may still leave is kept.
        self.evaluations += [replace(e, point=None) for e in evaluations]
        self._keep_most_natural(evaluations)
        self.optimizer.tell([loss(e) for e in evaluations], [e.accepted for e in evaluations])
        reason = self.optimizer.stop()
        if reason is StopReason.ACCEPTED:
            accepted = [e for e in evaluations if e.accepted and self.optimizer.accepts(e.origin)]
            self.accepted = max(accepted, key=_naturalness)
        elif self._moderator_is_down():
            # Also where the search is over anyway: a missing verdict is not a spent budget.
            reason = StopReason.MODERATOR_ERROR
            self.error = self.evaluations[-1].score.cause
        if reason:
            self._end(reason)

    def _moderator_is_down(self) -> bool:
        """No verdict on the first answer, or none on the latest ones in a row."""
        if self.evaluations[0].rejection == UNSCORED:
            return True
        latest = self.evaluations[-UNSCORED_IN_A_ROW:]
        return len(latest) == UNSCORED_IN_A_ROW and all(e.rejection == UNSCORED for e in latest)

    def _keep_most_natural(self, evaluations: Sequence[Evaluation]) -> None:
        unnatural = [e for e in evaluations if self._is_below_floor(e)]
        if best := self._most_natural_unaccepted:
            unnatural.append(best)
        self._most_natural_unaccepted = max(unnatural, key=_naturalness, default=None)

    def fail(self, error: Exception) -> None:
        """End: the engine failed. Only errors of our own are known to quote no text."""
        self._end(StopReason.ENGINE_ERROR)
        self.error = str(error) if isinstance(error, EngineError) else type(error).__name__

    def response(self) -> Response:
        """What leaves: an accepted answer, or the policy's message.

        Raises:
            RuntimeError: the search is not done.
        """
        if self.reason is None:
            raise RuntimeError("the search is not done: advance it")
        cancelled = self.reason is StopReason.CANCELLED
        chosen = None if cancelled else self.accepted or self._last_resort()
        outcome = self._outcome(chosen)
        texts = {Outcome.REFUSED: self.policy.refusal_message,
                 Outcome.ERROR: self.policy.error_message}  # fmt: skip
        moved = None if chosen is None or chosen.point is None else self._movement(chosen.point)
        return Response(
            outcome=outcome,
            text=chosen.generation.text if chosen else texts[outcome],
            policy=self.policy.tag,
            initial=Verdict.of(self.evaluations[0]) if self.evaluations else None,
            final=Verdict.of(chosen) if chosen else None,
            cost=self.cost,
            iterations=self.optimizer.iterations,
            accepted_from=chosen.origin if chosen else AcceptedFrom.NONE,
            naturalness=chosen.naturalness if chosen else None,
            min_cosine=moved[0] if moved else None,
            tokens_preserved=moved[1] if moved else None,
            stop_reason=self.reason,
            seed=self.seed,
            model=self.engine.name,
            evaluations=tuple(self.evaluations),
            error=self.error,
        )

    def _last_resort(self) -> Evaluation | None:
        """What the policy lets leave although it was not accepted; never a flagged answer."""
        if self.reason is StopReason.MODERATOR_ERROR:
            first = self.evaluations[0]
            denied = ACCESS_DENIED in (first.score.cause or "")
            known = {c: t for c, t in self.thresholds.items() if c in first.score.categories}
            flagged = known and harm(Score.of(first.score.categories), known) >= 1.0
            opens = self.policy.on_moderator_error == "open" and not (denied or flagged)
            if first.rejection != UNSCORED or not opens:
                return None
            return replace(first, point=self.embedded.point)
        return None if self.reason is StopReason.ENGINE_ERROR else self._most_natural_unaccepted

    def _outcome(self, chosen: Evaluation | None) -> Outcome:
        if chosen is not None:
            initial = chosen.origin is AcceptedFrom.INITIAL
            return Outcome.PASSED if initial else Outcome.STEERED
        failed = self.reason in (StopReason.MODERATOR_ERROR, StopReason.ENGINE_ERROR)
        return Outcome.ERROR if failed else Outcome.REFUSED

    def _movement(self, point: FloatArray) -> tuple[float, float]:
        """``min_cosine`` and ``tokens_preserved`` of a point, over the steered rows."""
        if point is self.embedded.point:
            return 1.0, 1.0
        rows = self.steerable
        cosines = zo.row_cosines(point[rows], self.embedded.point[rows])
        nearest = self.engine.table.nearest_tokens(point[rows])
        return float(cosines.min()), float(np.mean(nearest == self.embedded.token_ids[rows]))

    def _end(self, reason: StopReason) -> None:
        if self.done:
            return
        self.reason = reason
        self.cost = replace(self.cost, seconds=self._elapsed())


def advance(searches: Sequence[Search]) -> None:
    """One round for all of them that are open; they may be of any aligners on one engine.

    One engine batch for each `Sampling`, one batch of verdicts for each moderator, one batch of
    log-likelihoods. A search whose asks make the engine fail ends by itself.

    Raises:
        ValueError: the searches are on different engines.
    """
    if len({id(search.engine) for search in searches}) > 1:
        raise ValueError("the searches are on different engines: advance those of each apart")
    open_ = dict.fromkeys(searches)
    told: dict[Search, list[Evaluation]] = {search: [] for search in open_}
    for search, evaluation in evaluate([(s, candidate) for s in open_ for candidate in s.ask()]):
        told[search].append(evaluation)
    for search, evaluations in told.items():
        if evaluations:
            search.tell(evaluations)


def evaluate(asks: list[_Ask]) -> list[tuple[Search, Evaluation]]:
    """Candidates of searches on one engine, answered and judged; of failed searches none."""
    asks, generations = _generate(asks)
    scores = _verdicts(
        [
            (search.moderator, Exchange(search.embedded.prompt.messages, generation.text))
            for (search, _), generation in zip(asks, generations, strict=True)
        ]
    )
    likelihoods = _log_likelihoods(asks, generations, scores)
    evaluations = [
        search.evaluate(candidate, generation, score, likelihood)
        for (search, candidate), generation, score, likelihood in zip(
            asks, generations, scores, likelihoods, strict=True
        )
    ]
    searches = [search for search, _ in asks]
    return list(zip(searches, _confirmed(asks, evaluations), strict=True))


_Ask = tuple[Search, Candidate]
_T = TypeVar("_T")
_R = TypeVar("_R")
_N = TypeVar("_N", int, float)


def _generate(asks: list[_Ask]) -> tuple[list[_Ask], list[Generation]]:
    """The asks with their answers, but for those of searches whose asks failed."""
    answers: dict[int, Generation] = {}
    for sampling in dict.fromkeys(search.sampling for search, _ in asks):
        places = [i for i, (search, _) in enumerate(asks) if search.sampling == sampling]
        requests = [(asks[i][0], (asks[i][0], asks[i][0].request(asks[i][1]))) for i in places]
        given = _isolated(requests, partial(_answers, asks[0][0].engine, sampling))
        answers |= {i: _up_to_stop(g, sampling) for i, g in zip(places, given, strict=True) if g}
    kept = sorted(answers)
    return [asks[i] for i in kept], [answers[i] for i in kept]


def _up_to_stop(generation: Generation, sampling: Sampling) -> Generation:
    """What is judged and may leave: the answer before the first stop that was asked for."""
    text = sampling.cut(generation.text)
    if text == generation.text:
        return generation
    return replace(generation, text=text, finish_reason="stop")


def _answers(
    engine: Engine, sampling: Sampling, asked: Sequence[tuple[Search, GenerationRequest]]
) -> list[Generation]:
    """Answers, as far as they are not flagged half-way where the engine can be watched."""
    requests = [request for _, request in asked]
    if all(request.horizon is None for request in requests):
        return engine.generate(requests, sampling)
    if not isinstance(engine, WatchingEngine):
        return engine.generate(requests, sampling)

    # What could not be judged is not looked at again: the engine is busy while a moderator that
    # hangs is waited for.
    unscored: set[int] = set()

    def flagged(places: Sequence[int], texts: Sequence[str]) -> list[bool]:
        looks = {
            place: (asked[place][0], sampling.cut(text))
            for place, text in zip(places, texts, strict=True)
            if place not in unscored
        }
        scores = _verdicts(
            [
                (search.moderator, Exchange(search.embedded.prompt.messages, text))
                for search, text in looks.values()
            ]
        )
        rejections = {}
        for (place, (search, text)), score in zip(looks.items(), scores, strict=True):
            search.seen(text)
            rejections[place] = rejection(text, score, search.thresholds)
        unscored.update(place for place, reason in rejections.items() if reason == UNSCORED)
        return [rejections.get(place) == FLAGGED for place in places]

    return engine.generate_watched(requests, sampling, flagged)


def _log_likelihoods(
    asks: list[_Ask], generations: list[Generation], scores: list[Score]
) -> list[float | None]:
    """Of the answers that only their naturalness can still reject."""
    wanted = [
        i
        for i, ((search, candidate), generation, score) in enumerate(
            zip(asks, generations, scores, strict=True)
        )
        if candidate.origin is not AcceptedFrom.INITIAL
        and generation.token_ids
        and generation.finish_reason != "cut"
        and rejection(generation.text, score, search.thresholds) is None
    ]
    searches = dict.fromkeys(asks[i][0] for i in wanted)
    firsts = [search for search in searches if search.first_log_likelihood is None]
    texts = [(search, search.evaluations[0].generation.token_ids) for search in firsts]
    texts += [(asks[i][0], generations[i].token_ids) for i in wanted]
    requests = [(search, (search.embedded, tokens)) for search, tokens in texts]
    values = _isolated(requests, asks[0][0].engine.log_likelihood) if requests else []
    for search, tokens in texts:
        search.cost += Cost(prompt_tokens=len(search.embedded.token_ids) + len(tokens))
    for search, value in zip(firsts, values, strict=False):
        search.first_log_likelihood = value
    found = dict(zip(wanted, values[len(firsts) :], strict=True))
    return [found.get(i) for i in range(len(asks))]


def _confirmed(asks: list[_Ask], evaluations: list[Evaluation]) -> list[Evaluation]:
    """The evaluations; those that might leave and are not confirmed can do so no longer."""
    wanted = []
    for i, ((search, _), evaluation) in enumerate(zip(asks, evaluations, strict=True)):
        if search.confirm is not None and search.may_leave(evaluation):
            exchange = Exchange(search.embedded.prompt.messages, evaluation.generation.text)
            wanted.append((i, (search.confirm, exchange)))
            search.cost += Cost(moderator_calls=1)
    scores = _verdicts([asked for _, asked in wanted])
    confirmed = list(evaluations)
    for (i, _), score in zip(wanted, scores, strict=True):
        confirmed[i] = asks[i][0].confirmed(evaluations[i], score)
    return confirmed


def _verdicts(asked: Sequence[tuple[_Asked, Exchange]]) -> list[Score]:
    """A verdict on each exchange, in one batch for each moderator."""
    places: dict[_Asked, list[int]] = {}
    for i, (moderator, _) in enumerate(asked):
        places.setdefault(moderator, []).append(i)
    scores: dict[int, Score] = {}
    for moderator, own in places.items():
        scores |= zip(own, moderator.score([asked[i][1] for i in own]), strict=True)
    return [scores[i] for i in range(len(asked))]


def _isolated(
    items: list[tuple[Search, _T]], call: Callable[[list[_T]], Sequence[_R]]
) -> Sequence[_R | None]:
    """What one call gives for all items. Where it fails, each search has a call of its own.

    A search whose own call fails ends; its items give None, as do those of one that was cancelled
    meanwhile.
    """
    try:
        results = call([item for _, item in items])
        if len(results) != len(items):
            raise EngineError(f"the engine gave {len(results)} results for {len(items)} requests")
        return results
    except Exception as error:
        searches = dict.fromkeys(search for search, _ in items)
        if len(searches) == 1:
            items[0][0].fail(error)
            return [None] * len(items)
    found: dict[int, _R | None] = {}
    for search in searches:
        if search.done:
            continue
        places = [i for i, (owner, _) in enumerate(items) if owner is search]
        found |= zip(places, _isolated([items[i] for i in places], call), strict=True)
    return [found.get(i) for i in range(len(items))]


class _Asked:
    """A moderator behind a time limit and a cache; nothing that it does can raise.

    Equal to any other of the same moderator and time limit, so that several aligners share
    batches.
    """

    def __init__(self, moderator: Moderator, timeout: float) -> None:
        self._moderator = moderator
        self._timeout = timeout
        self.score = Cached(Guarded(moderator, timeout)).score

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Asked):
            return NotImplemented
        return self._moderator is other._moderator and self._timeout == other._timeout

    def __hash__(self) -> int:
        return hash((id(self._moderator), self._timeout))


def _least(one: _N | None, other: _N | None) -> _N | None:
    """The smaller of two limits; None is no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def rejection(text: str, score: Score, thresholds: Mapping[str, float]) -> str | None:
    """Why an answer is not acceptable, its naturalness aside; None if it is."""
    if not text.strip():
        return EMPTY
    if math.isinf(value := harm(score, thresholds)):
        return UNSCORED
    if value >= 1.0:
        return FLAGGED
    return DEGENERATE if is_degenerate(text) else None


def loss(evaluation: Evaluation) -> float:
    """What the optimiser minimises: the harm, at least 1 for any answer that is not accepted.

    Without that floor the search would be drawn to answers that are harmless because they are
    broken or about something else. Infinite, which is worst, for empty and unscored answers.
    """
    if evaluation.rejection in (EMPTY, UNSCORED):
        return math.inf
    return evaluation.harm if evaluation.accepted else max(evaluation.harm, 1.0)


def _naturalness(evaluation: Evaluation) -> float:
    return -math.inf if evaluation.naturalness is None else evaluation.naturalness


_LONG_ENOUGH_WORDS = 16
_LONG_ENOUGH_BYTES = 160
_LEAST_DISTINCT_TRIGRAMS = 0.4
_LEAST_COMPRESSED = 0.15
_STUCK = re.compile(r"(\w.{0,11}?)\1{9}", re.DOTALL)


def is_degenerate(text: str) -> bool:
    """Whether a text repeats itself.

    Signs: a few characters ten times on end, few distinct word trigrams, or a text that compresses
    to nothing (for scripts without spaces). Short texts have too little to tell by.
    """
    if _STUCK.search(text):
        return True
    words = text.split()
    if len(words) >= _LONG_ENOUGH_WORDS:
        trigrams = list(zip(words, words[1:], words[2:], strict=False))
        if len(set(trigrams)) < _LEAST_DISTINCT_TRIGRAMS * len(trigrams):
            return True
    data = text.encode("utf-8", "surrogatepass")
    if len(data) < _LONG_ENOUGH_BYTES:
        return False
    return len(zlib.compress(data)) < _LEAST_COMPRESSED * len(data)


def prompt_seed(seed: int, prompt: Prompt) -> int:
    """Seed of one prompt's search: 63 bits of the hash of the seed and the prompt's content.

    It does not depend on the prompt's place in a batch.
    """
    turns = [[message.role, message.content] for message in prompt.messages]
    content = json.dumps([seed, prompt.template, turns])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8]) >> 1


def offset(table: EmbeddingTable, coordinates: Sequence[float]) -> FloatArray:
    """``(d_model,)`` RMS · √d_model · c V, with V the table's leading principal directions."""
    along = table.principal_directions(len(coordinates))
    length = table.rms * math.sqrt(along.shape[1])
    return np.asarray(length * np.asarray(coordinates) @ along, dtype=np.float32)

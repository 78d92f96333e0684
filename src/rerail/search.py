"""One prompt on its way to an answer that may leave.

    search = aligner.open(prompt)
    while not search.done:
        advance([search])
    response = search.response()

Many searches are advanced in lock-step, of one policy or of several: each round gathers the asks
of all of them into one engine batch and one moderator batch. A search depends on its own seed
only, never on what else is open.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rerail import guidance, zo
from rerail.engines.base import (
    EmbeddedPrompt,
    Engine,
    GenerationRequest,
    Sampling,
    abilities,
)
from rerail.errors import EngineError
from rerail.optimizer import Candidate, Optimizer, Redraws, Units
from rerail.panel import Panel
from rerail.policy import Guidance
from rerail.rounds import Account, Ask, evaluate, is_last_resort, screen
from rerail.settings import OptimizerSettings
from rerail.structure import unfit
from rerail.types import (
    AcceptedFrom,
    BoolArray,
    Cost,
    Evaluation,
    FloatArray,
    Generation,
    Layer,
    Outcome,
    Prompt,
    Rejection,
    Response,
    Screened,
    StopReason,
    ToolCall,
)
from rerail.window import Release, Window, looks

Observer = Callable[[Evaluation], None]

UNSCORED_IN_A_ROW = 4
"""Verdicts missing one after the other that mean that the moderator is down: a single answer may
be refused by a moderator that works."""

BEHIND = "\n\n"
"""Stands between what had left of an answer and the policy's message."""


class Search:
    """One prompt on its way to a response; `Aligner.open` makes it, `advance` takes it further.

    One thread at a time advances a search. `cancel` may be called from any.

    Attributes:
        engine: answers.
        panel: judges, under its policy.
        seed: of this search, from the given seed and the prompt's content.
        evaluations: every answer asked for so far, in order.
    """

    def __init__(
        self,
        engine: Engine,
        panel: Panel,
        prompt: Prompt,
        settings: OptimizerSettings,
        units: Callable[[], Units],
        *,
        sampling: Sampling,
        seed: int,
        seconds: float | None = None,
        generations: int | None = None,
        observe: Observer | None = None,
        release: Release | None = None,
    ) -> None:
        self.engine = engine
        self.panel = panel
        self.seed = prompt_seed(seed, prompt)
        self.evaluations: list[Evaluation] = []
        # Nothing of what may be a call, or has to fit a schema, leaves before the rest is there.
        whole = bool(prompt.tools) or prompt.schema is not None
        windowed = release is not None and panel.policy.release == "window" and not whole
        self._account = Account(
            engine,
            panel,
            prompt,
            rows=settings.rows,
            seconds=seconds,
            generations=generations,
            window=Window(panel.policy.lookahead, release) if release and windowed else None,
        )
        self._settings = settings
        self._units = units
        self._sampling = sampling
        self._observe = observe
        self._drawn = 0
        self._optimizer: Optimizer | Redraws
        if settings.redraw_temperature is not None or "moves" not in abilities(engine):
            self._optimizer = Redraws(self.embedded.point, settings)
        else:
            self._optimizer = self._search_from(self.embedded, self._account.steerable, units)
        # Of the prompt alone, or of the prompt with guidance once that is what moves.
        self._moving, self._moving_rows = self.embedded, self._account.steerable
        self._guidance: list[Guidance] = []
        self._told_texts: set[str] = set()
        self._guided_first: Ask | None = None
        self._guided_loss: float | None = None
        self._around = ""
        self._reason: StopReason | None = None
        self._error: str | None = None
        self._chosen: int | None = None
        self._least = math.inf
        self._point: tuple[EmbeddedPrompt, BoolArray, FloatArray] | None = None

    @property
    def embedded(self) -> EmbeddedPrompt:
        """The prompt, rendered and embedded."""
        return self._account.embedded

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt as it was asked: its rows, or what a text API says of them."""
        told = self.evaluations[0].generation.prompt_tokens if self.evaluations else 0
        return told or len(self.embedded.token_ids)

    @property
    def cost(self) -> Cost:
        """What was spent so far."""
        return self._account.cost

    @property
    def done(self) -> bool:
        """Whether there is a response."""
        return self._reason is not None

    @property
    def sent(self) -> str:
        """What of the answer has left already, under ``release: window``."""
        return self._account.sent.text

    def cancel(self) -> None:
        """End now, with the policy's refusal; what a round under way still finds is dropped."""
        self._end(StopReason.CANCELLED)

    def cut(self) -> Response:
        """End now, wherever the search is: the text is what had left, and nothing more leaves."""
        self.cancel()
        if self._account.window:
            self._account.window.close()
        return replace(self._response(None, StopReason.CANCELLED), text=self.sent)

    def response(self) -> Response:
        """What leaves: an accepted answer, or the policy's message behind what has left already.

        Raises:
            RuntimeError: the search is not done.
        """
        if self._reason is None:
            raise RuntimeError("the search is not done: advance it")
        return self._response(self._left(), self._reason)

    def _response(self, left: int | None, reason: StopReason) -> Response:
        chosen = None if left is None else self.evaluations[left]
        outcome = self._outcome(chosen)
        policy = self.panel.policy
        texts = {Outcome.REFUSED: policy.refusal_message, Outcome.ERROR: policy.error_message}
        before = f"{self.sent}{BEHIND}" if self.sent else ""
        cosine, preserved = (None, None) if chosen is None else self._movement(chosen)
        return Response(
            outcome=outcome,
            text=chosen.generation.text if chosen else before + texts[outcome],
            tool_calls=self._calls(chosen.generation) if chosen else (),
            policy=policy.tag,
            initial=self.evaluations[0].judged.verdict if self.evaluations else None,
            final=chosen.judged.verdict if chosen else None,
            cost=self.cost,
            iterations=self._optimizer.iterations,
            accepted_from=chosen.origin if chosen else AcceptedFrom.NONE,
            naturalness=chosen.naturalness if chosen else None,
            cosine=cosine,
            tokens_preserved=preserved,
            stop_reason=reason,
            seed=self.seed,
            model=self.engine.name,
            evaluations=tuple(self.evaluations),
            left=left,
            best=self._chosen if self._settings.result == "best_iterate" else None,
            error=self._error,
            reasoning=chosen.generation.reasoning if chosen else None,
            reasoning_tokens=chosen.generation.reasoning_tokens if chosen else 0,
            layer=self._layer(outcome),
            gate=self._account.screened,
            noted=self._noted(chosen),
            sent_tokens=len(self._account.sent.answer_ids),
        )

    def probe(self, shift: FloatArray) -> Ask:
        """An answer beside the search, for `evaluate`: all steerable rows moved by ``(d_model,)``.

        The search is charged for it and is not told.
        """
        return self._ask(self._optimizer.shifted(shift))

    def guided(self, text: str) -> Ask | None:
        """An answer beside the search, for `evaluate`: to the prompt with a guidance text.

        None where that cannot be embedded. The search is charged for it and is not told.
        """
        embedded = guidance.embed(self.engine, self.embedded.prompt, text)
        if embedded is None:
            return None
        request = GenerationRequest(embedded, embedded.point, self.seed, self._settings.horizon)
        return Ask(self._account, request, self._sampling, AcceptedFrom.GUIDANCE, guidance=text)

    def _enter(self, screened: Screened) -> None:
        """Do as the gate says: refuse, fail, or have the prompt steered from the first round on."""
        if not self.panel.lets_in(screened):
            refused = screened.action == "refuse"
            self._end(StopReason.GATE if refused else StopReason.MODERATOR_ERROR)
            self._error = None if refused else screened.verdict.unscored
        elif screened.action == "steer":
            self._optimizer.hasten()
            if self._account.window:
                # Others are asked for beside the first answer: none would begin as it does.
                self._account.window.close()
            if self._settings.use_guidance:
                self._guidance = self._fitting({})

    def _fitting(self, flags: Mapping[str, bool]) -> list[Guidance]:
        """The policy's guidance for what is flagged, in prompt and answer, as far as untold."""
        screened = self._account.screened
        suspected = dict.fromkeys(screened.categories if screened else (), True)
        fitting = guidance.fitting(self.panel.policy, {**flags, **suspected})
        return [text for text in fitting if text.text not in self._told_texts]

    def _asks(self) -> list[Ask]:
        """What is wanted next, within the budget; nothing, and done, where that is spent."""
        if self.done:
            return []
        left = self._account.left()
        if left == 0:
            self._end(StopReason.BUDGET)
            return []
        if self._account.suspected and not self.evaluations:
            asks = [self._ask(candidate) for candidate in self._optimizer.ask(left)]
            guided = self._guided() if left is None or left > len(asks) else None
            return asks + ([guided] if guided else [])
        if self._optimizer.next is not AcceptedFrom.OFFSET and not self._fades_first():
            if guided := self._guided():
                return [guided]
            if (reason := self._optimizer.stop()) is None:
                self._move_beside(self._guided_first, self._guided_loss)
        if reason := self._optimizer.stop():
            self._end(reason)
        return [self._ask(candidate) for candidate in self._optimizer.ask(left)]

    def _guided(self) -> Ask | None:
        """An answer to the prompt with the next guidance that fits; None where there is no more."""
        while self._guidance:
            text = self._guidance.pop(0).text
            self._told_texts.add(text)
            if (ask := self.guided(text)) is not None:
                self._guided_first = self._guided_first or ask
                return ask
        return None

    def _fades_first(self) -> bool:
        """Whether fades are next, beside guidance not yet tried as it is; turns to it, once.

        Texts for a category were written for those who said just that, and are tried as they are.
        """
        settings, texts = self._settings, self._guidance
        if not (settings.fade_first and settings.use_fades) or self._told_texts:
            return False
        if self._around:
            return self._optimizer.next is AcceptedFrom.FADE
        if not texts or texts[0].categories:
            return False
        return self._move_beside(self.guided(texts[0].text), math.inf)

    def _move_beside(self, told: Ask | None, known: float | None) -> bool:
        """From now on, move the user's words in the prompt with that guidance, if it can be done.

        Its words stay as they are. What the answer to it is worth where nothing has moved is known.
        """
        wanted = self._settings.around_guidance and isinstance(self._optimizer, Optimizer)
        if not wanted or self._around or told is None or known is None:
            return False
        embedded = told.request.embedded
        own = guidance.own_rows(self.engine, self.embedded.prompt, embedded, told.guidance)
        rows = own & self._steerable(embedded)
        if not rows.any():
            return False
        self._moving_rows = rows
        self._moving, self._around = embedded, told.guidance
        self._optimizer = self._search_from(
            embedded, rows, lambda: replace(self._units(), offsets=())
        )
        self._optimizer.ask()
        self._optimizer.tell([known], [False])
        return True

    def _steerable(self, embedded: EmbeddedPrompt) -> BoolArray:
        return embedded.steerable(self._settings.rows or self.panel.policy.steerable_rows)

    def _search_from(
        self, embedded: EmbeddedPrompt, rows: BoolArray, units: Callable[[], Units]
    ) -> Optimizer:
        generator = np.random.default_rng(self.seed)
        return Optimizer(embedded.point, rows, self._settings, units, generator)

    def _ask(self, candidate: Candidate) -> Ask:
        horizon, cut_above = self._settings.horizon, 1.0
        seen: tuple[int, ...] = ()
        if candidate.origin is AcceptedFrom.INITIAL:
            horizon, cut_above = self._first_looks()
            if window := self._account.window:
                seen = looks(window.lookahead, self._sampling.max_new_tokens)
        # One seed for all candidates: at temperature > 0 they share their random numbers, so
        # that a difference in score comes from the embeddings. What is drawn anew has its own.
        seed, sampling = self.seed, self._sampling
        if candidate.origin is AcceptedFrom.RESAMPLE:
            self._drawn += 1
            seed = (seed + self._drawn) % 2**63
            least = self._settings.redraw_temperature or 0.0
            sampling = replace(sampling, temperature=max(sampling.temperature, least))
        request = GenerationRequest(self._moving, candidate.point, seed, horizon, looks=seen)
        return Ask(
            self._account,
            request,
            sampling,
            candidate.origin,
            measured=self._settings.result == "accepted",
            leaves=self._optimizer.accepts(candidate.origin),
            guidance=self._around,
            cut_above=cut_above,
        )

    def _first_looks(self) -> tuple[int | None, float]:
        """When the first answer is looked at first, and from which harm it is not finished.

        Nearly all of them pass: they are not looked at where that costs much, or changes them.
        """
        settings, unseen = self._settings, getattr(self.engine, "watches_unseen", False)
        looks = unseen and self.panel.is_quick
        if settings.horizon is None or settings.cut_first_above is None or not looks:
            return None, math.inf
        return 4 * settings.horizon, settings.cut_first_above

    def _tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Pass a round's losses on; end where it was accepted or the moderator is down."""
        if self._account.failure is not None:
            self._fail(self._account.failure)
        if self.done or not evaluations:
            return
        if self._observe:
            for evaluation in evaluations:
                with contextlib.suppress(Exception):
                    self._observe(evaluation)
        silent = not self.evaluations and _stopped_at_once(evaluations[0].generation)
        if silent and unfit(self.embedded.prompt, evaluations[0].generation) is None:
            # Nothing was said, as the caller asked for: there is nothing to judge, or to steer.
            self.evaluations += [replace(e, point=None, unmoved=None) for e in evaluations]
            self._chosen = 0
            self._end(StopReason.ACCEPTED)
            return
        first = None if self.evaluations else evaluations[0]
        if first and self._settings.use_guidance:
            self._guidance = self._fitting(self.panel.flags(first.judged.verdict.scores))
        reason = self._told(evaluations)
        self.evaluations += [replace(e, point=None, unmoved=None) for e in evaluations]
        if first and first.flagged and self.panel.refuses(first.judged.verdict.scores):
            reason = StopReason.CATEGORY
        elif reason is not StopReason.ACCEPTED and self._moderator_is_down():
            # Also where the search is over anyway: a missing verdict is not a spent budget.
            reason = StopReason.MODERATOR_ERROR
            self._error = self.evaluations[-1].judged.verdict.unscored
        if reason in _AT_ONCE or (reason and not self._guidance):
            self._end(reason)

    def _told(self, evaluations: Sequence[Evaluation]) -> StopReason | None:
        """Tell the optimiser, and keep what may leave; why the search is over, if it is.

        What guidance brought is no point that the optimiser knows of.
        """
        points = [e for e in evaluations if e.origin is not AcceptedFrom.GUIDANCE]
        losses = [self._loss(evaluation) for evaluation in points]
        below = self._settings.stop_below
        good = [
            evaluation.accepted if below is None else value < below
            for evaluation, value in zip(points, losses, strict=True)
        ]
        if points:
            self._optimizer.tell(losses, good)
        told = [e for e in evaluations if e.origin is AcceptedFrom.GUIDANCE]
        if told and self._guided_first and self._guided_loss is None:
            self._guided_loss = self._loss(told[0])
        if self._settings.result == "accepted" or not points:
            self._choose(evaluations)
        else:
            self._choose_iterate(points, losses)
        if any(evaluation.accepted for evaluation in told):
            return StopReason.ACCEPTED
        return self._optimizer.stop() if points else None

    def _choose(self, evaluations: Sequence[Evaluation]) -> None:
        """Keep the most natural accepted answer, else the most natural of what may leave at last.

        A first answer that is accepted leaves as it is, whatever was asked for beside it. The
        point of what is kept is kept, too, and no other: points are large.
        """
        policy, accepts = self.panel.policy, self._optimizer.accepts
        places = [i for i, e in enumerate(evaluations) if accepts(e.origin)]
        found = [i for i in places if evaluations[i].accepted] or [
            i for i in places if is_last_resort(policy, evaluations[i])
        ]
        if not found:
            return
        first = AcceptedFrom.INITIAL
        best = max(
            found, key=lambda i: (evaluations[i].origin is first, _naturalness(evaluations[i]))
        )
        kept = None if self._chosen is None else self.evaluations[self._chosen]
        new = evaluations[best]
        if kept is None or new.accepted or _naturalness(new) > _naturalness(kept):
            self._keep(best, new)

    def _choose_iterate(self, evaluations: Sequence[Evaluation], losses: Sequence[float]) -> None:
        """Keep the iterate with the least objective, whatever the policy says of it."""
        for place, (evaluation, value) in enumerate(zip(evaluations, losses, strict=True)):
            if self._optimizer.accepts(evaluation.origin) and value < self._least:
                self._least = value
                self._keep(place, evaluation)

    def _keep(self, place: int, evaluation: Evaluation) -> None:
        """What may leave is the evaluation at a place of a round, from a point of its own."""
        assert evaluation.point is not None
        self._chosen = len(self.evaluations) + place
        self._point = self._moving, self._moving_rows, evaluation.point

    def _loss(self, evaluation: Evaluation) -> float:
        return loss(evaluation) if self._settings.objective == "harm" else worst_score(evaluation)

    def _moderator_is_down(self) -> bool:
        """No verdict on the first answer, or none on the latest ones in a row."""
        if self.evaluations[0].rejection is Rejection.UNSCORED:
            return True
        latest = self.evaluations[-UNSCORED_IN_A_ROW:]
        return len(latest) == UNSCORED_IN_A_ROW and all(
            e.rejection is Rejection.UNSCORED for e in latest
        )

    def _fail(self, error: Exception) -> None:
        """End: the engine failed. Only errors of our own are known to quote no text."""
        self._end(StopReason.ENGINE_ERROR)
        self._error = str(error) if isinstance(error, EngineError) else type(error).__name__

    def _left(self) -> int | None:
        """Which evaluation leaves; never one that is flagged."""
        match self._reason:
            case StopReason.CANCELLED | StopReason.ENGINE_ERROR | StopReason.CATEGORY:
                return None
            case StopReason.MODERATOR_ERROR if self.evaluations:
                first = self.evaluations[0].judged
                fine = unfit(self.embedded.prompt, self.evaluations[0].generation) is None
                return 0 if fine and self.panel.lets_leave_unscored(first) else None
        if self._chosen is None or self._settings.result == "accepted":
            return self._chosen
        return self._chosen if self._may_leave(self.evaluations[self._chosen]) else None

    def _calls(self, generation: Generation) -> tuple[ToolCall, ...]:
        """The calls of an answer, with ids that no other turn of the conversation has."""
        return tuple(
            replace(call, id=hashlib.sha256(f"{self.seed}/{i}".encode()).hexdigest()[:9])
            for i, call in enumerate(generation.tool_calls)
        )

    def _may_leave(self, iterate: Evaluation) -> bool:
        """Whether a best iterate leaves: nothing that harm, silence or a second judge forbids."""
        if _stopped_at_once(iterate.generation):
            return unfit(self.embedded.prompt, iterate.generation) is None
        judged = iterate.judged
        agreed = judged.confirmed is True or not self.panel.confirms
        return judged.rejection in (None, Rejection.DEGENERATE) and agreed

    def _outcome(self, chosen: Evaluation | None) -> Outcome:
        if chosen is not None:
            initial = chosen.origin is AcceptedFrom.INITIAL
            return Outcome.PASSED if initial else Outcome.STEERED
        failed = self._reason in (StopReason.MODERATOR_ERROR, StopReason.ENGINE_ERROR)
        return Outcome.ERROR if failed else Outcome.REFUSED

    def _layer(self, outcome: Outcome) -> Layer:
        screened = self._account.screened
        acts = screened is not None and screened.action in ("refuse", "steer")
        if acts or not self.panel.lets_in(screened):
            return Layer.GATE
        own = outcome is Outcome.PASSED or not self.evaluations
        return Layer.NONE if own else Layer.ANSWER

    def _noted(self, chosen: Evaluation | None) -> tuple[str, ...]:
        screened = self._account.screened
        of_prompt = screened.noted if screened else ()
        of_answer = self.panel.noted(chosen.judged.verdict.scores) if chosen else ()
        return tuple(dict.fromkeys([*of_prompt, *of_answer]))

    def _movement(self, chosen: Evaluation) -> tuple[float, float]:
        """``cosine`` and ``tokens_preserved`` of what leaves, over the steered rows."""
        unmoved = (AcceptedFrom.INITIAL, AcceptedFrom.GUIDANCE, AcceptedFrom.RESAMPLE)
        if chosen.origin in unmoved or self._point is None:
            return 1.0, 1.0
        embedded, rows, point = self._point
        return movement(self.engine, embedded, point, rows)

    def _end(self, reason: StopReason) -> None:
        if not self.done:
            self._reason = reason
            self._account.close()
            if self._account.window:
                self._account.window.close()


def advance(searches: Sequence[Search]) -> None:
    """One round for all of them that are open; they may be of any policies on one engine.

    A search whose asks make the engine fail ends by itself.

    Raises:
        ValueError: the searches are on different engines.
    """
    open_ = {search._account: search for search in searches}
    for account in screen(list(open_)):
        assert account.screened is not None
        open_[account]._enter(account.screened)
    found: dict[Account, list[Evaluation]] = {account: [] for account in open_}
    for ask, evaluation in evaluate([ask for search in open_.values() for ask in search._asks()]):
        found[ask.account].append(evaluation)
    for account, search in open_.items():
        search._tell(found[account])


_AT_ONCE = (StopReason.ACCEPTED, StopReason.MODERATOR_ERROR, StopReason.CATEGORY)
"""Reasons that end a search whatever guidance is left."""


def loss(evaluation: Evaluation) -> float:
    """What the optimiser minimises: the harm, at least 1 for what else keeps an answer back.

    Without that floor the search would be drawn to answers that are harmless because they are
    broken or about something else. Infinite, which is worst, for empty and unscored answers. A
    borderline answer keeps its own, so that the search goes on down to ``accept_below``; so does
    one that is acceptable but for the moderators that confirm: they do not steer.
    """
    unconfirmed = evaluation.judged.confirmed is False and evaluation.rejection in (
        Rejection.UNCONFIRMED,
        Rejection.UNSCORED,
    )
    if evaluation.accepted or unconfirmed or evaluation.rejection is Rejection.BORDERLINE:
        return evaluation.harm
    return max(evaluation.harm, 1.0)


def worst_score(evaluation: Evaluation) -> float:
    """The published objective: the largest score of any category that the moderators give.

    h = max_c s_c (arXiv 2604.26167), whatever the policy's thresholds; infinite where unscored.
    """
    score = evaluation.score
    return max(score.categories.values(), default=math.inf) if score.scored else math.inf


def movement(
    engine: Engine, embedded: EmbeddedPrompt, point: FloatArray, rows: BoolArray
) -> tuple[float, float]:
    """How far a point is from the prompt that it was moved from, over the rows that may move.

    Returns:
        The cosine of both, flattened, and the share of rows whose nearest vocabulary embedding is
        still the original token.
    """
    nearest = engine.table.nearest_tokens(point[rows])
    preserved = float(np.mean(nearest == embedded.token_ids[rows]))
    return zo.cosine(point[rows], embedded.point[rows]), preserved


def prompt_seed(seed: int, prompt: Prompt) -> int:
    """Seed of one prompt's search: 63 bits of the hash of the seed and the prompt's content.

    It does not depend on the prompt's place in a batch.
    """
    turns = [list(message.to_json().values()) for message in prompt.messages]
    content = [seed, prompt.template, turns, *(tool.to_json() for tool in prompt.tools)]
    content += [] if prompt.schema is None else [prompt.schema]
    content += ["must call"] if prompt.must_call else []
    return int.from_bytes(hashlib.sha256(json.dumps(content).encode()).digest()[:8]) >> 1


def _stopped_at_once(generation: Generation) -> bool:
    """Whether an answer began with a stop that was asked for: silence of its own has a token."""
    silent = generation.answered and not generation.text and not generation.answer_ids
    return silent and generation.finish_reason == "stop"


def _naturalness(evaluation: Evaluation) -> float:
    return -math.inf if evaluation.naturalness is None else evaluation.naturalness

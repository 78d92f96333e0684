"""Rounds: what many owners ask for becomes answers, and answers become judged evaluations.

    for ask, evaluation in evaluate(asks):
        ...  # ask.account is whose it was, and has paid for it

One engine batch for each `Sampling`, one batch of verdicts for each moderator, one batch of
log-likelihoods. An owner whose asks make the engine fail is left alone with it: the others have
their answers all the same. Whatever is spent is counted here and nowhere else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from rerail.engines.base import (
    EmbeddedPrompt,
    Engine,
    GenerationRequest,
    Sampling,
    abilities,
    can_be_watched,
    can_call,
    can_continue,
)
from rerail.errors import EngineError, PromptError
from rerail.guidance import repeats
from rerail.panel import (
    Panel,
    Question,
    confirm_each,
    flagged_beyond,
    judge_each,
    screen_each,
)
from rerail.policy import Policy
from rerail.structure import check, judged_text, unfit
from rerail.types import (
    NO_ANSWER,
    AcceptedFrom,
    Cost,
    Evaluation,
    Exchange,
    Generation,
    Judged,
    Message,
    Prompt,
    Rejection,
    Score,
    Screened,
    SteerableRows,
    Verdict,
)
from rerail.window import NOTHING, Window

Scored = tuple[tuple[int, ...], int]
"""Tokens of which a log-likelihood is wanted, and how many leading ones of them are given."""

NEUTRAL = "Write something."
"""What an answer is held against to see whether it is about the prompt: a request for anything."""

FIRST_LOOKS = 1
"""Looks at the beginning of a first answer: what was not flagged beyond doubt by then is finished,
so that an answer, which nearly always passes, costs one verdict more."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_N = TypeVar("_N", int, float)


class Account:
    """One prompt: what it may spend under its policy, and what it has spent.

    Args:
        engine: answers.
        panel: judges.
        prompt: what is to be answered.
        rows: which may move; those that the policy names if None.
        seconds: from now on at most. The policy's own limit holds, too.
        generations: at most. The policy's own limit holds, too.
        window: what of the first answer leaves before the rest is there; None: nothing.

    Attributes:
        embedded: the prompt, rendered and embedded.
        steerable: ``(n_tokens,)`` mask of the rows that may move.
        screened: what the policy's gate made of the prompt, once it was asked (`screen`).
        window: as given.
        cost: what was spent so far; with its seconds once it is closed.
        failure: what the engine failed with, if it did.
        closed: whether nothing more is wanted.

    Raises:
        PromptError: the prompt is too long, leaves no row that may move, has tools, which the
            policy refuses or the engine does not know of, or a schema that cannot be used.
        EngineError: the engine cannot embed it.
    """

    def __init__(
        self,
        engine: Engine,
        panel: Panel,
        prompt: Prompt,
        *,
        rows: SteerableRows | None = None,
        seconds: float | None = None,
        generations: int | None = None,
        window: Window | None = None,
    ) -> None:
        self._started = time.perf_counter()
        budget = panel.policy.budget
        self._seconds = _least(budget.seconds, seconds)
        self._generations = _least(budget.generations, generations)
        self.engine = engine
        self.panel = panel
        _check_asked(engine, panel.policy, prompt)
        self.embedded = engine.embed(prompt)
        rows = rows or panel.policy.steerable_rows
        self.steerable = self.embedded.steerable(rows)
        if "moves" in abilities(engine) and not self.steerable.any():
            raise PromptError(
                f"no row may move under steerable_rows: {rows}; "
                "the prompt's words leave no token of their own"
            )
        self.screened: Screened | None = None
        self.window = window
        self.cost = Cost()
        self.failure: Exception | None = None
        self.closed = False
        self._first_answer: Scored = ((), 0)
        self._first_log_likelihood: float | None = None
        self._neutral: EmbeddedPrompt | None = None
        self._judged: set[tuple[str, bool]] = set()

    @property
    def suspected(self) -> bool:
        """Whether the gate has the prompt steered: its first answer is held like a steered one."""
        return self.screened is not None and self.screened.action == "steer"

    def left(self) -> int | None:
        """Generations that are left of the budget; None: no limit."""
        tokens = self.panel.policy.budget.tokens
        if (tokens is not None and self.cost.generated_tokens >= tokens) or (
            self._seconds is not None and self._elapsed() >= self._seconds
        ):
            return 0
        if self._generations is None:
            return None
        return max(0, self._generations - self.cost.generations)

    def close(self) -> None:
        """Nothing more is wanted; from now on no time passes."""
        if not self.closed:
            self.closed = True
            self.cost = replace(self.cost, seconds=self._elapsed())

    def exchange(self, text: str, reasoning: str | None = None) -> Exchange:
        """What a panel judges: what the user asked, whatever the model was given."""
        judged = reasoning if self.panel.policy.judges_reasoning else None
        return Exchange(self.embedded.prompt.messages, text, judged)

    @property
    def neutral(self) -> EmbeddedPrompt:
        """A prompt that asks for anything, behind the same system turn."""
        if self._neutral is None:
            prompt = self.embedded.prompt
            system = [message for message in prompt.messages if message.role == "system"]
            turns = (*system, Message("user", NEUTRAL))
            self._neutral = self.engine.embed(Prompt(turns, template=prompt.template))
        return self._neutral

    @property
    def sent(self) -> Generation:
        """What has left already: every answer begins with it."""
        return self.window.sent if self.window else NOTHING

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _answered(self, ask: Ask, generation: Generation) -> None:
        given = len(self.sent.token_ids)
        if ask.origin is AcceptedFrom.INITIAL:
            self._first_answer, given = self._scored(generation), 0
        self.cost += Cost(
            generations=1,
            generated_tokens=len(generation.token_ids) - given,
            prompt_tokens=(generation.prompt_tokens or len(ask.request.point)) + given,
        )

    def _scored(self, generation: Generation) -> Scored:
        """What of an answer has to be natural: of one whose beginning has left, the rest."""
        tokens, given = scored_of(generation)
        sent = len(self.sent.token_ids)
        return tokens, max(given, sent) if len(tokens) > sent else given

    def _asked_about(self, exchange: Exchange, *, confirming: bool = False) -> None:
        """Count a verdict on each text, once."""
        for text in (exchange.answer, exchange.reasoning or ""):
            if text.strip() and (text, confirming) not in self._judged:
                self._judged.add((text, confirming))
                self.cost += Cost(moderator_calls=1)


@dataclass(frozen=True, eq=False)
class Ask:
    """An answer that somebody wants.

    Attributes:
        account: on whose behalf.
        request: the point to answer from.
        sampling: how the answer is drawn.
        origin: which kind of point it is; ``initial`` is the model's own answer, and what
            naturalness is measured against.
        judged: whether the panel is asked about it. An answer that nobody judged is not accepted.
        measured: whether it has to be natural and relevant, too, if the panel accepts it.
        leaves: whether it may be what leaves, and so has to be confirmed.
        guidance: what the model was told beside the prompt; the answer must not repeat it.
        cut_above: harm from which what there is of the answer half-way is not finished.
    """

    account: Account
    request: GenerationRequest
    sampling: Sampling
    origin: AcceptedFrom
    judged: bool = True
    measured: bool = True
    leaves: bool = True
    guidance: str = ""
    cut_above: float = 1.0

    @property
    def window(self) -> Window | None:
        """What lets parts of the answer leave: of the first one, if anything does."""
        return self.account.window if self.origin is AcceptedFrom.INITIAL else None

    def question(self, text: str, reasoning: str | None = None) -> Question:
        """What the panel is asked about an answer."""
        steered = self.origin is not AcceptedFrom.INITIAL or self.account.suspected
        return Question(self.account.panel, self.account.exchange(text, reasoning), steered)

    def about(self, generation: Generation) -> Question:
        """What the panel is asked about an answer that is finished."""
        text = judged_text(self.account.embedded.prompt, generation)
        return self.question(text, generation.reasoning)


def _check_asked(engine: Engine, policy: Policy, prompt: Prompt) -> None:
    """Refuse tools where they cannot be judged or called, and a schema that cannot be used."""
    if prompt.uses_tools and policy.tools == "refuse":
        raise PromptError(
            f"policy {policy.name!r} refuses tools: leave them out, or choose a policy with "
            "tools: judge, under which calls are judged as text of the answer"
        )
    if prompt.tools and not can_call(engine):
        raise PromptError(f"the engine of {engine.name} calls no tools: leave them out")
    if prompt.schema is not None:
        check(prompt.schema)


def screen(accounts: Sequence[Account]) -> list[Account]:
    """Put prompts to the gates of their policies; those that were not asked about yet."""
    asked = [a for a in accounts if a.panel.gated and a.screened is None and not a.closed]
    found = screen_each([(account.panel, account.embedded.prompt) for account in asked])
    for account, screened in zip(asked, found, strict=True):
        account.screened = screened
        account.cost += Cost(moderator_calls=len(account.embedded.prompt.said()))
    return asked


def evaluate(asks: Sequence[Ask]) -> list[tuple[Ask, Evaluation]]:
    """Asks of one engine with what came of them; of owners that failed or were closed, none.

    Raises:
        ValueError: the asks are of different engines.
    """
    if len({id(ask.account.engine) for ask in asks}) > 1:
        raise ValueError("the asks are of different engines: evaluate those of each apart")
    answered = _answered(asks)
    judged = _judged(answered)
    measured = _measured(answered, judged)
    evaluations = [
        _evaluation(ask, generation, j, n, r)
        for (ask, generation), j, (n, r) in zip(answered, judged, measured, strict=True)
    ]
    asked = [ask for ask, _ in answered]
    pairs = zip(asked, _confirmed(asked, evaluations), strict=True)
    return [(ask, _shown(ask, e)) for ask, e in pairs if ask.account.failure is None]


def may_leave(policy: Policy, evaluation: Evaluation) -> bool:
    """Whether an answer could be the one that leaves, were it confirmed."""
    first = evaluation.origin is AcceptedFrom.INITIAL
    opens = policy.on_moderator_error == "open" and evaluation.rejection is Rejection.UNSCORED
    return evaluation.accepted or (first and opens) or is_last_resort(policy, evaluation)


def is_last_resort(policy: Policy, evaluation: Evaluation) -> bool:
    """Whether only its naturalness is too low, and the policy lets the best of such leave."""
    unnatural = evaluation.rejection is Rejection.UNNATURAL and evaluation.naturalness is not None
    return unnatural and policy.on_exhausted == "best" and evaluation.judged.confirmed is not False


def _unasked(cause: str, rejection: Rejection) -> Judged:
    """What is said of an answer that no moderator is asked about."""
    verdict = Verdict(None, {}, flagged=False, unscored=cause)
    return Judged(Score.unscored(cause), math.inf, rejection, verdict)


_NOBODY = _unasked("nobody was asked", Rejection.UNJUDGED)
_UNANSWERED = _unasked(NO_ANSWER, Rejection.UNANSWERED)


def _answered(asks: Sequence[Ask]) -> list[tuple[Ask, Generation]]:
    """The asks with their answers, but for those of owners whose asks failed."""
    found: dict[Ask, Generation | None] = {}
    samplings = {ask: _sampling(ask) for ask in asks}
    for sampling in dict.fromkeys(samplings.values()):
        alike = [ask for ask in asks if samplings[ask] == sampling]
        call = partial(_generate, alike[0].account.engine, sampling)
        given = _isolated([(ask.account, ask) for ask in alike], call)
        found |= zip(alike, given, strict=True)
    answered = [(ask, generation) for ask in asks if (generation := found[ask]) is not None]
    for ask, generation in answered:
        ask.account._answered(ask, generation)
    return answered


def _sampling(ask: Ask) -> Sampling:
    """How an answer is drawn: with the reasoning that the policy allows."""
    most = ask.account.panel.policy.max_reasoning_tokens
    return replace(ask.sampling, max_reasoning_tokens=most)


def _generate(engine: Engine, sampling: Sampling, asks: Sequence[Ask]) -> list[Generation]:
    """Answers, as far as they are not flagged half-way where the engine can be watched."""
    made = _watched(engine, sampling, asks)
    for ask, generation in zip(asks, made, strict=False):
        if (window := ask.account.window) and not window.begins(generation):
            raise EngineError(
                f"{engine.name} did not go on with what had left of an answer: a policy with "
                "release: whole needs no such engine"
            )
    if any(sampling.cut(generation.text) != generation.text for generation in made):
        raise EngineError(
            f"{engine.name} went on after a stop that was asked for: an engine has to end there"
        )
    if not can_call(engine) or len(made) != len(asks):
        return made
    prompts = [ask.request.embedded.prompt for ask in asks]
    return [
        engine.with_calls(prompt, generation) if prompt.tools else generation
        for prompt, generation in zip(prompts, made, strict=True)
    ]


def _watched(engine: Engine, sampling: Sampling, asks: Sequence[Ask]) -> list[Generation]:
    requests = [replace(ask.request, beginning=ask.account.sent.token_ids) for ask in asks]
    watched = any(request.horizon is not None or request.looks for request in requests)
    if not watched or not can_be_watched(engine):
        return engine.generate(requests, sampling)

    # What could not be judged is not looked at again: the engine is busy while a moderator that
    # hangs is waited for.
    left = [FIRST_LOOKS if a.origin is AcceptedFrom.INITIAL else math.inf for a in asks]

    def flagged(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        looks = {
            place: answer
            for place, answer in zip(places, answers, strict=True)
            if left[place] > 0 or ((window := asks[place].window) and window.open)
        }
        asked = {p: (asks[p].account, asks[p].question(a.text)) for p, a in looks.items()}
        said = dict(zip(looks, _verdicts(list(asked.values())), strict=True))
        leaving = [
            place
            for place, answer in looks.items()
            if (window := asks[place].window) and window.wants(answer)
            if said[place].rejection is None
        ]
        agreed = _consented([(*asked[p], said[p]) for p in leaving])
        said |= zip(leaving, agreed, strict=True)
        for place, j in said.items():
            left[place] = 0 if j.rejection is Rejection.UNSCORED else left[place] - 1
            if window := asks[place].window:
                assert can_continue(engine)  # else the aligner is not made
                read = partial(engine.read, requests[place], sampling=sampling)
                window.judged(looks[place], j.rejection, read, sampling)
        return [p in said and flagged_beyond(said[p], asks[p].cut_above) for p in places]

    return engine.generate_watched(requests, sampling, flagged)


def _judged(answered: Sequence[tuple[Ask, Generation]]) -> list[Judged]:
    """What the panels make of the answers, those that confirm aside, and whether they fit."""
    known = [
        _NOBODY if not ask.judged else None if generation.answered else _UNANSWERED
        for ask, generation in answered
    ]
    wanted = [pair for pair, judged in zip(answered, known, strict=True) if judged is None]
    given = iter(_verdicts([(ask.account, ask.about(generation)) for ask, generation in wanted]))
    return [
        judged or _fitting(ask, generation, next(given))
        for judged, (ask, generation) in zip(known, answered, strict=True)
    ]


def _fitting(ask: Ask, generation: Generation, judged: Judged) -> Judged:
    """The same; what nothing else speaks against is rejected if it is not what was asked for."""
    fine = judged.rejection in (None, Rejection.DEGENERATE)
    why = unfit(ask.account.embedded.prompt, generation) if fine else None
    return judged if why is None else replace(judged, rejection=why)


def _verdicts(asked: Sequence[tuple[Account, Question]]) -> list[Judged]:
    """What the moderators that steer make of exchanges, counted for their owners."""
    for account, question in asked:
        account._asked_about(question.exchange)
    return judge_each([question for _, question in asked])


def _measured(
    answered: Sequence[tuple[Ask, Generation]], judged: Sequence[Judged]
) -> list[tuple[float | None, float | None]]:
    """Naturalness and relevance of the answers that only these can still reject.

    Of the first ones naturalness is 0. An answer is read behind its own reasoning: a model that
    thinks gives no other chances, and in a mean over both the reasoning, several times as long,
    would outweigh what is read.
    """
    wanted = {
        i: (ask, ask.account._scored(generation))
        for i, ((ask, generation), j) in enumerate(zip(answered, judged, strict=True))
        if ask.origin is not AcceptedFrom.INITIAL
        and ask.measured
        and _is_measured(ask.account.panel.policy)
        and generation.answer_ids
        and generation.finish_reason != "cut"
        and j.rejection is None
    }
    lost = _without_neutral([ask.account for ask, _ in wanted.values()])
    wanted = {i: asked for i, asked in wanted.items() if asked[0].account not in lost}
    texts: dict[tuple[Account, EmbeddedPrompt, Scored], float | None] = {}
    for ask, scored in wanted.values():
        account, answer = ask.account, ask.account._first_answer
        if account._first_log_likelihood is None and answer[0]:
            texts[account, account.embedded, answer] = None
        texts[account, account.embedded, scored] = None
        if account.panel.policy.relevance_floor is not None:
            texts[account, account.neutral, scored] = None
    if texts:
        call = partial(log_likelihoods, next(iter(texts))[0].engine)
        requests = [(account, (embedded, scored)) for account, embedded, scored in texts]
        texts = dict(zip(texts, _isolated(requests, call), strict=True))
    for account, embedded, (tokens, _) in texts:
        account.cost += Cost(prompt_tokens=len(embedded.token_ids) + len(tokens))
    found: list[tuple[float | None, float | None]] = []
    for i, (ask, _) in enumerate(answered):
        if i not in wanted:
            found.append((0.0 if ask.origin is AcceptedFrom.INITIAL else None, None))
            continue
        account, scored = ask.account, wanted[i][1]
        if account._first_log_likelihood is None:
            first = texts.get((account, account.embedded, account._first_answer))
            account._first_log_likelihood = first
        own, relevance = texts[account, account.embedded, scored], None
        if account.panel.policy.relevance_floor is not None:
            relevance = _above(own, texts[account, account.neutral, scored])
        found.append((_above(own, account._first_log_likelihood), relevance))
    return found


def _without_neutral(accounts: Sequence[Account]) -> set[Account]:
    """Those whose neutral prompt relevance needs and that cannot have it: each fails alone."""
    held = [a for a in dict.fromkeys(accounts) if a.panel.policy.relevance_floor is not None]
    embedded = _isolated([(a, a) for a in held], lambda owners: [a.neutral for a in owners])
    return {account for account, found in zip(held, embedded, strict=True) if found is None}


def _is_measured(policy: Policy) -> bool:
    return policy.naturalness_floor is not None or policy.relevance_floor is not None


def _above(value: float | None, other: float | None) -> float | None:
    """How much larger a log-likelihood is than another; None unless both are finite numbers."""
    if value is None or other is None or not math.isfinite(value - other):
        return None
    return value - other


def scored_of(generation: Generation) -> Scored:
    """An answer behind its reasoning; where there is none, the reasoning stands in."""
    tokens = generation.token_ids
    return tokens, generation.reasoning_tokens if generation.answer_ids else 0


def log_likelihoods(engine: Engine, asked: Sequence[tuple[EmbeddedPrompt, Scored]]) -> list[float]:
    """Mean log-likelihood per token, in nats, under unmoved prompts.

    Raises:
        EngineError: the engine failed.
    """
    requests = [(embedded, tokens) for embedded, (tokens, _) in asked]
    given = [given for _, (_, given) in asked]
    return engine.log_likelihood(requests, given) if any(given) else engine.log_likelihood(requests)


def _shown(ask: Ask, evaluation: Evaluation) -> Evaluation:
    """The evaluation without reasoning that is withheld, or that was not judged with an answer."""
    made, policy = evaluation.generation, ask.account.panel.policy
    answered = made.text.strip() or made.tool_calls
    if made.reasoning is None or (policy.reasoning == "show" and answered):
        return evaluation
    return replace(evaluation, generation=replace(made, reasoning=None))


def _evaluation(
    ask: Ask,
    generation: Generation,
    judged: Judged,
    naturalness: float | None,
    relevance: float | None,
) -> Evaluation:
    request = ask.request
    rejection = judged.rejection or _rejection(ask, generation, naturalness, relevance)
    return Evaluation(
        ask.origin,
        request.point,
        generation,
        judged,
        naturalness,
        rejection,
        relevance,
        request.embedded.point,
    )


def _rejection(
    ask: Ask, generation: Generation, naturalness: float | None, relevance: float | None
) -> Rejection | None:
    """Why an answer that the panel accepts is not acceptable; None if it is."""
    policy = ask.account.panel.policy
    if generation.finish_reason == "cut":
        return Rejection.UNFINISHED
    shown = generation.reasoning if policy.reasoning == "show" else None
    # What had left before was said without guidance.
    rest = f"{shown or ''} {generation.said.removeprefix(ask.account.sent.text)}"
    if ask.guidance and repeats(rest, _told(ask)):
        return Rejection.REPEATS
    if not ask.measured or ask.origin is AcceptedFrom.INITIAL:
        return None
    # Guidance makes a model decline what it would have done, which is unlikely without it, and in
    # words that fit other requests, too: both measures reject what declines before what does not
    # (docs/log.md).
    told = bool(ask.guidance)
    if _is_below(relevance, policy.relevance_floor, told):
        return Rejection.IRRELEVANT
    if _is_below(naturalness, policy.naturalness_floor, told):
        return Rejection.UNNATURAL
    return None


def _told(ask: Ask) -> str:
    """What an answer must not repeat: the guidance, and where words beside it moved these, too.

    A model that has lost them often says again what is left, in place of an answer.
    """
    if ask.origin is AcceptedFrom.GUIDANCE:
        return ask.guidance
    prompt = ask.account.embedded.prompt
    return f"{ask.guidance} {prompt.messages[prompt.last_user].content}"


def _is_below(value: float | None, floor: float | None, told: bool) -> bool:
    """Whether there is a floor, and no value, or one below it, which guidance may be."""
    return floor is not None and (value is None or (value < floor and not told))


def _confirmed(asks: Sequence[Ask], evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations; those that might leave and are not confirmed can do so no longer."""
    wanted = [
        i
        for i, (ask, evaluation) in enumerate(zip(asks, evaluations, strict=True))
        if ask.leaves and may_leave(ask.account.panel.policy, evaluation)
    ]
    asked = []
    for i in wanted:
        generation = evaluations[i].generation
        asked.append((asks[i].account, asks[i].about(generation), evaluations[i].judged))
    found = list(evaluations)
    for i, judged in zip(wanted, _consented(asked), strict=True):
        rejection = evaluations[i].rejection or judged.rejection
        found[i] = replace(evaluations[i], judged=judged, rejection=rejection)
    return found


def _consented(asked: Sequence[tuple[Account, Question, Judged]]) -> list[Judged]:
    """What is said of answers once those that confirm were asked, where a panel has any."""
    for account, question, _ in asked:
        if account.panel.confirms:
            account._asked_about(question.exchange, confirming=True)
    return confirm_each([(question, judged) for _, question, judged in asked])


def _isolated(
    items: Sequence[tuple[Account, _T]], call: Callable[[Sequence[_T]], Sequence[_R]]
) -> Sequence[_R | None]:
    """What one call gives for all items. Where it fails, each owner has a call of its own.

    An owner whose own call fails is left with its failure; its items give None, as do those of
    one that was closed meanwhile.
    """
    try:
        results = call([item for _, item in items])
        if len(results) != len(items):
            raise EngineError(f"the engine gave {len(results)} results for {len(items)} requests")
        return results
    except Exception as error:
        owners = dict.fromkeys(account for account, _ in items)
        if len(owners) == 1:
            items[0][0].failure = error
            return [None] * len(items)
    found: dict[int, _R | None] = {}
    for owner in owners:
        if owner.closed or owner.failure:
            continue
        places = [i for i, (account, _) in enumerate(items) if account is owner]
        found |= zip(places, _isolated([items[i] for i in places], call), strict=True)
    return [found.get(i) for i in range(len(items))]


def _least(one: _N | None, other: _N | None) -> _N | None:
    """The smaller of two limits; None is no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)

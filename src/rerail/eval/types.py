"""The values of an evaluation: what is asked, and what became of it.

A benchmark gives `Case`s. A run answers every case by every method, under every seed, and keeps
one `Trial` each. Everything else (figures, tables, the report) is made from cases and trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self, get_args

from rerail.types import (
    AcceptedFrom,
    Cost,
    Evaluation,
    FrozenDict,
    Message,
    Outcome,
    Prompt,
    Rejection,
    Verdict,
    neutralised,
)

CaseKind = Literal["harmful", "benign", "completion", "utility"]
"""``harmful``: asks for something that should not be answered. ``benign``: should be answered.
``completion``: a text to be continued, which invites toxic words. ``utility``: has right and wrong
answers, or instructions that can be checked."""

CASE_KINDS: tuple[str, ...] = get_args(CaseKind)


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt of a benchmark.

    Attributes:
        id: unique within its benchmark, and the same in every run.
        benchmark: name of the benchmark, wrappers and scenario included
            (``advbench+in-the-wild``, ``advbench+multi-turn``).
        kind: what is to be expected of the answer.
        messages: the conversation; the last turn is the user's.
        request: what is asked for, bare of wrapper and scenario: by it an answer is on topic.
        category: the benchmark's own category.
        template: whether the chat template is applied; False continues the text.
        meta: what the benchmark's official scorer needs (IFEval's instructions, GSM8K's answer),
            and where the case comes from (wrapper, scenario). JSON-able.
    """

    id: str
    benchmark: str
    kind: CaseKind
    messages: tuple[Message, ...]
    request: str
    category: str | None = None
    template: bool = True
    meta: Mapping[str, Any] = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "meta", FrozenDict(self.meta))

    @property
    def prompt(self) -> Prompt:
        """The prompt that the model is given.

        Raises:
            PromptError: the messages are no prompt.
        """
        return Prompt(self.messages, self.template)


class TrajectoryPoint(NamedTuple):
    """One evaluated answer on the way.

    Attributes:
        generation: its number, 1 for the first answer generated.
        harm: max over categories of score / threshold, flagged at 1; None if unscored or not asked.
        naturalness: nats per token; None where it was not needed.
        accepted: whether the method took it as its answer.
        rejection: why the policy does not accept it; None if it does.
    """

    generation: int
    harm: float | None
    naturalness: float | None
    accepted: bool
    rejection: str | None

    @classmethod
    def of(cls, number: int, evaluation: Evaluation, accepted: bool, confirms: bool) -> Self:
        """The point of an evaluation.

        Where moderators confirm, an answer that is not natural enough was not put to them: under
        a lower floor it might not have left, and it counts as unconfirmed.
        """
        judged, rejection = evaluation.judged, evaluation.rejection
        if confirms and rejection is Rejection.UNNATURAL and not judged.confirmed:
            rejection = Rejection.UNCONFIRMED
        return cls(number, judged.verdict.harm, evaluation.naturalness, accepted, rejection)

    @property
    def unnatural_at_most(self) -> bool:
        """Whether nothing but a floor of naturalness can speak against it."""
        return self.rejection in (None, Rejection.UNNATURAL)


def rejected_by(verdict: Verdict | None) -> Rejection | None:
    """Why an answer that was judged afterwards is not accepted, if it isn't."""
    if verdict is None or verdict.unscored is not None:
        return Rejection.UNSCORED
    return Rejection.FLAGGED if verdict.flagged else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge says of a trial's first and final text.

    Attributes:
        initial: probability in [0, 1] that the first text complies with a harmful request; None
            if unscored.
        final: the same of the final text.
        unscored: why a number is missing; None if both are there.
    """

    initial: float | None
    final: float | None
    unscored: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What one method made of one case, under one seed.

    ``first_text`` and everything called *initial* belong to the model's own answer to the case
    without any defence, at the run's temperature: for all methods the same, so that they share it
    and comparisons are paired. ``text`` and everything called *final* belong to what the method
    returned. Verdicts are the policy's moderator's (and, in a trial of a method that answers
    without it, were asked for afterwards); judges are independent of it.

    Attributes:
        case_id: the case's id within ``benchmark``.
        benchmark: as in the case.
        kind: as in the case.
        category: as in the case.
        method: name of the method.
        model: name of the model.
        policy: name of the policy.
        policy_version: its version.
        seed: the run's seed, one of ``--seed``.
        outcome: ``passed``: the model's first answer was returned, unchanged; ``steered``: another
            answer of the model; ``refused``: the policy's message in the place of an answer;
            ``error``: engine or moderator failed, or the prompt cannot be answered.
        first_text: the model's own answer; None if there is none (an error).
        text: what was returned.
        initial: verdict on ``first_text``; None if there is no such text.
        final: verdict on ``text``; None if ``text`` is no answer of the model (refused, error).
            Baselines return what they return: it may be flagged.
        naturalness: mean log-likelihood per token of ``text`` under the original prompt, minus
            that of ``first_text``; 0 if they are the same, None if ``text`` is no model's answer.
        cosine: as in `rerail.types.Response`; None for methods that move no embeddings.
        tokens_preserved: as in `rerail.types.Response`; None likewise.
        iterations: completed optimiser iterations; 0 for methods without.
        accepted_from: which kind of point gave ``text``.
        cost: what the method spent, the first answer included where the method asks for one.
            Judging afterwards costs nothing.
        judge_initial: the independent judge's probability that ``first_text`` complies with a
            harmful request; None if unscored.
        judge_final: the same of ``text``.
        judge_unscored: why one of the two is missing; None if both are there.
        refused_initial: whether ``first_text`` declines, by rule.
        refused_final: whether ``text`` declines, by rule; true for the policy's message.
        on_topic: whether ``text`` speaks of the case's request, by rule.
        perplexity: exp(−mean log-likelihood per token) of ``text`` after the case's prompt, under
            the model of ``--perplexity-model``, else under the evaluated model, nothing moved.
            None if ``text`` is no model's answer.
        judges: further judges by name.
        scores: official scorers by name, for example ``{"ifeval_prompt_strict": 1.0}``.
        trajectory: every answer evaluated on the way, in order.
        error: what failed, for outcome ``error``.
        sent: the conversation that ``text`` answers, where it is not the case's own: a method
            that adds to the prompt, or an attacker who wraps it.
        published: verdict on what the published method would have returned: the best iterate,
            flagged or not. None where that is ``text``, or where nothing was to be returned.
        wall_seconds: wall time of the group that the method answered it in, divided by the
            group's prompts; None in records that are older than this.
        moderator_seconds: of these, the time spent on moderators. What the run had judged before
            is remembered and takes none.
        first_tokens: generated tokens of the model's own answer, what a full generation is; None
            in records that are older than this.
    """

    case_id: str
    benchmark: str
    kind: CaseKind
    category: str | None
    method: str
    model: str
    policy: str
    policy_version: str
    seed: int
    outcome: Outcome
    first_text: str | None
    text: str
    initial: Verdict | None
    final: Verdict | None
    naturalness: float | None = None
    cosine: float | None = None
    tokens_preserved: float | None = None
    iterations: int = 0
    accepted_from: AcceptedFrom = AcceptedFrom.NONE
    cost: Cost = field(default_factory=Cost)
    judge_initial: float | None = None
    judge_final: float | None = None
    judge_unscored: str | None = None
    refused_initial: bool = False
    refused_final: bool = False
    on_topic: bool = False
    perplexity: float | None = None
    judges: Mapping[str, Judgement] = field(default_factory=FrozenDict)
    scores: Mapping[str, float] = field(default_factory=FrozenDict)
    trajectory: tuple[TrajectoryPoint, ...] = ()
    error: str | None = None
    sent: tuple[Message, ...] | None = None
    published: Verdict | None = None
    wall_seconds: float | None = None
    moderator_seconds: float | None = None
    first_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "judges", FrozenDict(self.judges))
        object.__setattr__(self, "scores", FrozenDict(self.scores))

    @property
    def flagged_before(self) -> bool:
        """Whether the model's own answer is flagged."""
        return self.initial is not None and self.initial.flagged

    @property
    def flagged_after(self) -> bool:
        """Whether what was returned is flagged."""
        return self.final is not None and self.final.flagged

    @property
    def published_verdict(self) -> Verdict | None:
        """On what the published method would have returned; None if that is no model's answer."""
        if self.outcome is Outcome.ERROR:
            return None
        return self.published or self.final

    @property
    def unchanged(self) -> bool:
        """Whether the model's own answer was returned, byte for byte."""
        return self.text == self.first_text

    @property
    def neutralised(self) -> bool:
        return neutralised(self.initial, self.outcome, self.final)

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """What a run holds once: benchmark, case, method, model, policy version and seed."""
        return (
            self.benchmark,
            self.case_id,
            self.method,
            self.model,
            self.policy_version,
            self.seed,
        )

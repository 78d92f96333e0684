"""Who judges: a policy with its moderators. Nobody else compares a score with a threshold.

    panel = Panel.load(policy)
    for judged in panel.judge(exchanges):
        ...  # judged.rejection is None: acceptable

A first answer is acceptable if it is not flagged. A steered one has to be clearly harmless: the
first of many candidates under a threshold is the moderator's error as often as a good answer.

The moderators that *steer* score every answer, and a search follows their harm. Those that
*confirm* are asked about what would leave, and can only say no: no search sees their scores. All
are asked through a time limit and a cache, and whatever they fail to do leaves an answer unscored.

Those of the *gate* score what the user says, before anything is generated, by thresholds of their
own.
"""

from __future__ import annotations

import math
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Self

from rerail.errors import PolicyError
from rerail.moderators import load_confirm, load_gate, load_moderator
from rerail.moderators.base import ACCESS_DENIED, Moderator
from rerail.moderators.cache import Cached
from rerail.moderators.limit import TimeLimited
from rerail.moderators.stats import Stats, counters
from rerail.names import nearest
from rerail.policy import GateSpec, Policy
from rerail.types import (
    Action,
    Exchange,
    FrozenDict,
    Judged,
    Prompt,
    Rejection,
    Score,
    Screened,
    Verdict,
)


class Panel:
    """A policy with its moderators.

    Args:
        policy: what is harmful.
        moderator: steers: its scores decide, and a search follows them.
        confirm: judges what ``moderator`` accepted; nothing leaves without its consent.
        gate: the moderators of prompts, in the policy's order.

    Attributes:
        policy: as given.
        thresholds: of the active categories of the moderator that steers.
        confirm_thresholds: of those of the moderator that confirms; empty if there is none.
        all_thresholds: of both.
        noted_thresholds: of the categories that are only noted; they are in none of the others.

    Raises:
        PolicyError: the policy names a category that no moderator gives, switches off all that
            one of them gives, or names moderators that confirm or of a gate while ``confirm`` or
            ``gate`` is missing.
    """

    def __init__(
        self,
        policy: Policy,
        moderator: Moderator,
        confirm: Moderator | None = None,
        gate: Sequence[Moderator] = (),
    ) -> None:
        if policy.confirm and confirm is None:
            raise PolicyError(
                f"policy {policy.name!r} names moderators that confirm: "
                "pass confirm=load_confirm(policy), or use Panel.load(policy)"
            )
        if len(policy.gate) != len(gate):
            raise PolicyError(
                f"policy {policy.name!r} has a gate of {len(policy.gate)} moderators, and "
                f"{len(gate)} are given: pass gate=load_gate(policy), or use Panel.load(policy)"
            )
        self.policy = policy
        self._steers = _Asked(moderator, policy.moderator_timeout)
        self._confirms = _Asked(confirm, policy.moderator_timeout) if confirm else None
        self._gate = tuple(
            _Gate(_Asked(each, policy.moderator_timeout), _gate_thresholds(policy, spec, each),
                  spec.action)
            for spec, each in zip(policy.gate, gate, strict=True)
        )  # fmt: skip
        self.thresholds = self._active(moderator, "every category off")
        self.confirm_thresholds: Mapping[str, float] = FrozenDict()
        known = set(moderator.categories)
        if confirm is not None:
            which = "off every category of the moderators that confirm: leave them out"
            self.confirm_thresholds = self._active(confirm, which)
            known |= set(confirm.categories)
        self.all_thresholds = FrozenDict({**self.confirm_thresholds, **self.thresholds})
        self.noted_thresholds = FrozenDict(
            {
                c: t
                for c, action in policy.actions.items()
                if action == "note" and (t := self._threshold(c)) is not None
            }
        )
        named = [c for c, threshold in policy.categories.items() if threshold is not None]
        for category in (*named, *policy.actions):
            if category not in known:
                raise PolicyError(
                    f"policy {policy.name!r} names category {category!r}, which its moderators do "
                    f"not give{nearest(category, known)}"
                )

    @classmethod
    def load(cls, policy: Policy) -> Self:
        """The policy with the moderators that it names.

        Raises:
            ModeratorError: one is not registered, or rejects its options.
            PolicyError: policy and moderators do not fit each other.
        """
        return cls(policy, load_moderator(policy), load_confirm(policy), load_gate(policy))

    def under(self, policy: Policy) -> Panel:
        """The same moderators under another policy.

        Raises:
            PolicyError: policy and moderators do not fit each other.
        """
        confirm = self._confirms.moderator if self._confirms else None
        gate = [each.asked.moderator for each in self._gate]
        panel = Panel(policy, self._steers.moderator, confirm, gate)
        if panel._steers == self._steers:
            panel._steers, panel._confirms = self._steers, self._confirms  # with their caches
            panel._gate = tuple(
                new._replace(asked=own.asked)
                for new, own in zip(panel._gate, self._gate, strict=True)
            )
        return panel

    @property
    def name(self) -> str:
        """Of the moderator that steers."""
        return self._steers.moderator.name

    @property
    def confirm_name(self) -> str | None:
        """Of the moderator that confirms; None if there is none."""
        return self._confirms.moderator.name if self._confirms else None

    @property
    def is_quick(self) -> bool:
        """Whether verdicts of the moderators that steer cost next to nothing beside an answer."""
        return getattr(self._steers.moderator, "quick", False) is True

    @property
    def confirms(self) -> bool:
        """Whether a moderator confirms."""
        return self._confirms is not None

    @property
    def gated(self) -> bool:
        """Whether prompts are screened."""
        return bool(self._gate)

    def screen(self, prompts: Sequence[Prompt]) -> list[Screened | None]:
        """What the policy's gate makes of prompts, in order; None where it has none."""
        return screen_each([(self, prompt) for prompt in prompts])

    def lets_in(self, screened: Screened | None) -> bool:
        """Whether a prompt may be answered at all.

        Not if the gate refuses it, nor if it could not be scored, unless an audit policy says
        otherwise and no service denies access.
        """
        if screened is None:
            return True
        cause = screened.verdict.unscored
        opens = self.policy.on_moderator_error == "open" and ACCESS_DENIED not in (cause or "")
        return screened.action != "refuse" and (cause is None or opens)

    def refuses(self, scores: Mapping[str, float]) -> bool:
        """Whether a first answer with these scores is refused without a search."""
        flags, actions = self.flags(scores), self.policy.actions
        return any(flag and actions.get(c) == "refuse" for c, flag in flags.items())

    def noted(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Categories that would flag an answer with these scores, were they not only noted."""
        return _over(scores, self.noted_thresholds)

    def judge(self, exchanges: Sequence[Exchange], *, steered: bool = False) -> list[Judged]:
        """What the policy says of answers, naturalness aside; in order.

        Those that the moderators that steer accept need the consent of those that confirm.

        Args:
            exchanges: the answers, with their conversations.
            steered: whether they are held to the policy's ``accept_below``, as all answers are but
                a model's first ones.
        """
        questions = [Question(self, exchange, steered) for exchange in exchanges]
        judged = judge_each(questions)
        accepted = [i for i, j in enumerate(judged) if j.rejection is None]
        asked = [(questions[i], judged[i]) for i in accepted]
        for i, confirmed in zip(accepted, confirm_each(asked), strict=True):
            judged[i] = confirmed
        return judged

    def flags(self, scores: Mapping[str, float]) -> dict[str, bool]:
        """Of each category that has a score: whether it alone flags the answer."""
        thresholds = self.all_thresholds
        return {c: c in thresholds and s / thresholds[c] >= 1.0 for c, s in scores.items()}

    def decisive(self, scores: Mapping[str, float]) -> str:
        """The category that decides: the one with the largest score / threshold."""
        thresholds = self.all_thresholds
        return max(scores.keys() & thresholds.keys(), key=lambda c: (scores[c] / thresholds[c], c))

    def lets_leave_unscored(self, judged: Judged) -> bool:
        """Whether an audit policy lets an answer leave that could not be judged.

        Never one that is known to be flagged all the same, and never where a service denies
        access: that is no outage.
        """
        if self.policy.on_moderator_error != "open" or judged.rejection is not Rejection.UNSCORED:
            return False
        known = Score.worst([judged.score, *filter(None, [judged.confirmation])])
        return ACCESS_DENIED not in (known.cause or "") and not any(
            self.flags(known.categories).values()
        )

    @property
    def seconds(self) -> float:
        """Wall time spent on moderators so far, by this panel and by those that share its caches.

        A verdict that is remembered takes none.
        """
        return sum(asked.seconds for asked in self._everyone())

    def asked(self) -> dict[str, Stats]:
        """What each moderator was asked so far, by name; only of those that count."""
        everyone = self._everyone()
        return {name: stats for m in everyone for name, stats in counters(m.moderator).items()}

    def _everyone(self) -> list[_Asked]:
        return [self._steers, *filter(None, [self._confirms]), *(g.asked for g in self._gate)]

    def _threshold(self, category: str) -> float | None:
        return self.policy.categories.get(category, self.policy.default_threshold)

    def _active(self, moderator: Moderator, which: str) -> Mapping[str, float]:
        """Threshold of each category of a moderator that the policy does not switch off."""
        policy = self.policy
        judged = [c for c in moderator.categories if policy.actions.get(c) != "note"]
        active = {c: t for c in judged if (t := self._threshold(c)) is not None}
        if not active:
            only = " or only notes" if "note" in policy.actions.values() else ""
            raise PolicyError(f"policy {policy.name!r} switches{only} {which}")
        return FrozenDict(active)


class _Gate(NamedTuple):
    """A moderator of prompts, with its own thresholds and what becomes of what it flags."""

    asked: _Asked
    thresholds: Mapping[str, float]
    action: Action


def _gate_thresholds(policy: Policy, spec: GateSpec, moderator: Moderator) -> Mapping[str, float]:
    for category, threshold in spec.categories.items():
        if threshold is not None and category not in moderator.categories:
            raise PolicyError(
                f"policy {policy.name!r}: the gate's moderator {spec.name!r} does not give "
                f"category {category!r}{nearest(category, moderator.categories)}"
            )
    given = {c: spec.categories.get(c, spec.default_threshold) for c in moderator.categories}
    active = {c: t for c, t in given.items() if t is not None}
    if not active:
        raise PolicyError(
            f"policy {policy.name!r} switches every category of the gate's moderator "
            f"{spec.name!r} off: leave it out"
        )
    return FrozenDict(active)


class Question(NamedTuple):
    """What a panel is asked.

    Attributes:
        panel: is asked.
        exchange: the answer, with its conversation.
        steered: whether the answer is held to the policy's ``accept_below``.
    """

    panel: Panel
    exchange: Exchange
    steered: bool


def judge_each(asked: Sequence[Question]) -> list[Judged]:
    """What the moderators that steer make of answers, in one batch for each of them."""
    scores = _scores([(question.panel._steers, question.exchange) for question in asked])
    return [_judged(question, score) for question, score in zip(asked, scores, strict=True)]


def confirm_each(asked: Sequence[tuple[Question, Judged]]) -> list[Judged]:
    """The same answers after those that confirm were asked, where a panel has such moderators.

    A rejection of the moderators that steer stays what it is; of an answer that they accepted it
    becomes ``unconfirmed``, or ``unscored`` where there is no verdict.
    """
    confirming = [
        (i, question.panel._confirms, question.exchange)
        for i, (question, _) in enumerate(asked)
        if question.panel._confirms is not None
    ]
    scores = _scores([(moderator, exchange) for _, moderator, exchange in confirming])
    judged = [j for _, j in asked]
    for (i, _, _), score in zip(confirming, scores, strict=True):
        judged[i] = _confirmed(asked[i][0], judged[i], score)
    return judged


def screen_each(asked: Sequence[tuple[Panel, Prompt]]) -> list[Screened | None]:
    """What the gates of panels make of prompts, in one batch for each moderator.

    Each turn of the user's is a text of its own; of a prompt's the worst counts.
    """
    questions = [
        (i, place, gate.asked, Exchange((), text))
        for i, (panel, prompt) in enumerate(asked)
        for place, gate in enumerate(panel._gate)
        for text in prompt.said()
    ]
    scores = _scores([(moderator, exchange) for *_, moderator, exchange in questions])
    found: dict[tuple[int, int], list[Score]] = {}
    for (i, place, *_), score in zip(questions, scores, strict=True):
        found.setdefault((i, place), []).append(score)
    return [
        _screened([(gate, Score.worst(found[i, g])) for g, gate in enumerate(panel._gate)])
        if panel.gated
        else None
        for i, (panel, _) in enumerate(asked)
    ]


_STRICTEST: tuple[Action, ...] = ("refuse", "steer", "note")


def _screened(scores: Sequence[tuple[_Gate, Score]]) -> Screened:
    """What all moderators of a gate say together; what is known flags, whatever else failed."""
    over = [(gate.action, _over(score.categories, gate.thresholds)) for gate, score in scores]
    actions = [action for action, found in over if found]
    worst = max(harm(score, gate.thresholds) for gate, score in scores)
    acting = dict.fromkeys(c for action, found in over if action != "note" for c in found)
    noted = dict.fromkeys(c for action, found in over if action == "note" for c in found)
    return Screened(
        min(actions, key=_STRICTEST.index, default=None),
        tuple(acting),
        tuple(noted),
        _verdict(Score.worst([score for _, score in scores]), worst),
    )


def _over(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """Categories whose score meets its threshold."""
    return tuple(c for c, t in thresholds.items() if scores.get(c, 0.0) / t >= 1.0)


def flagged_beyond(judged: Judged, least: float) -> bool:
    """Whether an answer is flagged with at least this harm: never one that is unscored."""
    return judged.rejection is Rejection.FLAGGED and judged.harm >= least


def harm(score: Score, thresholds: Mapping[str, float]) -> float:
    """``max_c score_c / threshold_c`` over the thresholds' categories: flagged at 1 and above.

    Infinite if the verdict is unscored or lacks one of the categories.
    """
    if not score.scored or any(c not in score.categories for c in thresholds):
        return math.inf
    return max(score.categories[c] / t for c, t in thresholds.items())


def _judged(question: Question, score: Score) -> Judged:
    text = question.exchange.answer
    value = harm(score, question.panel.thresholds)
    if not text.strip():
        rejection: Rejection | None = Rejection.EMPTY
    elif math.isinf(value):
        rejection = Rejection.UNSCORED
    elif value >= 1.0:
        rejection = Rejection.FLAGGED
    elif not _low_enough(question, value):
        rejection = Rejection.BORDERLINE
    else:
        # A first answer that nobody flags is the model's own, well said or not.
        broken = question.steered and is_degenerate(text)
        rejection = Rejection.DEGENERATE if broken else None
    return Judged(score, value, rejection, _verdict(score, value))


def _low_enough(question: Question, value: float) -> bool:
    """Whether harm keeps no answer back: below 1, and where steered at most ``accept_below``."""
    return value < 1.0 and not (question.steered and value > question.panel.policy.accept_below)


def _confirmed(question: Question, judged: Judged, score: Score) -> Judged:
    value = harm(score, question.panel.confirm_thresholds)
    agreed = _low_enough(question, value)
    rejection = judged.rejection
    if rejection is None and not agreed:
        rejection = Rejection.UNSCORED if math.isinf(value) else Rejection.UNCONFIRMED
    verdict = _verdict(Score.worst([judged.score, score]), max(judged.harm, value))
    return replace(
        judged,
        rejection=rejection,
        verdict=replace(verdict, confirmed=agreed),
        confirmation=score,
        confirmed=agreed,
    )


def _verdict(score: Score, value: float) -> Verdict:
    unscored = math.isinf(value)
    cause = (score.cause or "no score for a category of the policy") if unscored else None
    return Verdict(None if unscored else value, score.categories, 1.0 <= value < math.inf, cause)


class _Asked:
    """A moderator behind a time limit and a cache; nothing that it does can raise.

    Equal to any other of the same moderator and time limit, so that several panels share batches.
    """

    def __init__(self, moderator: Moderator, timeout: float) -> None:
        self.moderator = moderator
        self._timeout = timeout
        self._score = Cached(TimeLimited(moderator, timeout)).score
        self.seconds = 0.0

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange, in order."""
        started = time.perf_counter()
        found = self._score(exchanges)
        self.seconds += time.perf_counter() - started
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Asked):
            return NotImplemented
        return self.moderator is other.moderator and self._timeout == other._timeout

    def __hash__(self) -> int:
        return hash((id(self.moderator), self._timeout))


def _scores(asked: Sequence[tuple[_Asked, Exchange]]) -> list[Score]:
    """A verdict on each exchange, in one batch for each moderator; of its texts the worst."""
    places: dict[_Asked, list[tuple[int, Exchange]]] = {}
    for i, (moderator, exchange) in enumerate(asked):
        own = places.setdefault(moderator, [])
        own.append((i, replace(exchange, reasoning=None)))
        if exchange.answer.strip() and (exchange.reasoning or "").strip():
            own.append((i, Exchange(exchange.messages, exchange.reasoning or "")))
    scores: list[list[Score]] = [[] for _ in asked]
    for moderator, own in places.items():
        given = moderator.score([exchange for _, exchange in own])
        for (i, _), score in zip(own, given, strict=True):
            scores[i].append(score)
    return [given[0] if len(given) == 1 else Score.worst(given) for given in scores]


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

"""What recorded answers would have come to under other policies, without a model.

Where texts were recorded, both policies' moderators judge them anew. Where none were, the recorded
scores decide, if the moderators that gave them are those of the policy; else the record is not
judged, and the reason is told. A search is not run again: what it would find with other rows,
steps or budgets is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from rerail.panel import Panel
from rerail.policy import MODERATED_BY, Policy
from rerail.store import Record
from rerail.types import AcceptedFrom, Exchange, Judged, Outcome, Prompt, Rejection, Screened

EXAMPLES = 3
"""Ids that stand for the records of one kind."""

_BATCH = 64

_UNDER_ANY_POLICY = frozenset(
    {Rejection.EMPTY, Rejection.DEGENERATE, Rejection.INVALID, Rejection.UNCALLED}
)
"""What rejects an answer whatever its scores and thresholds."""


class Fate(StrEnum):
    """What a record comes to under a policy."""

    PASSED = "passed"
    """The model's first answer leaves."""
    STEERED = "steered"
    """It does not; the answer that left does."""
    STOPPED = "stopped"
    """No recorded answer leaves: steered to another, or refused."""
    ERROR = "error"
    """There is no verdict."""


@dataclass(frozen=True)
class Unjudged:
    """Why a record says nothing of a policy."""

    reason: str


@dataclass(frozen=True)
class Replayed:
    """A record under two policies.

    Attributes:
        record: the record.
        old: under the one.
        new: under the other.
        texts: whether its texts were judged, or its scores read.
    """

    record: Record
    old: Fate | Unjudged
    new: Fate | Unjudged
    texts: bool


class Replay:
    """Two policies, and what recorded answers come to under them.

    Args:
        old: with its moderators.
        new: with its moderators; `panels` makes both.
        known: policies by ``(name, version)`` under which answers may have been recorded.
    """

    def __init__(
        self, old: Panel, new: Panel, known: Mapping[tuple[str, str], Policy] | None = None
    ) -> None:
        self._panels = (old, new)
        both = (old.policy, new.policy)
        self._known = {**(known or {}), **{(p.name, p.version): p for p in both}}

    def of(self, records: Iterable[Record]) -> Iterator[Replayed]:
        """What becomes of records, in order."""
        rest = iter(records)
        while batch := list(islice(rest, _BATCH)):
            old, new = (self._fates(panel, batch) for panel in self._panels)
            for record, before, after in zip(batch, old, new, strict=True):
                yield Replayed(record, before, after, record.prompt is not None)

    def _fates(self, panel: Panel, records: Sequence[Record]) -> list[Fate | Unjudged]:
        screened = _screened(panel, records)
        first = _judged(panel, records, [r.first_answer for r in records], steered=False)
        suspected = [
            r.first_answer if (found := screened.get(i)) and found.action == "steer" else None
            for i, r in enumerate(records)
        ]
        first |= _judged(panel, records, suspected, steered=True)
        steered = [r.final_answer if r.outcome == Outcome.STEERED else None for r in records]
        final = _judged(panel, records, steered, steered=True)
        return [
            self._by_scores(panel, record)
            if record.prompt is None
            else _by_texts(panel, record, screened.get(i), first.get(i), final.get(i))
            for i, record in enumerate(records)
        ]

    def _by_scores(self, panel: Panel, record: Record) -> Fate | Unjudged:
        made_by = self._known.get((record.policy, record.policy_version))
        if made_by is None:
            which = f"{record.policy} {record.policy_version}"
            return Unjudged(f"no texts, and policy {which} is not known: who gave the scores?")
        if _moderators(made_by) != _moderators(panel.policy):
            return Unjudged("no texts, and the scores are those of other moderators")
        if record.initial is None:
            refused = record.gate is not None and record.gate["action"] == "refuse"
            return Fate.STOPPED if refused else Unjudged("there was no answer")
        rejected = {e.number: e.rejection for e in record.evaluations}.get(0)
        first = _leaves(panel, record.initial)
        if isinstance(first, Unjudged):
            return first
        if first and rejected not in _UNDER_ANY_POLICY:
            return Fate.PASSED
        if record.outcome != Outcome.STEERED or record.final is None:
            return Fate.STOPPED
        if panel.refuses(record.initial["scores"]):
            return Fate.STOPPED
        final = _leaves(panel, record.final)
        if isinstance(final, Unjudged):
            return final
        return Fate.STEERED if final and _natural(panel.policy, record) else Fate.STOPPED


def panels(old: Policy, new: Policy) -> tuple[Panel, Panel]:
    """Two policies with their moderators, which are loaded once if they are the same.

    Raises:
        ModeratorError: one cannot be had.
        PolicyError: policy and moderators do not fit each other.
    """
    first = Panel.load(old)
    same = _moderators(old) == _moderators(new)
    return first, first.under(new) if same else Panel.load(new)


@dataclass(frozen=True)
class Change:
    """Records that come to something else under the new policy.

    Attributes:
        tenant: whose they are, or the run that they are of.
        recorded: the outcome that they had.
        old: what they come to under the old policy.
        new: and under the new one.
        count: how many they are.
        examples: ids of some.
    """

    tenant: str
    recorded: str
    old: Fate
    new: Fate
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """What all records say.

    Attributes:
        records: how many there are.
        by_texts: those whose texts were judged.
        by_scores: those whose scores sufficed.
        unchanged: those that come to the same.
        passed: those whose first answer left when they were recorded.
        changes: the others, the most frequent first.
        unjudged: reason to the ids of the records that it kept from being judged.
    """

    records: int
    by_texts: int
    by_scores: int
    unchanged: int
    passed: int
    changes: tuple[Change, ...]
    unjudged: Mapping[str, tuple[str, ...]]


def summarise(replayed: Iterable[Replayed], prefix: str = "") -> Summary:
    """Count.

    Args:
        replayed: records under both policies.
        prefix: of the name of a run whose rest is a tenant.
    """
    changed: dict[tuple[str, str, Fate, Fate], list[str]] = {}
    unjudged: dict[str, list[str]] = {}
    count = texts = scores = same = passed = 0
    for each in replayed:
        record, old, new = each.record, each.old, each.new
        count += 1
        passed += record.outcome == Outcome.PASSED
        if isinstance(old, Unjudged) or isinstance(new, Unjudged):
            reasons = {fate.reason for fate in (old, new) if isinstance(fate, Unjudged)}
            for reason in sorted(reasons):
                unjudged.setdefault(reason, []).append(record.item)
            continue
        texts += each.texts
        scores += not each.texts
        if old is new:
            same += 1
            continue
        tenant = record.run.removeprefix(prefix)
        changed.setdefault((tenant, record.outcome, old, new), []).append(record.item)
    changes = [Change(*k, len(ids), tuple(ids[:EXAMPLES])) for k, ids in changed.items()]
    changes.sort(key=lambda c: (-c.count, c.tenant, c.recorded, c.old, c.new))
    why = {reason: tuple(ids) for reason, ids in unjudged.items()}
    return Summary(count, texts, scores, same, passed, tuple(changes), why)


def _moderators(policy: Policy) -> Any:
    """All that scores depend on."""
    return policy.model_dump(mode="json", include=set(MODERATED_BY))


def _judged(
    panel: Panel, records: Sequence[Record], answers: Sequence[str | None], *, steered: bool
) -> dict[int, Judged]:
    """What a panel makes of those answers that were recorded, by their place."""
    asked = {
        i: Exchange(Prompt.of(record.prompt).messages, answer)
        for i, (record, answer) in enumerate(zip(records, answers, strict=True))
        if record.prompt is not None and answer is not None
    }
    return dict(zip(asked, panel.judge(list(asked.values()), steered=steered), strict=True))


def _screened(panel: Panel, records: Sequence[Record]) -> dict[int, Screened]:
    """What the policy's gate makes of those prompts that were recorded, by their place."""
    asked = {i: Prompt.of(r.prompt) for i, r in enumerate(records) if r.prompt is not None}
    found = zip(asked, panel.screen(list(asked.values())), strict=True)
    return {i: screened for i, screened in found if screened is not None}


def _by_texts(
    panel: Panel,
    record: Record,
    screened: Screened | None,
    first: Judged | None,
    final: Judged | None,
) -> Fate | Unjudged:
    if not panel.lets_in(screened):
        refused = screened is not None and screened.action == "refuse"
        return Fate.STOPPED if refused else Fate.ERROR
    if first is None:
        return Unjudged("there was no answer")
    if first.rejection is None or panel.lets_leave_unscored(first):
        return Fate.PASSED
    if first.rejection is Rejection.UNSCORED:
        return Fate.ERROR
    if final is None or panel.refuses(first.verdict.scores):
        return Fate.STOPPED
    if final.rejection is Rejection.UNSCORED:
        return Fate.ERROR
    natural = final.rejection is None and _natural(panel.policy, record)
    return Fate.STEERED if natural else Fate.STOPPED


def _leaves(panel: Panel, verdict: Mapping[str, Any]) -> bool | Unjudged:
    """Whether recorded scores let an answer leave, as far as they tell."""
    scores = verdict["scores"]
    if any(panel.flags(scores).values()):
        return False
    if verdict["unscored"] is not None:
        return Unjudged("no texts, and there was no verdict")
    asked = verdict.get("confirmed") is not None or not panel.confirms
    if not asked or panel.all_thresholds.keys() - scores.keys():
        return Unjudged("no texts, and not every moderator was asked")
    return True


def _natural(policy: Policy, record: Record) -> bool:
    """Whether the answer that left is relevant and natural enough, as far as that is known."""
    if record.accepted_from == AcceptedFrom.GUIDANCE:
        return True
    if _is_below(record.relevance, policy.relevance_floor):
        return False
    lenient = policy.on_exhausted == "best"
    return lenient or not _is_below(record.naturalness, policy.naturalness_floor)


def _is_below(value: float | None, floor: float | None) -> bool:
    return value is not None and floor is not None and value < floor

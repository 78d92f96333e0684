"""A policy in words: who judges, when an answer is flagged, what is tried, what it may cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rerail.errors import RerailError
from rerail.moderators import load_confirm, load_gate, load_moderator
from rerail.panel import Panel
from rerail.policy import GateSpec, ModeratorSpec, Policy

SERVICES = frozenset({"azure", "http", "mistral", "openai", "perspective"})
"""Moderators that texts are sent to, and that may be billed."""


@dataclass(frozen=True)
class Part:
    """A part of the explanation.

    Attributes:
        about: what it is about.
        says: sentences.
    """

    about: str
    says: tuple[str, ...]


def explain(policy: Policy) -> list[Part]:
    """What a policy does.

    Its moderators are loaded, to learn which categories they give. Where they cannot be had, that
    is said, and the file alone is explained.
    """
    told = {
        "What is asked of the prompt": _gate(policy),
        "Who judges": _judges(policy),
        "What is flagged": _flagged(policy),
        "What is tried": _tried(policy),
        "When nothing is found": _exhausted(policy),
        "When a moderator fails": _failure(policy),
        "What it may cost": _costs(policy),
        "When text leaves": _released(policy),
        "What is kept": _kept(policy),
        "Also": _rest(policy),
    }
    return [Part(about, says) for about, found in told.items() if (says := tuple(found))]


_AT_THE_GATE = {
    "refuse": "nothing is generated, and the reader sees the refusal message",
    "steer": "it is steered at once: guidance and a known offset are asked beside the first "
    "answer, which leaves only if it is clearly harmless",
    "note": "it is answered as any other, and the response names the category",
}


def _gate(policy: Policy) -> Iterator[str]:
    for spec in policy.gate:
        yield (
            f"{_called(spec)} scores what the user says, turn by turn, before anything is "
            f"generated. {_gate_limits(spec)} Where it flags a prompt, {_AT_THE_GATE[spec.action]}."
        )
    if len(policy.gate) > 1:
        yield "Where several flag a prompt, the strictest counts: refuse, then steer, then note."


def _gate_limits(spec: GateSpec) -> str:
    own = [
        f"{category} {'off' if threshold is None else f'at {threshold:g}'}"
        for category, threshold in spec.categories.items()
    ]
    others = f"{'other categories' if own else 'A category'} at {spec.default_threshold:g}"
    return f"It flags {_listed([*own, others])}." if own else f"{others} flags."


def _judges(policy: Policy) -> Iterator[str]:
    if len(policy.moderators) == 1:
        (spec,) = policy.moderators
        yield f"{_called(spec)} scores every answer, and a search follows its scores."
    else:
        how = {"max": "the largest score", "mean": "the mean of the scores"}[policy.combine]
        yield (
            f"{_listed(map(_called, policy.moderators))} score every answer; of each category "
            f"{how} counts, and a search follows it."
        )
    for category, name in policy.routes.items():
        yield f"Of {category} only the score of {name} counts."
    if policy.confirm:
        many = len(policy.confirm) > 1
        yield (
            f"{_listed(map(_called, policy.confirm))} must accept whatever leaves, too. No search "
            f"sees {'their' if many else 'its'} scores."
        )
    for spec in (*policy.gate, *policy.moderators, *policy.confirm):
        if spec.registered == "rules":
            yield from _rules(spec)
    if policy.tools == "judge":
        yield "Prompts may have tools; what an answer calls is judged as text of the answer."


def _rules(spec: ModeratorSpec) -> Iterator[str]:
    rules = spec.options.get("rules")
    for category, rule in rules.items() if isinstance(rules, Mapping) else ():
        if isinstance(rule, Mapping):
            counts = [
                f"{count} {key if count > 1 else key[:-1]}"
                for key in ("words", "parts", "patterns")
                if (count := len(rule.get(key, ())))
            ]
            yield f"{category} looks for {_listed([*counts, *rule.get('personal_data', ())])}."


def _flagged(policy: Policy) -> Iterator[str]:
    yield "A score in [0, 1] at or above its threshold flags the answer."
    try:
        panel = Panel(policy, load_moderator(policy), load_confirm(policy), load_gate(policy))
    except RerailError as error:
        yield f"Which categories are judged is not known: {str(error).splitlines()[0]}"
        yield from _named(policy)
        yield from _actions(policy)
        return
    by_threshold: dict[float, list[str]] = {}
    for category, threshold in panel.all_thresholds.items():
        by_threshold.setdefault(threshold, []).append(category)
    for threshold in sorted(by_threshold):
        yield f"At {threshold:g}: {_listed(by_threshold[threshold])}."
    off = [category for category, t in policy.categories.items() if t is None]
    if off:
        yield f"Not looked at: {_listed(off)}."
    yield from _actions(policy)


def _actions(policy: Policy) -> Iterator[str]:
    by_action: dict[str, list[str]] = {}
    for category, action in policy.actions.items():
        by_action.setdefault(action, []).append(category)
    if refused := by_action.get("refuse"):
        yield f"A first answer that {_listed(refused)} flags is refused without a search."
    if noted := by_action.get("note"):
        yield f"Never flagged, and named in the response: {_listed(noted)}."


def _named(policy: Policy) -> Iterator[str]:
    for category, threshold in policy.categories.items():
        yield f"{category} is {'off' if threshold is None else f'flagged at {threshold:g}'}."
    yield f"Any other category that a moderator gives is flagged at {policy.default_threshold:g}."


_MOVES = {
    "last_user": "the words of the last user turn",
    "user": "the words of all user turns",
    "all": "every row of the prompt, the chat template included",
}


_OBJECTIVES = {"harm": "harm", "max_score": "largest score"}


def _tried(policy: Policy) -> Iterator[str]:
    optimizer = policy.optimizer
    published = optimizer.result == "best_iterate"
    if published:
        yield (
            f"An answer whose {_OBJECTIVES[optimizer.objective]} is below {optimizer.stop_below:g} "
            "leaves as it is. Any other is searched on from, flagged or not, and the best iterate "
            "leaves unless it is flagged."
        )
    else:
        others = "is steered" if optimizer.moves else "gives way to another answer of the model"
        yield f"An answer that is accepted at once leaves as it is; any other {others}."
    if not (optimizer.max_iterations or optimizer.moves):
        yield "The search has no iteration: nothing is steered."
        return
    if optimizer.redraw_temperature is not None:
        yield (
            f"The answer is drawn anew from the prompt as it is, up to "
            f"{optimizer.max_iterations * optimizer.num_directions} times, at a temperature of "
            f"{optimizer.redraw_temperature:g} at least. No embeddings move."
        )
    else:
        yield _moved(policy)
    yield from _besides(policy)


def _moved(policy: Policy) -> str:
    optimizer = policy.optimizer
    return (
        f"The embeddings of {_MOVES[optimizer.rows or policy.steerable_rows]} move, by the search "
        f"{optimizer.preset}: up to {optimizer.max_iterations} iterations of "
        f"{optimizer.num_directions} directions each. The text of the prompt stays."
    )


def _besides(policy: Policy) -> Iterator[str]:
    optimizer = policy.optimizer
    if policy.offsets and optimizer.use_offsets:
        known = {model: len(offsets) for model, offsets in policy.offsets.items()}
        said = _listed(f"{count} for {model}" for model, count in known.items())
        yield f"Offsets that helped before are tried first: {said}; other models have none."
    if optimizer.result == "best_iterate":
        return
    for each in policy.guidance:
        when = f", where {_listed(each.categories)} flags the answer" if each.categories else ""
        yield f"The model is also given words of the policy's own{when}: {each.text}"
    beside = policy.guidance and optimizer.use_guidance and optimizer.around_guidance
    if beside:
        yield "What moves next moves beside the first of these texts, whose own words stay."
    if optimizer.use_fades:
        yield "Before any iteration the words that move fade: a quarter, a half, then all in part."
    if beside and optimizer.use_fades and optimizer.fade_first:
        yield "A text for all is tried beside faded words first, then as it is."
    kind = "A steered answer" if optimizer.moves else "What takes its place"
    yield f"{kind} must be clearly harmless: of harm {policy.accept_below:g} at most."
    alone = " without words of the policy beside them" if policy.guidance else ""
    found = f"One to moved embeddings{alone}" if optimizer.moves else "One that is drawn anew"
    if policy.relevance_floor is not None:
        yield (
            f"{found} must be about the prompt: likelier to it than to a request for anything, by "
            f"{policy.relevance_floor:+g} nats per token or more."
        )
    if policy.naturalness_floor is None:
        yield "How likely an answer is without steering is not asked for."
        return
    yield (
        f"{found} may be at most {-policy.naturalness_floor:g} nats per token less likely than the "
        "first answer, so that it stays with what was asked."
    )


def _exhausted(policy: Policy) -> Iterator[str]:
    if policy.on_exhausted == "best":
        yield "The most natural answer that was found and is not flagged leaves, if there is one."
        yield f"Else the reader sees: {policy.refusal_message}"
    else:
        yield f"The reader sees: {policy.refusal_message}"


def _failure(policy: Policy) -> Iterator[str]:
    yield (
        f"A moderator that takes more than {policy.moderator_timeout:g} s over a batch, or cannot "
        "score an answer, has failed; a failure is never a score."
    )
    opens = policy.on_moderator_error == "open"
    if opens:
        yield "The first answer leaves unscored, unless it is known to be flagged."
    yield f"{'Else the' if opens else 'The'} reader sees: {policy.error_message}"
    if policy.audit:
        yield "This is an audit policy: each response says so. Do not guard anything with it."


def _costs(policy: Policy) -> Iterator[str]:
    judges = len(policy.moderators) + len(policy.confirm)
    verdicts = "one verdict" if judges == 1 else f"{judges} verdicts"
    gated = f", and {len(policy.gate)} for each turn of the user's" if policy.gate else ""
    yield f"An answer that is accepted at once: one generation and {verdicts}{gated}."
    budget = policy.budget
    limits = [
        f"{limit:,g} {what}"
        for limit, what in (
            (budget.generations, "generations"),
            (budget.tokens, "generated tokens"),
            (budget.seconds, "seconds"),
        )
        if limit is not None
    ]
    if limits:
        yield f"A flagged one: at most {_listed(limits)}, the first answer included."
    else:
        yield "A flagged one: there is no budget; the search ends with its iterations."
    steering = len(policy.moderators)
    each = "one verdict" if steering == 1 else f"{steering} verdicts"
    yield f"Each candidate takes a generation and {each}; equal texts are judged once."
    if budget.seconds is not None:
        yield "A limit in seconds makes results depend on the machine."
    everyone = (*policy.gate, *policy.moderators, *policy.confirm)
    services = [s for s in everyone if s.registered in SERVICES]
    if services:
        said = _listed(map(_called, services))
        yield f"Answers and prompts are sent to {said}, which may bill each verdict."


def _released(policy: Policy) -> Iterator[str]:
    if policy.release == "whole":
        yield "Streams, too, are held until the whole answer is accepted."
        return
    yield (
        "A piece of a streamed answer leaves once the text up to "
        f"{policy.lookahead} tokens beyond it was judged and is acceptable so far."
    )
    yield (
        "Where the rest is flagged, what was sent stays, and another rest is searched for; where "
        "none is found, the message above follows what was sent."
    )


def _kept(policy: Policy) -> Iterator[str]:
    if policy.record_text:
        yield "Records keep prompts and answers."
    else:
        yield "Records keep figures, and neither prompts nor answers."


_TOLD = {
    "name", "description", "categories", "default_threshold", "moderators", "combine", "routes",
    "confirm", "moderator_timeout", "steerable_rows", "optimizer", "offsets", "budget",
    "accept_below", "guidance", "gate", "actions", "tools",
    "naturalness_floor", "relevance_floor",
    "on_exhausted", "on_moderator_error", "audit", "record_text",
    "refusal_message", "error_message", "release", "lookahead",
}  # fmt: skip
"""Keys that the sentences above tell of."""


def _rest(policy: Policy) -> Iterator[str]:
    """Values of keys that no sentence tells of, where they are not the default."""
    for name, field in type(policy).model_fields.items():
        value = getattr(policy, name)
        if name not in _TOLD and value != field.get_default(call_default_factory=True):
            yield f"{name}: {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return str(value)


def _called(spec: ModeratorSpec) -> str:
    return spec.name if spec.kind is None else f"{spec.name} (a {spec.kind})"


def _listed(parts: Any) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else str(last)

"""The templates: their cases hold, and find what goes wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rerail.align import Aligner
from rerail.engines import EmbeddedPrompt, FakeEngine
from rerail.errors import ModeratorError, PolicyError
from rerail.guidance import fitting
from rerail.kit.cases import State, coverage, parse_cases, try_cases
from rerail.kit.templates import template, template_names
from rerail.panel import Panel
from rerail.policy import Policy, PolicyStore
from rerail.types import AcceptedFrom, Exchange, FloatArray, Outcome

NAMES = ("childrens-site", "customer-service", "developer-tools", "medical")
Data = dict[str, Any]


def states(name: str, policy: Policy) -> dict[str, State]:
    cases = parse_cases(template(name).cases)
    return {r.case.id: r.state for r in try_cases(Panel.load(policy), cases)}


def test_these_are_the_templates() -> None:
    assert template_names() == NAMES
    assert not set(NAMES) & set(PolicyStore.shipped().names()), "nobody is served one unasked"


@pytest.mark.parametrize("name", NAMES)
def test_every_case_of_a_template_holds(name: str) -> None:
    made = template(name)
    policy = Policy.from_yaml(made.policy)
    assert policy.name == name
    found = states(name, policy)
    assert set(found.values()) == {State.HELD, State.SKIPPED}
    assert [i for i, s in found.items() if s is State.SKIPPED] == [
        c.id for c in parse_cases(made.cases) if c.outcome
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_category_that_a_template_names_is_covered_both_ways(name: str) -> None:
    policy = Policy.from_yaml(template(name).policy)
    covered = {
        c.category: c for c in coverage(Panel.load(policy), parse_cases(template(name).cases))
    }
    rules = [c for c in covered if c.startswith("custom/")]
    assert rules
    for category in (*rules, "harassment", "hate", "illicit"):
        assert covered[category].flagged, category
        assert covered[category].passes, category
    assert all(c.passes for c in covered.values())


FLAGGED = {
    "childrens-site": "What a damn cold day.",
    "customer-service": "That is not my problem.",
    "developer-tools": "Run `sudo rm -rf / ` and wait.",
    "medical": "There is no need to see a doctor about that.",
}
"""What each template flags, by a rule of its own."""


@pytest.mark.parametrize("name", NAMES)
def test_a_flagged_answer_is_asked_for_again_with_the_words_of_the_template(name: str) -> None:
    policy = Policy.from_yaml(template(name).policy)
    kind = next(c for c in parse_cases(template(name).cases) if c.id.startswith("guided-"))
    told: list[str] = []

    def answer(embedded: EmbeddedPrompt, point: FloatArray) -> str:
        told.append("\n".join(message.content for message in embedded.prompt.messages))
        guided = any(text.text in told[-1] for text in policy.guidance)
        return str(kind.answer) if guided else FLAGGED[name]

    response = Aligner(FakeEngine(answer), Panel.load(policy)).align("Hello")
    assert (response.outcome, response.text) == (Outcome.STEERED, kind.answer)
    assert response.accepted_from is AcceptedFrom.GUIDANCE
    # The words for what was flagged come first, where the template has such.
    assert response.initial is not None
    flags = Panel.load(policy).flags(response.initial.scores)
    assert fitting(policy, flags)[0].text in told[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_words_of_a_template_are_not_flagged_themselves(name: str) -> None:
    policy = Policy.from_yaml(template(name).policy)
    told = [Exchange((), text.text) for text in policy.guidance]
    assert not any(judged.verdict.flagged for judged in Panel.load(policy).judge(told))
    assert any(text.categories for text in policy.guidance)
    assert any(not text.categories for text in policy.guidance)


def rules(data: Data) -> Data:
    """The rules of a template."""
    (spec,) = (m for m in data["moderators"] if m["name"] == "rules")
    found: Data = spec["options"]["rules"]
    return found


def emptied(category: str) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        rule = rules(data)[category]
        lists = [k for k in ("words", "patterns", "personal_data") if rule.get(k)]
        rule.update({key: [] for key in lists} | {"words": ["never said"]})

    return change


def dropped(name: str) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        data["moderators"] = [m for m in data["moderators"] if m["name"] != name]

    return change


def threshold(value: float, *categories: str) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        if not categories:
            data["default_threshold"] = value
        data["categories"] |= dict.fromkeys(categories, value)

    return change


def off(category: str) -> Callable[[Data], None]:
    return lambda data: data["categories"].update({category: None})


def without(category: str) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        del rules(data)[category]

    return change


BUGS: dict[str, dict[str, Callable[[Data], None]]] = {
    "childrens-site": {
        "threshold": threshold(0.03),
        "threshold-the-other-way": threshold(1.0),
        "category-off": off("self-harm"),
        "category-missing": without("custom/whereabouts"),
        "moderator-dropped": dropped("embedded"),
        "rules-dropped": dropped("rules"),
        "words-emptied": emptied("custom/rude-words"),
    },
    "customer-service": {
        "threshold": threshold(0.05),
        "threshold-the-other-way": threshold(1.0, "sexual"),
        "category-off": off("hate"),
        "category-missing": without("custom/promises"),
        "moderator-dropped": dropped("embedded"),
        "rules-dropped": dropped("rules"),
        "words-emptied": emptied("custom/competitors"),
    },
    "developer-tools": {
        "threshold": threshold(0.03, "illicit"),
        "threshold-the-other-way": threshold(1.0, "illicit"),
        "category-off": off("illicit"),
        "category-missing": without("custom/secrets"),
        "moderator-dropped": dropped("embedded"),
        "rules-dropped": dropped("rules"),
        "words-emptied": emptied("custom/code-names"),
    },
    "medical": {
        "threshold": threshold(0.04, "harassment", "hate"),
        "threshold-the-other-way": threshold(1.0, "self-harm"),
        "category-off": off("harassment"),
        "category-missing": without("custom/no-doctor"),
        "moderator-dropped": dropped("embedded"),
        "rules-dropped": dropped("rules"),
        "words-emptied": emptied("custom/certain-diagnosis"),
    },
}


@pytest.mark.parametrize(("name", "bug"), [(name, bug) for name in NAMES for bug in BUGS[name]])
def test_a_bug_in_a_template_is_found_by_its_cases(name: str, bug: str) -> None:
    data = Policy.from_yaml(template(name).policy).model_dump(mode="json")
    BUGS[name][bug](data)
    try:
        found = states(name, Policy.parse(data))
    except (ModeratorError, PolicyError):
        return  # told before a case is tried
    assert State.FAILED in found.values()


@pytest.mark.parametrize("name", NAMES)
def test_values_are_filled_in_and_comments_stay(name: str) -> None:
    values = {
        "name": "mine",
        "default_threshold": 0.45,
        "refusal_message": 'Not "here": \\ ask ü {x} \\1\nElse.',
        "record_text": True,
    }
    old = template(name)
    made = old.filled(values)
    policy = Policy.from_yaml(made.policy)
    assert {key: getattr(policy, key) for key in values} == values
    assert made.policy.count("#") == old.policy.count("#")
    changed = policy.model_copy(
        update={key: getattr(Policy.from_yaml(old.policy), key) for key in values}
    )
    assert changed == Policy.from_yaml(old.policy)
    assert "policy mine: rerail policy test mine.yaml" in made.cases
    assert parse_cases(made.cases) == parse_cases(old.cases)


def test_what_a_template_cannot_be_is_an_error() -> None:
    with pytest.raises(PolicyError, match="did you mean 'medical'"):
        template("medica")
    with pytest.raises(PolicyError, match="default_threshold"):
        template("medical").filled({"default_threshold": 3.0})
    with pytest.raises(PolicyError, match="no line 'combine'"):
        template("medical").filled({"combine": "mean"})

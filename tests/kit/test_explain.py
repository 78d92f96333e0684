"""A policy in words: everything that it sets is told."""

from __future__ import annotations

from typing import Any

import pytest

from rerail.kit.explain import _TOLD, explain
from rerail.kit.templates import template, template_names
from rerail.policy import Policy, PolicyStore


def said(**keys: Any) -> dict[str, str]:
    """What each part says of a policy."""
    return {p.about: " ".join(p.says) for p in explain(Policy.parse({"name": "p", **keys}))}


def test_every_key_is_told_of() -> None:
    assert set(Policy.model_fields) >= _TOLD


def test_a_key_that_no_sentence_knows_is_told_of_all_the_same() -> None:
    class Later(Policy):
        colour: str = "red"
        shapes: dict[str, int] = {}  # noqa: RUF012

    plain, set_ = Later(name="p"), Later(name="p", colour="blue", shapes={"round": 2})
    assert "Also" not in {p.about for p in explain(plain)}
    assert explain(set_)[-1].says == ("colour: blue", "shapes: round 2")


@pytest.mark.parametrize(
    ("keys", "part", "words"),
    [
        ({}, "Who judges", ["embedded scores every answer"]),
        (
            {"moderators": ["embedded", {"name": "two", "kind": "fake"}], "combine": "mean"},
            "Who judges",
            ["embedded and two (a fake) score", "the mean"],
        ),
        ({"routes": {"hate": "embedded"}}, "Who judges", ["Of hate only", "embedded"]),
        (
            {
                "gate": [
                    {"name": "fake", "action": "refuse", "categories": {"illicit": 0.2}},
                    {"name": "two", "kind": "fake", "action": "note"},
                ]
            },
            "What is asked of the prompt",
            [
                "fake scores what the user says, turn by turn",
                "It flags illicit at 0.2 and other categories at 0.5.",
                "nothing is generated",
                "two (a fake) scores",
                "A category at 0.5 flags.",
                "the response names the category",
                "the strictest counts",
            ],
        ),
        ({"gate": ["fake"]}, "What is asked of the prompt", ["steered at once"]),
        (
            {"actions": {"hate": "refuse", "sexual": "note"}},
            "What is flagged",
            ["that hate flags is refused without a search", "named in the response: sexual."],
        ),
        ({"confirm": ["fake"]}, "Who judges", ["fake must accept whatever leaves"]),
        (
            {"categories": {"hate": 0.2, "sexual": None}},
            "What is flagged",
            ["At 0.2: hate.", "At 0.5: harassment, illicit", "Not looked at: sexual."],
        ),
        ({"steerable_rows": "user"}, "What is tried", ["the words of all user turns"]),
        ({"optimizer": "tsa"}, "What is tried", ["largest score is below 0.1", "every row"]),
        (
            {"optimizer": {"max_iterations": 0, "use_offsets": False, "use_fades": False}},
            "What is tried",
            ["nothing is steered"],
        ),
        (
            {"guidance": ["Decline."]},
            "What is tried",
            ["moves next moves beside the first", "that move fade"],
        ),
        (
            {"optimizer": {"preset": "resample", "max_iterations": 2}},
            "What is tried",
            ["drawn anew", "up to 16 times", "temperature of 1 at least", "No embeddings move."],
        ),
        ({"naturalness_floor": None}, "What is tried", ["is not asked for"]),
        ({"naturalness_floor": -0.7}, "What is tried", ["at most 0.7 nats"]),
        ({"offsets": {"m": [[0.1], [0.2]]}}, "What is tried", ["2 for m"]),
        ({"refusal_message": "Not here."}, "When nothing is found", ["sees: Not here."]),
        ({"on_exhausted": "best"}, "When nothing is found", ["most natural"]),
        ({}, "When text leaves", ["held until the whole answer is accepted"]),
        (
            {"release": "window", "lookahead": 32},
            "When text leaves",
            ["32 tokens beyond it was judged", "what was sent stays"],
        ),
        ({"moderator_timeout": 7.0}, "When a moderator fails", ["more than 7 s"]),
        (
            {"audit": True, "on_moderator_error": "open"},
            "When a moderator fails",
            ["leaves unscored", "audit policy"],
        ),
        ({"error_message": "Broken."}, "When a moderator fails", ["sees: Broken."]),
        (
            {"budget": {"generations": 50, "tokens": 10_000, "seconds": 9}},
            "What it may cost",
            ["50 generations, 10,000 generated tokens and 9 seconds", "depend on the machine"],
        ),
        ({"budget": {"generations": None}}, "What it may cost", ["there is no budget"]),
        ({"record_text": True}, "What is kept", ["keep prompts and answers"]),
    ],
)
def test_what_a_policy_sets_is_in_its_words(
    keys: dict[str, Any], part: str, words: list[str]
) -> None:
    told = said(**keys)[part]
    for each in words:
        assert each in told
    if keys:
        assert said().get(part) != told


def test_rules_are_counted() -> None:
    rules = {"custom/a": {"words": ["x", "y"], "patterns": ["z"]},
             "custom/b": {"personal_data": ["email"]}}  # fmt: skip
    told = said(moderators=[{"name": "rules", "options": {"rules": rules}}])["Who judges"]
    assert "custom/a looks for 2 words and 1 pattern." in told
    assert "custom/b looks for email." in told


def test_services_may_bill() -> None:
    told = said(moderators=["openai"])
    assert "sent to openai" in told["What it may cost"]


def test_moderators_that_are_not_there_leave_the_file_to_be_explained() -> None:
    told = said(moderators=["embeded"], categories={"hate": 0.2, "sexual": None})
    assert "unknown moderator 'embeded'" in told["What is flagged"]
    assert "hate is flagged at 0.2. sexual is off." in told["What is flagged"]


def test_all_that_is_shipped_can_be_explained() -> None:
    store = PolicyStore.shipped()
    made = [store.get(name) for name in store.names()]
    made += [Policy.from_yaml(template(name).policy) for name in template_names()]
    for policy in made:
        parts = explain(policy)
        assert len(parts) >= 7
        assert all(part.says for part in parts)
        assert "not known" not in " ".join(parts[1].says)

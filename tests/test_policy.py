"""Policies: what a file may say, what its faults are called, and what a change changes."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail.errors import PolicyError
from rerail.moderators import FakeModerator
from rerail.names import nearest
from rerail.panel import Panel
from rerail.policy import CATEGORIES, Budget, ModeratorSpec, Policy, PolicyStore
from rerail.settings import PRESETS, OptimizerSettings

FULL = """
name: everything
description: every kind of value once
categories:
  hate: 0.25
  violence/graphic: 1
  sexual: null
  custom/medical-advice: 0.9
default_threshold: 0.4
accept_below: 0.75
moderators:
  - embedded
  - name: fake
    options: {words: [poison, bomb], weight: 2}
combine: mean
routes: {hate: fake}
confirm: [{name: fake, options: {name: second}}]
actions: {hate: refuse, custom/medical-advice: note}
gate:
  - name: words
    kind: fake
    action: refuse
    categories: {hate: 0.5, sexual: null}
    default_threshold: 0.7
moderator_timeout: 5
steerable_rows: user
optimizer: {preset: fast, num_directions: 3}
offsets: {some-model: [[0.25, -0.5], [1]]}
guidance: [Be kind., {text: "Be kind. {prompt}", categories: [hate]}]
budget: {generations: 50, tokens: 5000, seconds: 30}
naturalness_floor: -0.5
relevance_floor: -0.1
on_exhausted: best
on_moderator_error: open
audit: true
reasoning: show
judge_reasoning: true
max_reasoning_tokens: 2048
release: whole
lookahead: 32
record_text: true
tools: judge
refusal_message: "Nein, danke – hier nicht."
error_message: "Down."
"""


def parse(**changes: Any) -> Policy:
    return Policy.parse({"name": "p", **changes})


# What a file may say


def test_every_key_is_read() -> None:
    policy = Policy.from_yaml(FULL)
    assert policy.model_fields_set == set(Policy.model_fields)
    assert policy.categories == {
        "hate": 0.25,
        "violence/graphic": 1.0,
        "sexual": None,
        "custom/medical-advice": 0.9,
    }
    assert policy.moderators == (
        ModeratorSpec(name="embedded"),
        ModeratorSpec(name="fake", options={"words": ["poison", "bomb"], "weight": 2}),
    )
    assert policy.optimizer == OptimizerSettings.of("fast", num_directions=3)
    assert policy.offsets == {"some-model": ((0.25, -0.5), (1.0,))}
    assert [(g.text, g.categories) for g in policy.guidance] == [
        ("Be kind.", ()),
        ("Be kind. {prompt}", ("hate",)),
    ]
    assert policy.budget == Budget(generations=50, tokens=5000, seconds=30)
    assert policy.confirm == (ModeratorSpec(name="fake", options={"name": "second"}),)
    assert (policy.reasoning, policy.judge_reasoning) == ("show", True)
    assert policy.max_reasoning_tokens == 2048
    assert policy.tag.audit


def test_a_policy_needs_a_name_only() -> None:
    policy = Policy.from_yaml("name: p")
    assert policy == Policy(name="p")
    assert policy.on_moderator_error == "closed"
    assert policy.on_exhausted == "refuse"
    assert policy.steerable_rows == "last_user"
    assert not policy.record_text
    assert not policy.audit


def test_a_file_is_read_like_its_text(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(FULL, encoding="utf-8")
    assert Policy.from_file(path) == Policy.from_yaml(FULL)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"absent\.yaml"):
        Policy.from_file(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    with pytest.raises(PolicyError, match=r"binary\.yaml"):
        Policy.from_file(binary)


# What its faults are called


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("name: p\nbudjet: {}", "unknown key 'budjet'", "did you mean 'budget'"),
        ("name: p\nbudget: {generation: 3}", "budget: unknown key", "did you mean 'generations'"),
        ("name: p\noptimizer: {step_sise: 1}", "optimizer: unknown", "did you mean 'step_size'"),
        ("name: p\nmoderators: [{nam: embedded}]", "moderators.0", "did you mean 'name'"),
        ("name: p\noptimizer: fasst", "unknown preset 'fasst'", "did you mean 'fast'"),
        ("name: p\noptimizer: {preset: qqqq}", "unknown preset 'qqqq'", "valid: fast, random"),
        ("name: p\ncategories: {hat: 0.5}", "unknown category 'hat'", "did you mean 'hate'"),
        ("name: p\ncategories: {selfharm: 0.5}", "'selfharm'", "did you mean 'self-harm'"),
        ("name: p\ncategories: {sexual/minor: 0.5}", "'sexual/minor'", "'sexual/minors'"),
        ("name: p\ncategories: {zzz: 0.5}", "unknown category 'zzz'", "'custom/'"),
        ("name: p\ncategories: {custom/: 0.5}", "unknown category 'custom/'", "starts with"),
        ("name: p\nroutes: {hatee: embedded}", "'hatee'", "did you mean 'hate'"),
        ("name: p\nroutes: {hate: embeded}", "'embeded'", "did you mean 'embedded'"),
        ("name: p\non_moderator_error: open", "on_moderator_error: open", "needs audit: true"),
        ("name: p\nmoderators: [embedded, embedded]", "named twice", "embedded"),
        ("name: p\nmoderators: []", "moderators", "at least 1"),
        ("name: p\noptimizer: {perturbation_scale: 9}", "optimizer", "max_perturbation_scale"),
        ("name: p\nsteerable_rows: first", "steerable_rows", "'last_user'"),
        ("description: no name", "name", "required"),
        ("", "mapping", "nothing"),
        ("- name: p", "mapping", "list"),
    ],
)
def test_a_fault_says_where_it_is_and_what_is_valid(text: str, where: str, remedy: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text, "mine.yaml")
    message = str(caught.value)
    assert "mine.yaml" in message
    assert where in message
    assert remedy in message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        parse(default_threshold=2, naturalness_floor=1, categories={"hat": 0.5})
    message = str(caught.value)
    for part in ("default_threshold", "naturalness_floor", "'hat'"):
        assert part in message


def test_unknown_keys_hide_no_other_fault() -> None:
    with pytest.raises(PolicyError) as caught:
        parse(
            budjet={},
            colour="red",
            default_threshold=2,
            budget={"generation": 1, "seconds": -1},
            moderators=[{"nam": "x", "options": 3}],
        )
    for part in (
        "policy: unknown key 'budjet'; did you mean 'budget'?",
        "policy: unknown key 'colour'",
        "default_threshold: ",
        "budget: unknown key 'generation'",
        "budget.seconds: ",
        "moderators.0: unknown key 'nam'",
        "moderators.0.options: ",
    ):
        assert f"\n  {part}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: p\ndescription: 2026-13-45", "mine.yaml, line 2, column 14: "),
        ("name: p\n\naudit: !!bool maybe", "mine.yaml, line 3, column 8: "),
        ("name: p\nname: q", "mine.yaml, line 2, column 1: key 'name' stands twice"),
        ("name: [p", "mine.yaml, line 1, column 9: "),
    ],
)
def test_what_is_not_yaml_is_told_in_one_line_with_its_place(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text, "mine.yaml")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_keys_may_be_merged() -> None:
    text = """
        name: p
        moderators:
          - &first {name: fake, options: &words {words: [a], delay: 0.0}}
          - {<<: *first, name: other, kind: fake, options: {<<: *words, words: [b]}}
    """
    first, other = Policy.from_yaml(text).moderators
    assert first.options == {"words": ["a"], "delay": 0.0}
    assert (other.name, other.kind) == ("other", "fake")
    assert other.options == {"words": ["b"], "delay": 0.0}


@pytest.mark.parametrize(
    "text",
    [
        "name: p\nname: q",
        "name: p\ncategories: {hate: 0.1, hate: 0.9}",
        "name: p\ncategories:\n  hate: 0.1\n  'hate': 0.9",
        "name: p\noptimizer: {preset: fast, preset: random}",
    ],
)
def test_a_key_that_stands_twice_is_an_error(text: str) -> None:
    with pytest.raises(PolicyError, match="stands twice"):
        Policy.from_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.getcwd []",
        "!!python/name:os.system",
        "name: p\ndescription: !!python/object/new:str [x]",
        "name: &a [*a]",
        "name: p: q",
        "\t",
        "name: \x00",
    ],
)
def test_a_file_is_data_and_runs_nothing(text: str) -> None:
    with pytest.raises(PolicyError):
        Policy.from_yaml(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"default_threshold": 0},
        {"default_threshold": 1.01},
        {"default_threshold": math.nan},
        {"categories": {"hate": -0.1}},
        {"categories": {"hate": 0}},
        {"naturalness_floor": 0.1},
        {"accept_below": 0},
        {"accept_below": 1.01},
        {"accept_below": True},
        {"naturalness_floor": -math.inf},
        {"moderator_timeout": 0},
        {"moderator_timeout": math.inf},
        {"refusal_message": ""},
        {"error_message": ""},
        {"budget": {"generations": 0}},
        {"budget": {"seconds": 0}},
        {"budget": {"tokens": -1}},
        {"optimizer": {"num_directions": 0}},
        {"optimizer": {"min_cosine": 1.5}},
        {"optimizer": {"perturbation_scale": 0}},
        {"optimizer": {"perturbation_growth": 0.9}},
        {"optimizer": {"subspace_rank": 0}},
        {"optimizer": {"horizon": 0}},
        {"offsets": {"m": [[]]}},
        {"offsets": {"m": [[float("nan")]]}},
        {"offsets": [[0.1]]},
        {"name": ""},
        {"name": "Über"},
        {"name": "../etc"},
        {"name": "a\n"},
        {"name": "x" * 65},
    ],
)
def test_values_out_of_range_are_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        parse(**changes)


def test_presets_keep_the_values_that_are_not_replaced() -> None:
    for preset, values in PRESETS.items():
        settings = OptimizerSettings.model_validate({"preset": preset, "num_directions": 3})
        assert settings.model_dump() == {**values, "preset": preset, "num_directions": 3}


def test_random_is_fast_without_descent_and_without_what_is_known() -> None:
    fast, random = OptimizerSettings.of("fast"), OptimizerSettings.of("random")
    assert fast.descend
    assert not random.descend
    known = ("use_offsets", "use_guidance", "around_guidance", "use_fades", "fade_first")
    directed = {"descend": True, "preset": "fast"} | dict.fromkeys(known, True)
    assert random.model_copy(update=directed) == fast


def test_the_published_presets_differ_where_the_papers_do() -> None:
    tsa, tide = OptimizerSettings.of("tsa"), OptimizerSettings.of("tide")
    differ = {k for k, v in tsa.model_dump().items() if tide.model_dump()[k] != v}
    assert differ == {
        "preset", "normalization", "units", "perturbation_scale", "step_size", "stop_below",
    }  # fmt: skip
    assert (tsa.num_directions, tsa.max_iterations, tsa.min_cosine) == (8, 10, 0.2)
    assert (tsa.rows, tsa.estimator, tsa.normalization) == ("all", "forward", "matrix")
    assert (tsa.objective, tsa.result, tsa.stop_below) == ("max_score", "best_iterate", 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "tsa", "step_size": 1.0}, "given together"),
        ({"preset": "tsa", "stop_below": None}, "stop_below belongs to"),
        ({"preset": "fast", "stop_below": 0.1}, "stop_below belongs to"),
        ({"preset": "tsa", "accept_perturbations": True}, "accepts no perturbations"),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        parse(optimizer=changes)


@given(st.text(max_size=12))
def test_nearest_names_a_valid_name(name: str) -> None:
    said = nearest(name, CATEGORIES)
    assert any(f"'{category}'" in said or category in said for category in CATEGORIES)
    if name in CATEGORIES:
        assert repr(name) in said


def test_what_is_not_alike_is_not_suggested() -> None:
    assert nearest("openia", ["openai", "embedded"]) == "; did you mean 'openai'?"
    assert nearest("nope", ["openai", "embedded"]) == "; valid: embedded, openai"


def test_policies_are_frozen() -> None:
    policy = Policy(name="p")
    with pytest.raises(ValueError, match="frozen"):
        policy.default_threshold = 1.0
    with pytest.raises(ValueError, match="frozen"):
        policy.optimizer.step_size = 1.0
    with pytest.raises(ValueError, match="frozen"):
        policy.budget.generations = None


@pytest.mark.parametrize("text", ["name: p\noptimizer: {preset: [fast]}", "? [name]\n: p"])
def test_a_key_or_preset_that_cannot_be_hashed_is_a_policy_error(text: str) -> None:
    with pytest.raises(PolicyError):
        Policy.from_yaml(text)


def test_a_file_that_nests_too_deep_is_a_policy_error() -> None:
    with pytest.raises(PolicyError):
        Policy.from_yaml("[" * 5000)


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": {"hate": True}},
        {"default_threshold": True},
        {"budget": {"generations": True}},
    ],
)
def test_true_is_not_a_number(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        parse(**changes)


def test_the_mappings_of_a_policy_are_frozen_too() -> None:
    policy = parse(categories={"hate": 0.5})
    version = policy.version
    with pytest.raises(TypeError):
        policy.categories["hate"] = 1.0
    assert policy.version == version


# Versions

thresholds = st.floats(min_value=1e-6, max_value=1.0)
names = st.sampled_from(CATEGORIES) | st.from_regex(r"custom/[a-z]{1,8}", fullmatch=True)
policies = st.builds(
    lambda **fields: Policy.parse(fields),
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True),
    description=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    categories=st.dictionaries(names, st.none() | thresholds, max_size=5),
    default_threshold=thresholds,
    combine=st.sampled_from(["max", "mean"]),
    steerable_rows=st.sampled_from(["last_user", "user", "all"]),
    optimizer=st.sampled_from(sorted(PRESETS)),
    budget=st.fixed_dictionaries(
        {"generations": st.none() | st.integers(1, 10**6), "seconds": st.none() | st.just(1.5)}
    ),
    naturalness_floor=st.floats(min_value=-100, max_value=0),
    record_text=st.booleans(),
    refusal_message=st.text(st.characters(codec="ascii", categories=["L", "Zs"]), min_size=1),
)


@given(policies)
def test_yaml_reads_back_to_the_same_policy_and_version(policy: Policy) -> None:
    again = Policy.from_yaml(policy.to_yaml())
    assert again == policy
    assert again.version == policy.version


@given(policies, policies)
def test_versions_are_equal_exactly_when_policies_are(a: Policy, b: Policy) -> None:
    assert (a.version == b.version) == (a == b)


def test_the_version_is_12_hex_digits_and_the_same_everywhere() -> None:
    version = Policy.from_yaml(FULL).version
    assert len(version) == 12
    assert set(version) <= set("0123456789abcdef")
    shuffled = "\n".join(reversed([f"{k}: {v!r}" for k, v in {"name": "p", "audit": True}.items()]))
    assert Policy.from_yaml(shuffled).version == parse(audit=True).version


@pytest.mark.parametrize("field", sorted(set(Policy.model_fields) - {"name"}))
def test_every_field_is_part_of_the_version(field: str) -> None:
    full, plain = Policy.from_yaml(FULL), Policy(name="everything")
    # Of its two values the other one does not go with all the rest.
    value = "window" if field == "release" else getattr(full, field)
    changed = plain.model_copy(update={field: value})
    assert changed.version != plain.version


def test_writing_a_default_out_does_not_change_the_version() -> None:
    assert parse(default_threshold=0.5, optimizer="fast").version == parse().version


def test_equal_numbers_are_equal_versions() -> None:
    assert parse(categories={"hate": 1}).version == parse(categories={"hate": 1.0}).version


# The store


def test_the_shipped_policies() -> None:
    store = PolicyStore.shipped()
    assert store.names() == ("audit", "default", "permissive", "quick", "strict", "text")
    for name in store.names():
        policy = store.get(name)
        assert policy.name == name
        assert policy.description
        assert Policy.from_yaml(policy.to_yaml()).version == policy.version
    assert len({store.get(name).version for name in store.names()}) == 6


def test_the_shipped_policies_are_what_their_names_say() -> None:
    store = PolicyStore.shipped()
    six = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
    default, strict = store.get("default"), store.get("strict")
    permissive, audit = store.get("permissive"), store.get("audit")
    gives = FakeModerator(categories=six)
    limits = [Panel(policy, gives).thresholds for policy in (strict, default, permissive)]
    for category in six:
        assert [t[category] for t in limits] == sorted(t[category] for t in limits)
    assert limits[0]["hate"] < limits[2]["hate"]
    assert strict.steerable_rows == "user"
    assert audit.audit
    assert audit.on_moderator_error == "open"
    for policy in (default, strict, permissive):
        assert not policy.audit
        assert policy.on_moderator_error == "closed"
        assert not policy.record_text
    assert not audit.record_text


def test_quick_is_default_for_the_toy_model() -> None:
    store = PolicyStore.shipped()
    own = {"name", "description", "moderators", "combine", "default_threshold", "accept_below"}
    own |= {"guidance", "offsets", "budget"}  # the toy has no use for words
    own |= {"relevance_floor", "naturalness_floor"}  # its refusals are likely, and all the same
    quick, default = (store.get(name).model_dump(exclude=own) for name in ("quick", "default"))
    assert quick == default
    assert [spec.name for spec in store.get("quick").moderators] == ["embedded"]
    assert "embedded" in store.get("quick").offsets


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match=r"unknown policy 'stric'; did you mean 'strict'"):
        PolicyStore.shipped().get("stric")


def test_a_policy_in_hand_does_not_change() -> None:
    store = PolicyStore([parse(default_threshold=0.5)])
    held = store.get("p")
    version = store.put(parse(default_threshold=0.1))
    assert held.default_threshold == 0.5
    assert store.get("p").version == version != held.version


def test_history_keeps_every_version_oldest_first() -> None:
    store = PolicyStore()
    versions = [store.put(parse(default_threshold=t)) for t in (0.1, 0.2, 0.1)]
    assert [p.version for p in store.history("p")] == versions
    store.remove("p")
    assert store.names() == ()
    assert len(store.history("p")) == 3
    assert store.history("never") == ()
    with pytest.raises(PolicyError, match="unknown policy 'p'"):
        store.remove("p")


def test_readers_see_whole_policies_and_no_write_is_lost() -> None:
    """Writers swap a policy whose fields agree with each other; readers must never see a mix."""
    writes, writers = 100, 4
    store = PolicyStore([parse(default_threshold=0.5, description="0.5")])
    done = threading.Event()
    torn: list[Policy] = []
    reads = [0]

    def read() -> None:
        while not done.is_set():
            policy = store.get("p")
            if policy.description != str(policy.default_threshold) or "p" not in store.names():
                torn.append(policy)
            reads[0] += 1

    def write(writer: int) -> None:
        for i in range(writes):
            threshold = (i + 1) / (writes + 1)
            store.put(parse(default_threshold=threshold, description=str(threshold)))
            store.put(Policy(name=f"of-{writer}-{i}"))

    readers = [threading.Thread(target=read) for _ in range(2)]
    threads = [threading.Thread(target=write, args=(i,)) for i in range(writers)]
    for thread in readers + threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()

    assert reads[0] > 0
    assert not torn
    assert len(store.names()) == 1 + writers * writes
    assert len(store.history("p")) == 1 + writers * writes

"""The demo's figures, from responses whose figures are known."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rerail.demo import (
    KINDS,
    Checks,
    DemoPrompt,
    Result,
    demo_prompts,
    emitted_borderline,
    emitted_flagged,
    identical_share,
    parse_prompts,
    select,
    summarise,
)
from rerail.engines import FakeEngine, Sampling
from rerail.errors import InputFileError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import AcceptedFrom, Cost, Generation, Outcome, Prompt, Response, Verdict
from tests.test_store import response

FLAGGED = Verdict(1.8, {"illicit": 0.9}, flagged=True)
FINE = Verdict(0.2, {"illicit": 0.1}, flagged=False)
CHECKS = Checks("a" * 64, "a" * 64, 0, 0, 1.0)
POLICY = Policy(name="p", moderators=["fake"])


def prompt(kind: str = "wrapped", name: str = "x", request: str = "pick a lock") -> DemoPrompt:
    return DemoPrompt(name, kind, Prompt.of(request), request, "a source", "MIT")


def passed(text: str = "Sure, here is how it is done.") -> Response:
    return replace(
        response(text, Outcome.PASSED),
        initial=FINE,
        final=FINE,
        cost=Cost(1, 5, 9, 1),
        accepted_from=AcceptedFrom.INITIAL,
        naturalness=0.0,
        cosine=1.0,
        tokens_preserved=1.0,
    )


def steered(text: str, generations: int, naturalness: float, kept: float = 1.0) -> Response:
    return replace(
        response(text),
        initial=FLAGGED,
        final=FINE,
        cost=Cost(generations, 10 * generations, 30, 3),
        naturalness=naturalness,
        tokens_preserved=kept,
        cosine=kept - 0.1,
    )


def refused() -> Response:
    return replace(response("No.", Outcome.REFUSED), initial=FLAGGED, final=None, cost=Cost(200))


RESULTS = [
    Result(prompt("plain"), passed("I can't help with that.")),
    Result(prompt("benign"), passed()),
    Result(prompt("wrapped"), steered("I'm sorry, but I can't help.", 4, -0.2)),
    Result(prompt("wrapped"), steered("A locksmith can open your lock.", 10, 0.1, kept=0.9)),
    Result(prompt("wrapped"), steered("Bread is baked in an oven.", 1, -0.5)),
    Result(prompt("rude"), refused()),
]


def test_figures() -> None:
    summary = summarise(RESULTS, CHECKS, 2.5)
    expected = {
        "prompts": 6,
        "passed": 2,
        "flagged": 4,
        "steered": 3,
        "refused": 1,
        "error": 0,
        "neutralised_share": 0.75,
        "generations_per_steered": 5.0,
        "generated_tokens_per_steered": 50.0,
        "naturalness_median": -0.2,
        "steered_refusal_share": pytest.approx(1 / 3),
        "steered_on_topic_share": pytest.approx(2 / 3),
        "tokens_preserved_min": 0.9,
        "cosine_min": pytest.approx(0.8),
        "weights_sha256_before": "a" * 64,
        "weights_sha256_after": "a" * 64,
        "emitted_flagged": 0,
        "emitted_borderline": 0,
        "benign_identical": 1.0,
        "seconds": 2.5,
    }
    assert {key: summary[key] for key in expected} == expected


def test_counts_by_kind_add_up() -> None:
    summary = summarise(RESULTS, CHECKS, 2.5)
    kinds = summary["by_kind"]
    assert list(kinds) == ["plain", "wrapped", "benign", "rude"]
    for name in ("prompts", "passed", "flagged", "steered", "refused", "error"):
        assert sum(kind[name] for kind in kinds.values()) == summary[name]


def test_figures_over_nothing_are_none_not_zero() -> None:
    summary = summarise([Result(prompt("benign"), passed())], CHECKS, 0.0)
    for name in (
        "neutralised_share",
        "generations_per_steered",
        "generated_tokens_per_steered",
        "naturalness_median",
        "steered_refusal_share",
        "steered_on_topic_share",
        "tokens_preserved_min",
    ):
        assert summary[name] is None
    json.dumps(summary, allow_nan=False)


def test_an_answer_steered_without_having_been_flagged_is_not_neutralised() -> None:
    unflagged = replace(steered("fine", 2, 0.0), initial=FINE)
    results = [*RESULTS, Result(prompt("rude"), unflagged)]
    assert summarise(results, CHECKS, 0.0)["neutralised_share"] == 0.75


def test_promises_are_kept_only_if_all_are() -> None:
    assert CHECKS.kept
    assert replace(CHECKS, benign_identical=None).kept
    assert not replace(CHECKS, weights_sha256_after="b" * 64).kept
    assert not replace(CHECKS, emitted_flagged=1).kept
    assert not replace(CHECKS, emitted_borderline=1).kept
    assert not replace(CHECKS, benign_identical=0.99).kept


def test_emitted_borderline_judges_what_was_steered() -> None:
    between = FakeModerator(lambda e: {"illicit": 0.4})
    assert emitted_borderline(Panel(POLICY, between), RESULTS) == 3
    assert emitted_borderline(Panel(POLICY, between), [RESULTS[0], RESULTS[-1]]) == 0
    assert emitted_borderline(Panel(POLICY, FakeModerator()), RESULTS) == 0


def test_emitted_flagged_judges_what_left_and_nothing_else() -> None:
    flags = FakeModerator(words=["locksmith", "no."])
    harmless = FakeModerator(words=["zebra"])
    down = FakeModerator(error=RuntimeError())
    assert emitted_flagged(Panel(POLICY, flags), RESULTS) == 1
    assert emitted_flagged(Panel(POLICY, harmless), RESULTS) == 0
    assert emitted_flagged(Panel(POLICY, harmless, flags), RESULTS) == 1
    assert emitted_flagged(Panel(POLICY, flags), [RESULTS[-1]]) == 0
    left = sum(r.response.outcome in (Outcome.PASSED, Outcome.STEERED) for r in RESULTS)
    assert emitted_flagged(Panel(POLICY, down), RESULTS) == left
    assert emitted_flagged(Panel(POLICY, harmless, down), RESULTS) == left


def test_identical_share_really_generates() -> None:
    results = [Result(prompt("benign"), passed()), Result(prompt("benign"), passed("another"))]
    engine = FakeEngine()
    assert identical_share(engine, Sampling(), results) == 0.5
    assert engine.generated == 2
    assert identical_share(engine, Sampling(), [RESULTS[2]]) is None


def test_plain_generation_is_from_token_ids_where_the_engine_can() -> None:
    class Engine(FakeEngine):
        def generate_from_tokens(
            self, token_ids: NDArray[np.int64], sampling: Sampling, seed: int
        ) -> Generation:
            return Generation(f"{len(token_ids)} tokens, seed {seed}", (1,))

    result = Result(prompt("benign"), passed(f"6 tokens, seed {response().seed}"))
    told: list[int] = []
    assert identical_share(Engine(), Sampling(), [result], lambda: told.append(1)) == 1.0
    assert told == [1]


class TestPrompts:
    @pytest.mark.parametrize("toy", [False, True])
    def test_shipped_ones_are_enough_and_of_every_kind(self, toy: bool) -> None:
        prompts = demo_prompts(toy=toy)
        kinds = Counter(p.kind for p in prompts)
        assert len(prompts) >= 40
        assert set(kinds) == set(KINDS)
        assert len({p.id for p in prompts}) == len(prompts)
        assert all(p.request.strip() and p.source and p.licence for p in prompts)

    def test_the_toys_ask_for_the_same_in_other_wrappers(self) -> None:
        own, toy = demo_prompts(), demo_prompts(toy=True)
        assert [(p.id, p.request, p.source) for p in own] == [
            (p.id, p.request, p.source) for p in toy
        ]
        for one, other in zip(own, toy, strict=True):
            assert one.request in one.prompt.messages[-1].content
            assert (one.prompt == other.prompt) == (one.kind in {"plain", "benign"})

    def test_a_limit_takes_of_every_kind(self) -> None:
        prompts = [prompt(kind, f"{kind}-{i}") for kind in KINDS for i in range(5)]
        assert [p.kind for p in select(prompts, limit=6)] == [
            "plain",
            "plain",
            "wrapped",
            "wrapped",
            "benign",
            "rude",
        ]
        assert select(prompts) == prompts
        assert {p.kind for p in select(prompts, ["rude"])} == {"rude"}

    @pytest.mark.parametrize(
        "line",
        ["{", "[]", "{}", '{"kind": "strange"}', '{"id": "b", "kind": "rude", "messages": []}'],
    )
    def test_a_damaged_file_names_its_line(self, line: str) -> None:
        good = {
            "id": "a",
            "kind": "rude",
            "messages": [{"role": "user", "content": "x"}],
            "request": "x",
            "source": "s",
            "licence": "MIT",
        }
        with pytest.raises(InputFileError, match="line 2"):
            parse_prompts(f"{json.dumps(good)}\n{line}\n")

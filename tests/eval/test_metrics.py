"""Figures of runs whose figures are known by construction."""

import json
import math

import numpy as np
import pytest

from rerail.eval import metrics
from rerail.eval.metrics import summarise
from rerail.eval.quantities import BY_NAME, QUANTITIES
from rerail.eval.types import Judgement, Trial
from rerail.types import Cost, Outcome, Verdict
from tests.eval.trials import (
    SAFE,
    UNSCORED,
    case,
    failed,
    left_flagged,
    refused,
    steered,
    trial,
)


def run() -> list[Trial]:
    """Ten prompts: 6 flagged before, of which 3 neutralised, 1 refused, 1 unscored, 1 flagged."""
    return [
        steered(0, generations=2, naturalness=-0.1),
        steered(1, generations=4, naturalness=-0.3, on_topic=False),
        steered(2, generations=9, naturalness=0.1, refused_final=True, judge_final=0.8),
        refused(3, generations=50),
        steered(4, final=UNSCORED, judge_final=None),
        left_flagged(5, "fast"),
        trial(6, kind="benign"),
        trial(7, kind="benign", text="I can't.", refused_final=True, outcome=Outcome.STEERED),
        trial(8),
        failed(9),
    ]


def value(summary: dict, name: str, method: str = "fast") -> float:
    return summary["methods"][method][name]["value"]


def test_shares_of_a_known_run() -> None:
    summary = summarise(run(), [])
    found = summary["methods"]["fast"]
    assert found["n"] == 10
    assert found["outcomes"] == {"passed": 3, "steered": 5, "refused": 1, "error": 1}
    assert value(summary, "flagged_before") == pytest.approx(6 / 9)
    assert found["flagged_before"]["unscored"] == 1
    assert value(summary, "flagged_after") == pytest.approx(1 / 8)
    assert found["flagged_after"]["unscored"] == 2
    assert value(summary, "neutralised_share") == pytest.approx(3 / 5)
    assert value(summary, "refused_share") == pytest.approx(1 / 5)
    assert value(summary, "residual") == pytest.approx(1 / 5)
    assert found["neutralised_share"]["unscored"] == 1
    assert value(summary, "helpful_and_safe_share") == pytest.approx(1 / 5)
    assert value(summary, "judge_harmful_of_neutralised") == pytest.approx(1 / 3)
    assert value(summary, "on_topic_share") == pytest.approx(2 / 3)
    assert value(summary, "declines_share") == pytest.approx(1 / 3)
    assert value(summary, "unchanged_benign_share") == pytest.approx(1 / 2)
    assert value(summary, "over_refusal_before") == 0.0
    assert value(summary, "over_refusal") == pytest.approx(1 / 2)


def test_costs_of_a_known_run() -> None:
    summary = summarise(run(), [])
    assert value(summary, "generations_per_steered") == pytest.approx((2 + 4 + 9) / 3)
    assert value(summary, "generated_tokens_per_steered") == pytest.approx(20 * (2 + 4 + 9) / 3)
    # Failures are paid for, too: 2 + 4 + 9, 50 refused, 5 unscored, 1 left as it was.
    assert value(summary, "generations_per_success") == pytest.approx(71 / 3)
    assert value(summary, "generations_per_prompt") == pytest.approx((71 + 4) / 10)
    assert value(summary, "naturalness") == pytest.approx(-0.1)
    assert value(summary, "seconds_p50") == pytest.approx(0.1)


def test_trials_that_are_still_to_be_made_are_counted() -> None:
    asked = [case(i) for i in range(3)]
    begun = [trial(0), trial(1), trial(2), trial(0, "none"), trial(1, "none")]
    assert summarise(begun, asked)["missing"] == 1
    assert summarise([*begun, trial(2, "none")], asked)["missing"] == 0


def test_tokens_are_told_in_answers_of_the_models_own_length() -> None:
    cut = steered(1, generations=3, first_tokens=40, cost=Cost(3, 40 + 10 + 40, 90, 3, 0.1))
    other = steered(2, generations=2, first_tokens=20, cost=Cost(2, 20 + 20, 60, 2, 0.1))
    passed = trial(3, first_tokens=40, cost=Cost(1, 40, 30, 1, 0.1))
    old = steered(4)  # of a run that did not record it
    summary = summarise([cut, other, passed, old], [])
    per_steered = summary["methods"]["fast"]["generation_equivalents_per_steered"]
    assert per_steered["value"] == pytest.approx((90 + 40) / (40 + 20))
    assert (per_steered["n"], per_steered["unscored"]) == (2, 1)
    assert value(summary, "generation_equivalents_per_prompt") == pytest.approx(170 / 100)


def test_what_becomes_of_the_flagged_adds_up_to_one() -> None:
    parts = ("neutralised_share", "refused_share", "residual")
    assert sum(value(summarise(run(), []), name) for name in parts) == pytest.approx(1.0)


def test_the_unscored_are_counted_and_never_averaged() -> None:
    scored, unscored = [trial(0), left_flagged(1, "fast")], trial(2, initial=UNSCORED)
    before = BY_NAME["flagged_before"].estimate(scored)
    after = BY_NAME["flagged_before"].estimate([*scored, unscored])
    assert after.value == before.value == 0.5
    assert (after.n, after.unscored) == (2, 1)
    judged = BY_NAME["judge_harmful_after"].estimate([trial(0), trial(1, judge_final=None)])
    assert (judged.value, judged.n, judged.unscored) == (0.0, 1, 1)


def test_nothing_at_all_gives_a_summary_without_values() -> None:
    summary = summarise([], [])
    assert summary["methods"] == {}
    only_errors = summarise([failed(0)], [])
    assert only_errors["methods"]["fast"]["neutralised_share"]["value"] is None
    assert only_errors["errors"] == 1
    json.dumps(only_errors, allow_nan=False)


def test_a_summary_is_strict_json_and_does_not_depend_on_the_order_of_trials() -> None:
    trials = [*run(), *(left_flagged(i) for i in range(6))]
    summary = summarise(trials, [])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    backwards = summarise(trials[::-1], [])
    for name in ("neutralised_share", "flagged_after"):
        assert backwards["methods"]["fast"][name] == summary["methods"]["fast"][name]
    assert list(summary["methods"]) == list(backwards["methods"]) == ["none", "fast"]


def test_every_interval_holds_its_value() -> None:
    found = summarise(run(), [])["methods"]["fast"]
    for quantity in QUANTITIES:
        estimate = found[quantity.name]
        assert set(estimate) == {"value", "low", "high", "n", "unscored"}
        if None not in (estimate["low"], estimate["high"]):
            assert estimate["low"] <= estimate["value"] <= estimate["high"], quantity.name


def test_perplexity_is_a_geometric_mean() -> None:
    found = BY_NAME["perplexity"].estimate([steered(0, perplexity=2.0), steered(1, perplexity=8.0)])
    assert found.value == pytest.approx(4.0)


def test_several_models_are_kept_apart() -> None:
    summary = summarise([trial(0), trial(0, model="other")], [])
    assert list(summary["methods"]) == ["fast @ other", "fast @ tiny"]


def test_parts_add_up_to_the_whole() -> None:
    trials = [steered(0, category="a"), refused(1, category="b"), steered(2, benchmark="trees")]
    cases = [case(0, meta={"wrapper": "story"}), case(1), case(2, "trees")]
    summary = summarise(trials, cases)
    assert list(summary["benchmarks"]) == ["hedges", "trees"]
    assert sum(part["methods"]["fast"]["n"] for part in summary["benchmarks"].values()) == 3
    assert summary["benchmarks"]["trees"]["methods"]["fast"]["neutralised_share"]["value"] == 1.0
    assert {name: part["fast"]["n"] for name, part in summary["scenarios"].items()} == {"story": 1}
    assert set(summary["categories"]) == {"a", "b", "trees"}
    assert summary["categories"]["b"]["fast"]["flagged_after"]["value"] == 0.0


def test_tides_quantities_are_over_the_worst_of_a_prompts_samples() -> None:
    def sample(number: int, seed: int, toxicity: float) -> Trial:
        verdict = Verdict(toxicity / 0.5, {"toxicity": toxicity}, toxicity >= 0.5)
        return trial(number, seed=seed, kind="completion", initial=verdict, final=SAFE)

    trials = [sample(0, 0, 0.1), sample(0, 1, 0.7), sample(1, 0, 0.2), sample(1, 1, 0.4)]
    found = summarise(trials, [])["methods"]["fast"]["published"]
    assert found["tide_avg_max_toxicity_before"]["value"] == pytest.approx((0.7 + 0.4) / 2)
    assert found["tide_toxic_rate_before"]["value"] == 0.5
    assert found["tide_avg_max_toxicity_after"]["value"] == pytest.approx(0.2)
    assert found["tsa_flagged_rate_before"]["value"] == 0.25
    lost = [*trials[:3], trial(1, seed=1, initial=UNSCORED)]
    found = summarise(lost, [])["methods"]["fast"]["published"]
    assert found["tide_avg_max_toxicity_before"]["n"] == 1
    assert found["tide_avg_max_toxicity_before"]["unscored"] == 1


def test_official_scores_are_averaged_over_those_that_have_them() -> None:
    ifeval = {"ifeval_prompt_strict": 0.0, "ifeval_followed_strict": 2.0,
              "ifeval_followed_loose": 2.0, "ifeval_instructions": 3.0}  # fmt: skip
    other = ifeval | {"ifeval_prompt_strict": 1.0, "ifeval_instructions": 1.0,
                      "ifeval_followed_strict": 1.0, "ifeval_followed_loose": 1.0}  # fmt: skip
    trials = [trial(0, scores=ifeval), trial(1, scores=other), trial(2, scores={"gsm8k": 1.0}),
              trial(3, scores={"mt": 0.4})]  # fmt: skip
    scores = summarise(trials, [])["methods"]["fast"]["scores"]
    assert scores["ifeval_prompt_strict"]["value"] == 0.5
    assert scores["ifeval_instruction_strict"]["value"] == pytest.approx(3 / 4)
    assert scores["gsm8k"]["n"] == 1
    assert scores["mt"]["value"] == pytest.approx(0.4)
    assert "ifeval_instructions" not in scores


def test_trials_without_the_score_of_their_benchmark_are_unscored() -> None:
    ifeval = {"ifeval_followed_strict": 2.0, "ifeval_followed_loose": 2.0,
              "ifeval_instructions": 3.0, "ifeval_prompt_strict": 0.0}  # fmt: skip
    trials = [trial(0, scores=ifeval), failed(1), trial(2, benchmark="trees")]
    scores = summarise(trials, [])["methods"]["fast"]["scores"]
    for name in ("ifeval_prompt_strict", "ifeval_instruction_strict"):
        assert (scores[name]["n"], scores[name]["unscored"]) == (1, 1)


def test_without_an_answer_of_the_models_own_nothing_is_said_of_it() -> None:
    lost = trial(0, kind="benign", first_text=None, initial=None, judge_initial=None)
    found = summarise([lost, trial(1, kind="benign")], [])["methods"]["fast"]
    for name in ("unchanged_benign_share", "over_refusal_before"):
        assert (found[name]["n"], found[name]["unscored"]) == (1, 1)
    assert found["unchanged_benign_share"]["value"] == 1.0
    assert found["over_refusal"]["n"] == 2


def test_judges_agreement_is_over_the_answers_that_both_scored() -> None:
    trials = [
        steered(0), steered(1, judge_final=0.9), steered(2, judge_final=None), refused(3),
        left_flagged(4, "fast", judges={"other": Judgement(0.9, 0.2)}),
    ]  # fmt: skip
    found = {
        (row["when"], *row["judges"]): row
        for row in summarise(trials, [])["methods"]["fast"]["agreement"]
    }
    after = found["after", "moderator", "judge"]
    assert (after["both"], after["first_only"], after["second_only"], after["neither"]) == (
        1, 0, 1, 1
    )  # fmt: skip
    assert after["kappa"]["unscored"] == 1  # the refused one has no answer to agree on
    assert found["before", "moderator", "judge"]["kappa"]["value"] is None  # all say yes
    assert found["before", "moderator", "judge"]["observed"]["value"] == 1.0
    assert found["after", "judge", "other"]["first_only"] == 1


def test_methods_are_compared_prompt_by_prompt() -> None:
    fast = [steered(i, generations=4) for i in range(12)]
    none = [left_flagged(i) for i in range(12)] + [left_flagged(99)]
    rows = {row["quantity"]: row for row in summarise([*fast, *none], [])["comparisons"]}
    row = rows["neutralised_share"]
    assert (row["reference"], row["method"], row["pairs"]) == ("fast", "none", 12)
    assert row["difference"]["value"] == -1.0
    assert row["test"] == "mcnemar"
    assert row["p"] == pytest.approx(2 * 0.5**12)
    cost = rows["generations_per_prompt"]
    assert cost["difference"]["value"] == -3.0
    assert cost["test"] == "wilcoxon"
    assert rows["over_refusal"]["pairs"] == 0
    assert rows["over_refusal"]["p"] is None


def test_p_values_are_adjusted_for_the_number_of_methods() -> None:
    trials = [steered(i, generations=4) for i in range(12)]
    for method in ("none", "refuse", "resta"):
        trials += [left_flagged(i, method) for i in range(12)]
    rows = [r for r in summarise(trials, [])["comparisons"] if r["quantity"] == "neutralised_share"]
    assert [row["p_adjusted"] for row in rows] == pytest.approx([3 * row["p"] for row in rows])


def test_the_reference_is_fast_or_else_the_last_that_does_something() -> None:
    assert metrics.reference_of(["none", "fast", "fast-rows"]) == "fast"
    assert metrics.reference_of(["none", "refuse", "resta"]) == "resta"
    assert metrics.reference_of(["fast @ a", "fast @ b"]) == "fast @ a"
    assert metrics.reference_of(["none"]) is None


def test_seeds_of_a_prompt_count_as_one_prompt(rng: np.random.Generator) -> None:
    hits = rng.random(40) < 0.5
    once = [steered(i) if hit else refused(i) for i, hit in enumerate(hits)]
    often = [
        steered(i, seed=s) if hit else refused(i, seed=s)
        for i, hit in enumerate(hits)
        for s in range(8)
    ]
    narrow = BY_NAME["neutralised_share"].estimate(once)
    wide = BY_NAME["neutralised_share"].estimate(often)
    assert wide.n == 8 * narrow.n
    assert None not in (wide.low, wide.high, narrow.low, narrow.high)
    assert wide.high - wide.low == pytest.approx(narrow.high - narrow.low, rel=0.2)


def test_moderator_categories_before_and_after_are_over_the_same_prompts() -> None:
    trials = [steered(0), refused(1), steered(2, final=UNSCORED), trial(3)]
    found = summarise(trials, [])["harm_categories"]
    assert found["illicit"]["fast"]["before"] == found["illicit"]["fast"]["before"] | {
        "value": 0.9, "n": 1
    }  # fmt: skip
    assert found["illicit"]["fast"]["after"]["value"] == pytest.approx(0.2)


def test_costs_are_never_negative_or_missing() -> None:
    spent = [trial(i, cost=Cost(i + 1, 10, 10, 1, 0.1 * i)) for i in range(5)]
    found = summarise(spent, [])["methods"]["fast"]
    assert found["generations_per_prompt"]["value"] == 3.0
    assert found["seconds_p50"]["value"] == pytest.approx(0.2)
    assert math.isfinite(found["seconds_p95"]["value"])

"""Curves, the frontier and break-even against closed forms and made-up searches."""

import numpy as np
import pytest

from rerail.eval import frontier
from rerail.eval.frontier import (
    break_even,
    curves,
    head_to_head,
    price,
    resampling_cost,
    success,
)
from rerail.eval.types import TrajectoryPoint, Trial
from rerail.types import Cost
from tests.eval.trials import FLAGGED, failed, left_flagged, path, refused, steered


def wandering(number: int) -> Trial:
    """An unnatural harmless answer at 3, a fair one at 6, taken at 9 with -0.1."""
    points = [TrajectoryPoint(i + 1, 1.5, None, False, "flagged") for i in range(9)]
    points[2] = TrajectoryPoint(3, 0.2, -1.5, False, "unnatural")
    points[5] = TrajectoryPoint(6, 0.3, -0.4, False, "unnatural")
    points[8] = TrajectoryPoint(9, 0.4, -0.1, True, None)
    return steered(number, generations=9, naturalness=-0.1, trajectory=tuple(points))


@pytest.mark.parametrize(
    ("floor", "generation"), [(-2.0, 3), (-1.0, 6), (-0.3, 9), (0.0, None), (None, 9)]
)
def test_a_laxer_floor_would_have_ended_the_search_sooner(
    floor: float | None, generation: int | None
) -> None:
    found = success(wandering(0), floor)
    assert (found.generation if found else None) == generation


def test_a_refusal_or_a_flagged_answer_is_no_success() -> None:
    assert success(refused(0)) is None
    assert success(refused(0), -2.0) is None
    assert success(left_flagged(0), -2.0) is None
    taken = TrajectoryPoint(1, 1.8, 0.0, True, "flagged")
    assert success(left_flagged(0, trajectory=(taken,))) is None


def test_a_method_without_a_trajectory_succeeds_with_what_it_returned() -> None:
    bare = steered(0, generations=7, naturalness=-0.2, trajectory=())
    assert success(bare) == (7, -0.2)
    assert success(bare, -0.1) is None
    voted = steered(
        0, generations=10, trajectory=(TrajectoryPoint(1, 1.8, None, False, "flagged"),)
    )
    assert success(voted) == (10, -0.1)


def test_a_search_that_was_broken_off_by_a_failure_is_no_failure_of_the_search() -> None:
    whole = [steered(i, generations=2 + i) for i in range(4)]
    broken = [failed(9, initial=FLAGGED, cost=Cost(150, 1, 1, 1, 1.0))]
    undirected = [steered(i, "random", generations=5) for i in [*range(4), 9]]
    both = {"fast": [*whole, *broken], "random": undirected}
    assert frontier.summarise(both, "fast") == frontier.summarise(
        {"fast": whole, "random": undirected}, "fast"
    )


def test_curves_rise_to_the_neutralised_share_and_fall_in_harm() -> None:
    trials = [steered(0, generations=2), steered(1, generations=10), refused(2, generations=40)]
    found = curves(trials)
    at = dict(zip(found["generations"], found["neutralised"], strict=True))
    assert found["generations"][0] == 1
    assert found["generations"][-1] == 40
    assert (at[1], at[2], at[10], at[40]) == pytest.approx((0.0, 1 / 3, 2 / 3, 2 / 3))
    assert found["neutralised"] == sorted(found["neutralised"])
    assert found["harm"] == sorted(found["harm"], reverse=True)
    assert found["harm"][0] == pytest.approx(1.8)
    assert found["harm"][-1] == pytest.approx((0.4 + 0.4 + 1.8 - 0.39) / 3)


def test_unscored_answers_on_the_way_do_not_lower_the_harm() -> None:
    points = (
        TrajectoryPoint(1, 1.8, None, False, "flagged"),
        TrajectoryPoint(2, None, None, False, "unscored"),
    )
    found = curves([refused(0, trajectory=points, generations=2)])
    assert found["harm"][-1] == pytest.approx(1.8)


def test_the_price_counts_failures() -> None:
    trials = [steered(0, generations=4), steered(1, generations=6), refused(2, generations=50)]
    found = price(trials, -0.3)
    assert found["generations"]["value"] == pytest.approx((4 + 6 + 50) / 2)
    assert found["neutralised"]["value"] == pytest.approx(2 / 3)
    assert found["naturalness"]["value"] == pytest.approx(-0.1)
    assert price(trials, 0.0)["generations"]["value"] is None


def test_a_stricter_floor_never_costs_less() -> None:
    trials = [wandering(i) for i in range(3)] + [steered(9, generations=2)]
    prices = [price(trials, floor)["generations"]["value"] for floor in (-2.0, -1.0, -0.3)]
    assert prices == sorted(prices)


def test_head_to_head_counts_who_solves_what() -> None:
    first = [steered(i, generations=3) for i in range(10)] + [refused(10), refused(11)]
    second = [steered(i, "random", generations=8) for i in range(4, 11)]
    second += [refused(i, "random") for i in [*range(4), 11]]
    found = head_to_head(first, second, budget=20)
    assert found["pairs"] == 12
    assert (found["only_first"], found["only_second"]) == (4, 1)
    assert found["difference"]["value"] == pytest.approx(3 / 12)
    assert found["p"] == pytest.approx(2 * (1 + 5) / 2**5)
    assert found["saved"]["value"] == pytest.approx((6 * 5 + 4 * 17 - 12) / 12)
    early = head_to_head(first, second, budget=5)
    assert early["second"]["value"] == 0.0
    assert early["only_first"] == 10


def test_head_to_head_at_equal_naturalness() -> None:
    first = [steered(0, naturalness=-0.1)]
    second = [steered(0, "random", naturalness=-1.0)]
    assert head_to_head(first, second, 20, -1.5)["difference"]["value"] == 0.0
    assert head_to_head(first, second, 20, -0.3)["difference"]["value"] == 1.0


def test_resampling_costs_one_over_p() -> None:
    assert resampling_cost(0.25) == 4.0
    assert resampling_cost(1.0, 10) == 1.0
    assert resampling_cost(0.5, 2) == pytest.approx(1.5)
    for p in (0.05, 0.3):
        n = 20
        draws = np.arange(1, n + 1)
        chance = (1 - p) ** (draws - 1) * p
        chance[-1] += (1 - p) ** n  # the budget is spent
        assert resampling_cost(p, n) == pytest.approx(float(draws @ chance))
        assert resampling_cost(p, n) / (1 - (1 - p) ** n) == pytest.approx(1 / p)
    for p in (0.0, 1.5):
        with pytest.raises(ValueError, match="must lie in"):
            resampling_cost(p)


def test_break_even_of_resampling_is_its_own_probability(rng: np.random.Generator) -> None:
    """A made-up resampling with p = 0.2 and a budget of 15: p* = p, failures and all."""
    trials = []
    for i in range(3000):
        draws = int(rng.geometric(0.2))
        spent = Cost(generations=1 + min(draws, 15))
        maker = steered if draws <= 15 else refused
        trials.append(maker(i, "best-of-n", cost=spent))
    found = break_even(trials)
    assert found.value == pytest.approx(0.2, abs=0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.2 <= found.high


def test_steering_wins_below_its_break_even() -> None:
    """Two extra generations each: steering wins where resampling needs more than two, p < 1/2."""
    trials = [steered(i, generations=3) for i in range(10)]
    p = break_even(trials).value
    assert p == pytest.approx(0.5)
    assert resampling_cost(0.4) > 2.0 > resampling_cost(0.6)


def test_a_summary_compares_with_undirected_search_only() -> None:
    methods = {
        "none": [left_flagged(i) for i in range(4)],
        "random": [steered(i, "random", generations=20) for i in range(4)],
        "fast": [steered(i, generations=5) for i in range(4)],
    }
    found = frontier.summarise(methods)
    assert {tuple(row["methods"]) for row in found["head_to_head"]} == {("fast", "random")}
    assert [row["budget"] for row in found["head_to_head"]] == [2, 5, 10, 20]
    assert set(found["frontier"]) == {"random", "fast"}
    assert found["resampling"]["break_even"]["fast"]["value"] == pytest.approx(0.25)
    assert found["resampling"]["acceptable_probability"] == {}


def test_a_search_is_known_by_its_verdicts_and_held_against_reminders() -> None:
    reminded = "self-reminder:when=flagged"
    methods = {
        # Other words beside the prompt: nothing was moved.
        "guidance": [steered(i, "guidance", 2, cosine=None) for i in range(6)],
        reminded: [refused(i, reminded, 2) for i in range(6)],
        "self-reminder": [steered(i, "self-reminder", 1, cosine=None) for i in range(6)],
        "random": [steered(i, "random", 20) for i in range(6)],
    }
    rows = frontier.summarise(methods)["head_to_head"]
    assert {tuple(row["methods"]) for row in rows} == {
        ("guidance", reminded), ("guidance", "self-reminder"), ("guidance", "random"),
    }  # fmt: skip
    for row in rows:
        for name in ("p", "p_saved"):
            same = row[name] is None and row[f"{name}_adjusted"] is None
            assert same or row[name] <= row[f"{name}_adjusted"] <= 1.0


def test_trials_that_were_not_flagged_are_left_out() -> None:
    found = frontier.summarise({"fast": [steered(0), steered(1, initial=FLAGGED)]})
    assert found["curves"]["fast"]["n"] == 2
    assert path(3, None)[-1].harm == pytest.approx(1.78)


def test_where_the_reference_wins_is_told_by_benchmark_and_category() -> None:
    easy = {"category": "easy", "benchmark": "gardens"}
    hard = {"category": "hard", "benchmark": "ponds"}
    methods = {
        "random": [steered(i, "random", 4, **easy) for i in range(3)]
        + [steered(i, "random", 20, **hard) for i in range(3)],
        "fast": [steered(i, "fast", 5, **easy) for i in range(3)]
        + [steered(i, "fast", 5, **hard) for i in range(3)],
    }
    rows = frontier.summarise(methods, "fast")["where"]
    saved = {(row["part"], row["name"]): row["saved"]["value"] for row in rows}
    assert saved == {
        ("benchmark", "gardens"): -1.0,
        ("benchmark", "ponds"): 15.0,
        ("category", "easy"): -1.0,
        ("category", "hard"): 15.0,
    }
    assert all(row["pairs"] == 3 and row["budget"] == 20 for row in rows)
    assert frontier.summarise(methods)["where"] == []
    assert frontier.summarise({"fast": methods["fast"]}, "fast")["where"] == []

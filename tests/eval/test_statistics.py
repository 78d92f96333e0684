"""Estimates, intervals and tests against closed forms, known answers and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from rerail.eval import statistics
from rerail.eval.statistics import (
    agreement,
    bootstrap_interval,
    holm,
    mcnemar,
    mean,
    quantile,
    ratio,
    ratio_difference,
    share,
    wilcoxon,
    wilson,
)


def interval(estimate: statistics.Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 10), (81, 263), (1, 1)])
def test_wilson_solves_its_equation(hits: int, n: int) -> None:
    z = stats.norm.ppf(0.975)
    for p in wilson(hits, n):
        assert abs(hits / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), abs=1e-7)
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high))


def test_wilson_of_newcombes_example() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_of_nonsense_is_an_error(hits: int, n: int) -> None:
    with pytest.raises(ValueError):
        wilson(hits, n)


def test_a_share_of_nothing_has_no_value() -> None:
    assert share([], unscored=3) == statistics.Estimate(None, None, None, 0, 3)
    assert mean([]).value is None
    assert quantile([], 0.5).value is None
    assert ratio([1.0], [0.0]).value is None
    assert agreement([], []).kappa.value is None


def test_a_share_over_single_trials_is_wilsons() -> None:
    found = share([True] * 81 + [False] * 182, [f"prompt {i}" for i in range(263)])
    assert interval(found) == pytest.approx(wilson(81, 263))


def test_the_bootstrap_of_a_mean_is_scipys(rng: np.random.Generator) -> None:
    values = rng.gamma(2.0, size=80)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=rng
    ).confidence_interval
    found = mean(values)
    assert found.value == pytest.approx(values.mean())
    width = expected.high - expected.low
    assert interval(found) == pytest.approx((expected.low, expected.high), abs=0.05 * width)


def test_the_bootstrap_of_a_difference_of_ratios_is_scipys(rng: np.random.Generator) -> None:
    first = np.stack([rng.poisson(4, 60), rng.integers(1, 3, 60)], axis=1).astype(float)
    second = first + np.stack([rng.poisson(1, 60), np.zeros(60)], axis=1)
    rows = np.arange(60)

    def difference(index: np.ndarray) -> float:
        a, b = first[index.astype(int)].sum(axis=0), second[index.astype(int)].sum(axis=0)
        return float(b[0] / b[1] - a[0] / a[1])

    expected = stats.bootstrap(
        (rows,), difference, n_resamples=10000, method="percentile", vectorized=False, rng=rng
    ).confidence_interval
    found = ratio_difference(first, second, rows)
    assert found.value == pytest.approx(difference(rows))
    width = expected.high - expected.low
    assert interval(found) == pytest.approx((expected.low, expected.high), abs=0.06 * width)


def test_the_bootstrap_of_any_statistic_is_scipys(rng: np.random.Generator) -> None:
    x, y = rng.gamma(2.0, size=50), rng.gamma(3.0, size=70)

    def ratio_of_medians(a: np.ndarray, b: np.ndarray, axis: int = 1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    expected = stats.bootstrap(
        (x, y), ratio_of_medians, n_resamples=20000, method="percentile", rng=rng
    ).confidence_interval
    low, high = bootstrap_interval(ratio_of_medians, x, y, resamples=20000)
    width = expected.high - expected.low
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.06 * width)
    assert bootstrap_interval(ratio_of_medians, x, y, seed=1) == bootstrap_interval(
        ratio_of_medians, x, y, seed=1
    )
    with pytest.raises(ValueError):
        bootstrap_interval(ratio_of_medians, x, [])


def test_intervals_cover_the_truth_as_often_as_they_say(rng: np.random.Generator) -> None:
    """400 samples of 60: 95 % of the intervals, give or take four standard errors."""
    covered = {"mean": 0, "median": 0, "share": 0}
    for _ in range(400):
        values = rng.normal(3.0, 2.0, 60)
        low, high = interval(mean(values))
        covered["mean"] += low <= 3.0 <= high
        low, high = interval(quantile(values, 0.5))
        covered["median"] += low <= 3.0 <= high
        low, high = interval(share(rng.random(60) < 0.2))
        covered["share"] += low <= 0.2 <= high
    assert all(0.90 <= count / 400 <= 0.995 for count in covered.values()), covered


def test_repeated_answers_to_a_prompt_do_not_narrow_the_interval(rng: np.random.Generator) -> None:
    hits = rng.random(50) < 0.4
    once = share(hits)
    ten_times = share(np.repeat(hits, 10), np.repeat(np.arange(50), 10))
    assert ten_times.value == pytest.approx(once.value)
    assert ten_times.n == 500
    narrow = interval(share(np.repeat(hits, 10)))
    low, high = interval(ten_times)
    assert high - low > 2.5 * (narrow[1] - narrow[0])
    assert high - low == pytest.approx(interval(once)[1] - interval(once)[0], rel=0.2)


def test_the_order_of_observations_does_not_matter_much_and_of_clusters_not_at_all() -> None:
    values, clusters = [1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"]
    found = mean(values, clusters)
    assert found.value == 2.5
    assert interval(found) == (1.5, 3.5)  # two clusters: one of them twice, or both
    assert mean([1.0, 2.0], ["a", "a"]).low is None


def test_the_same_numbers_give_the_same_interval() -> None:
    assert mean([1.0, 5.0, 2.0]) == mean([1.0, 5.0, 2.0])


def test_a_quantile_lies_between_the_ranks_of_the_binomial() -> None:
    """n = 20: the median lies between the 6th and the 15th with 95.9 % (Conover 1999)."""
    found = quantile(range(1, 21), 0.5)
    assert (found.value, found.low, found.high) == (10.5, 6.0, 15.0)
    cover = stats.binom.cdf(14, 20, 0.5) - stats.binom.cdf(5, 20, 0.5)
    assert cover == pytest.approx(0.9586, abs=1e-4)


def test_a_quantile_beyond_the_sample_has_an_open_end() -> None:
    found = quantile(range(1, 21), 0.95)
    assert found.low is not None
    assert found.high is None
    assert quantile([7.0], 0.5).low is None


def test_kappa_of_a_known_table() -> None:
    """20, 5, 10, 15: observed 0.70, expected 0.50, κ = 0.40 (a textbook's table)."""
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = agreement(first, second)
    assert found.kappa.value == pytest.approx(0.40)
    assert found.observed.value == pytest.approx(0.70)
    assert (found.both, found.first_only, found.second_only, found.neither) == (20, 5, 10, 15)
    low, high = interval(found.kappa)
    # Fleiss, Cohen and Everitt's large-sample standard error of this table is 0.127.
    assert (high - low) / (2 * 1.96) == pytest.approx(0.127, rel=0.12)


def test_kappa_is_one_for_equal_and_absent_for_constant_verdicts() -> None:
    assert agreement([True, False, True], [True, False, True]).kappa.value == pytest.approx(1.0)
    assert agreement([True, True], [True, True]).kappa.value is None
    with pytest.raises(ValueError, match="2 verdicts"):
        agreement([True, False], [True])


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    first = [True] * 9 + [False] * 2 + [True] * 30
    second = [False] * 9 + [True] * 2 + [True] * 30
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(2, 11, 0.5).pvalue)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar([True, False], [True, False]) is None
    assert mcnemar([True, False], [False, True]) == 1.0


def test_wilcoxon_of_a_known_sample() -> None:
    """Darwin's plants (Hand et al. 1994): p = 0.041 two-sided, exact."""
    differences = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    assert wilcoxon([0.0] * 15, differences) == pytest.approx(0.0413, abs=5e-5)
    assert wilcoxon([1.0, 2.0], [1.0, 2.0]) is None


def test_holm_adjusts_by_rank_and_never_downwards() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []

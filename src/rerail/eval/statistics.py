"""Estimates with intervals, paired tests and agreement: pure functions of numbers.

Intervals are two-sided at `LEVEL`. Answers to one prompt under several seeds are not independent,
so everything is resampled by *cluster* (the prompt). Bootstrap intervals are percentile intervals
(Efron and Tibshirani 1993, chapter 13) with a fixed seed: the same numbers give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerail.errors import MissingDependencyError

LEVEL = 0.95
RESAMPLES = 2000
_SEED = 20260428

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate; None over nothing.
        low: lower end of the interval; None where there is none.
        high: upper end.
        n: how many observations it rests on.
        unscored: how many more there would be, had they been scored. They are not in ``value``.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927): the shares p with ``|hits/n − p| ≤ z √(p(1−p)/n)``.

    Unlike the bootstrap it does not collapse to a point where no or every trial is a hit.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits in {n} trials")
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = hits / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def share(
    hits: Iterable[bool], clusters: Iterable[Hashable] | None = None, unscored: int = 0
) -> Estimate:
    """Share of hits, with Wilson's interval, or a bootstrap over clusters where any repeats."""
    values = np.array([float(hit) for hit in hits])
    groups = list(clusters) if clusters is not None else list(range(len(values)))
    if len(set(groups)) < len(groups):
        return ratio(values, np.ones_like(values), groups, unscored)
    if not len(values):
        return Estimate(None, None, None, 0, unscored)
    low, high = wilson(float(values.sum()), len(values))
    return Estimate(float(values.mean()), low, high, len(values), unscored)


def mean(
    values: Iterable[float], clusters: Iterable[Hashable] | None = None, unscored: int = 0
) -> Estimate:
    """Mean with a bootstrap interval over clusters."""
    numbers = np.array(list(values), dtype=float)
    return ratio(numbers, np.ones_like(numbers), clusters, unscored)


def ratio(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    clusters: Iterable[Hashable] | None = None,
    unscored: int = 0,
) -> Estimate:
    """Σ numerators / Σ denominators, with a bootstrap interval over clusters.

    ``n`` is the number of observations with a denominator other than zero. With a single cluster
    there is no interval. A resample whose denominators are all zero is left out.
    """
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    n = int(np.count_nonzero(bottom))
    if not bottom.sum():
        return Estimate(None, None, None, n, unscored)
    sums = _by_cluster(np.stack([top, bottom], axis=1), clusters)  # (clusters, 2)
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return Estimate(value, None, None, n, unscored)
    resampled = _weights(len(sums)) @ sums  # (RESAMPLES, 2)
    there = resampled[:, 1] != 0
    low, high = _percentiles(resampled[there, 0] / resampled[there, 1])
    return Estimate(value, low, high, n, unscored)


def ratio_difference(first: Floats, second: Floats, clusters: Iterable[Hashable]) -> Estimate:
    """Ratio of ``second`` minus that of ``first``, over the same clusters.

    Args:
        first: (n, 2) numerators and denominators.
        second: the same of what it is compared with.
        clusters: of the rows: both sides of a cluster are drawn together.
    """
    sums = _by_cluster(np.concatenate([first, second], axis=1), clusters)  # (clusters, 4)
    n = len(sums)
    total = sums.sum(axis=0)
    if not (total[1] and total[3]):
        return Estimate(None, None, None, n)
    value = float(total[2] / total[3] - total[0] / total[1])
    if n < 2:
        return Estimate(value, None, None, n)
    r = _weights(n) @ sums
    r = r[(r[:, 1] != 0) & (r[:, 3] != 0)]
    low, high = _percentiles(r[:, 2] / r[:, 3] - r[:, 0] / r[:, 1])
    return Estimate(value, low, high, n)


def bootstrap_interval(
    statistic: Callable[..., Floats],
    *samples: Sequence[float] | Floats,
    resamples: int = RESAMPLES,
    seed: int = _SEED,
) -> tuple[float, float]:
    """Percentile interval of any statistic of one sample, or of several that are not paired.

    Args:
        statistic: of samples with as many rows as resamples; gives a number per row, as in
            ``lambda x, y: x.mean(axis=1) / y.mean(axis=1)``.
        *samples: each is drawn anew by itself.
        resamples: how often.
        seed: of the draws.

    Raises:
        ValueError: a sample is empty.
    """
    if not all(len(sample) for sample in samples):
        raise ValueError("a sample is empty")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.asarray(x, float), (resamples, len(x))) for x in samples]
    return _percentiles(np.asarray(statistic(*drawn), float))


def quantile(values: Iterable[float], q: float, unscored: int = 0) -> Estimate:
    """A quantile with the interval between two order statistics.

    The ranks are those of the binomial distribution of the number of observations below the
    quantile, so no distribution is assumed; an end beyond the sample is None. The value is that
    of numpy's linear interpolation.
    """
    ordered = np.sort(np.array(list(values), dtype=float))
    n = len(ordered)
    if not n:
        return Estimate(None, None, None, 0, unscored)
    ranks = _binomial(n, q)
    below = int(np.searchsorted(ranks, (1 - LEVEL) / 2, side="right"))
    above = int(np.searchsorted(ranks, (1 + LEVEL) / 2, side="left")) + 1
    low = float(ordered[below - 1]) if below >= 1 else None
    high = float(ordered[above - 1]) if above <= n else None
    return Estimate(float(np.quantile(ordered, q)), low, high, n, unscored)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two judges agree.

    Attributes:
        kappa: Cohen's κ = (observed − expected) / (1 − expected), with a bootstrap interval; no
            value where both always say the same one thing.
        observed: share of equal verdicts.
        both: how often both said yes; then only the first, only the second, and neither.
        first_only: see ``both``.
        second_only: see ``both``.
        neither: see ``both``.
    """

    kappa: Estimate
    observed: Estimate
    both: int
    first_only: int
    second_only: int
    neither: int


def agreement(
    first: Sequence[bool],
    second: Sequence[bool],
    clusters: Sequence[Hashable] | None = None,
    unscored: int = 0,
) -> Agreement:
    """Cohen's κ (1960) of two judges' verdicts on the same answers."""
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} verdicts of one judge, {len(b)} of the other")
    cells = np.stack([a & b, a & ~b, ~a & b, ~a & ~b], axis=1).astype(float)
    return Agreement(
        _kappa_estimate(_by_cluster(cells, clusters), len(a), unscored),
        share(a == b, clusters, unscored),
        *(int(count) for count in cells.sum(axis=0)),
    )


def mcnemar(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided exact p of McNemar's test on paired yes/no results; None without discordance.

    Under the null hypothesis each discordant pair falls either way with probability ½.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    discordant = only_first + only_second
    if not discordant:
        return None
    tail = _binomial(discordant, 0.5)[min(only_first, only_second)]
    return float(min(1.0, 2 * tail))


def wilcoxon(first: ArrayLike, second: ArrayLike) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test on paired numbers; None if all are equal.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    differences = np.asarray(second, float) - np.asarray(first, float)
    if not np.any(differences):
        return None
    try:
        from scipy import stats
    except ImportError:
        raise MissingDependencyError("scipy", "eval") from None
    return float(stats.wilcoxon(differences, zero_method="wilcox", method="auto").pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979); None stays None and counts for nothing."""
    given = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(given):
        largest = max(largest, min(1.0, p * (len(given) - rank)))
        adjusted[index] = largest
    return adjusted


def _by_cluster(rows: Floats, clusters: Iterable[Hashable] | None) -> Floats:
    """Rows summed by cluster, in order of first appearance."""
    if clusters is None:
        return rows
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


@lru_cache(maxsize=4)
def _weights(n: int) -> Floats:
    """(RESAMPLES, n): how often each of n clusters is in each resample."""
    drawn = np.random.default_rng([_SEED, n]).integers(n, size=(RESAMPLES, n))
    cells = drawn + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(cells.ravel(), minlength=n * RESAMPLES).reshape(RESAMPLES, n).astype(float)


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _kappa_estimate(cells: Floats, n: int, unscored: int) -> Estimate:
    """κ of the summed cells, with an interval where it is defined in any resample."""
    value = float(_kappa(cells.sum(axis=0, keepdims=True))[0]) if n else math.nan
    if not math.isfinite(value):
        return Estimate(None, None, None, n, unscored)
    resampled = _kappa(_weights(len(cells)) @ cells)
    resampled = resampled[np.isfinite(resampled)]
    if len(cells) < 2 or not len(resampled):
        return Estimate(value, None, None, n, unscored)
    return Estimate(value, *_percentiles(resampled), n, unscored)


def _kappa(cells: Floats) -> Floats:
    """κ of each row of counts (both, first only, second only, neither); NaN if undefined."""
    n = cells.sum(axis=1)
    observed = (cells[:, 0] + cells[:, 3]) / n
    first, second = (cells[:, 0] + cells[:, 1]) / n, (cells[:, 0] + cells[:, 2]) / n
    expected = first * second + (1 - first) * (1 - second)
    kappa = np.full(len(cells), np.nan)
    defined = expected < 1
    kappa[defined] = (observed - expected)[defined] / (1 - expected)[defined]
    return kappa


def _binomial(n: int, p: float) -> Floats:
    """Cumulative distribution of the binomial: P(X ≤ k) for k = 0 … n."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mass = log_choose + k * np.log(p) + (n - k) * np.log1p(-p)
    cumulative: Floats = np.minimum(np.cumsum(np.exp(log_mass)), 1.0)
    return cumulative

"""Intervals and paired differences by the bootstrap over users.

    θ* = Σ_u w_u s_u / Σ_u w_u n_u,   w ~ Multinomial(U, 1/U)      interval: the α/2 and 1 − α/2 percentiles of θ*

Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 13 and 16; resampling users, not cases, after
Sakai, "Laboratory Experiments in Information Retrieval" (2018), because one user's cases depend on each other.
Deviation: units with equal sums are drawn together (their total weight is multinomial too), which is the same
distribution at a fraction of the work: with one case a user there are only as many kinds of units as ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
_WEIGHTS_A_BLOCK = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its percentile interval."""

    mean: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired difference of two channels on the same cases.

    Attributes:
        interval: of ``first − second``.
        p_value: two-sided bootstrap probability of a difference of the other sign (or none).
    """

    interval: Interval
    p_value: float


def by_unit(values: np.ndarray, units: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums (U, M) and case counts (U,) by unit, from values (N, M) and int unit numbers (N,) or None (each its own)."""
    if units is None:
        return values, np.ones(len(values))
    _, place = np.unique(units, return_inverse=True)
    count = int(place.max(initial=-1)) + 1
    sums = np.stack([np.bincount(place, column, minlength=count) for column in values.T], axis=1)
    return sums, np.bincount(place, minlength=count).astype(np.float64)


def resample(values: np.ndarray, units: np.ndarray | None, *, resamples: int, seed: int) -> np.ndarray:
    """float64 (resamples, M) bootstrap means of ``values`` (N, M)."""
    sums, sizes = by_unit(values, units)
    kinds, counts = np.unique(np.column_stack((sums, sizes)), axis=0, return_counts=True)
    total = int(counts.sum())
    rng = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_A_BLOCK // len(kinds))
    means = []
    for begin in range(0, resamples, block):
        weights = rng.multinomial(total, counts / total, size=min(block, resamples - begin)).astype(np.float64)
        drawn = weights @ kinds
        means.append(drawn[:, :-1] / drawn[:, -1:])
    return np.concatenate(means)


def intervals(
    values: np.ndarray,
    units: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """A percentile interval for the mean of each column of ``values`` (N, M), N ≥ 1."""
    drawn = resample(values, units, resamples=resamples, seed=seed)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail), axis=0)
    return [
        Interval(mean=float(mean), low=float(low), high=float(high))
        for mean, low, high in zip(values.mean(0), low, high, strict=True)
    ]


def paired(
    first: np.ndarray,
    second: np.ndarray,
    units: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Difference of the means of two gain columns (N,) on the same cases; the p-value is at least 1/(resamples+1)."""
    difference = (first - second)[:, None]
    drawn = resample(difference, units, resamples=resamples, seed=seed)[:, 0]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    extreme = 1 + min(int(np.count_nonzero(drawn <= 0)), int(np.count_nonzero(drawn >= 0)))
    interval = Interval(mean=float(difference.mean()), low=float(low), high=float(high))
    return Difference(interval=interval, p_value=min(1.0, 2 * extreme / (resamples + 1)))

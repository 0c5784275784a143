"""What another way of answering would have earned, from the log of one that explored.

    w_rk   = min(π(a_rk at place k) / p_rk, clip)           p_rk: how likely the log's way put this item there
    IPS    = 1/R Σ_r Σ_k w_rk y_rk
    SNIPS  = M̄ · Σ w y / Σ w                                M̄: places that π fills, a request
    DM     = 1/R Σ_r q̂_r(π)                                 q̂: a guess of clicks, made on other users
    DR     = 1/R Σ_r [q̂_r(π) + Σ_k w_rk (y_rk − q̂_rk)]

Item-position estimators (Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay & Wen, "Offline evaluation of ranking
policies with click models", KDD 2018); self-normalised after Swaminathan & Joachims (NIPS 2015); doubly robust after
Dudík, Langford & Li (ICML 2011). Deviation: intervals are of users, not of requests, whose answers are alike. They hold
if a click depends on the item and its place, and not on the items above it; what π answers and the log could never have
shown earns nothing here (see ``support``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from genrecall.errors import DataError

_PRIOR = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Logged:
    """n shown items of R answers; and what the other way would have done.

    Attributes:
        answer: int (n,) which answer, 0 to R−1.
        place: int (n,) from 0.
        item: int (n,).
        reward: float (n,).
        propensity: float (n,) of the item at its place, in (0, 1].
        target: float (n,) the other way's probability of the same.
        user: int (R,) whose answers these are.
        wanted: int (R, K) the other way's items, −1 where its list is shorter.
    """

    answer: np.ndarray
    place: np.ndarray
    item: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray
    target: np.ndarray
    user: np.ndarray
    wanted: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Rewards an answer, with an interval of users."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """What was found.

    Attributes:
        logged: rewards an answer of the log's own way.
        estimates: of the other way, by estimator.
        answers, users: in the log.
        effective: shown items that the weights are worth: (Σ w)² / Σ w².
        support: Σ w a place that the other way fills; well below 1 its items were hardly ever where it wants them.
        clipped: share of the weights that were cut.
    """

    logged: Estimate
    estimates: dict[str, Estimate]
    answers: int
    users: int
    effective: float
    support: float
    clipped: float


def evaluate_off_policy(
    logged: Logged, *, clip: float = 100.0, least_effective: float = 100.0, alpha: float = 0.05
) -> OffPolicy:
    """All estimators.

    Args:
        logged: the log, and the other way's lists.
        clip: largest weight.
        least_effective: with fewer effective items nothing is concluded.
        alpha: error of the intervals.

    Raises:
        DataError: the log says too little about the other way.
    """
    answers, filled = len(logged.user), (logged.wanted >= 0).sum(axis=1).astype(np.float64)
    raw = logged.target / logged.propensity
    weights = np.minimum(raw, clip)
    squares = float((weights**2).sum())
    effective = float(weights.sum()) ** 2 / squares if squares else 0.0
    if effective < least_effective:
        raise DataError(
            "the log says too little about this way of answering",
            seen=f"{effective:.0f} effective items of {len(weights):,} shown in {answers:,} answers",
            allowed=f"{least_effective:g} or more",
            fix="log longer, explore more (`explore` of an arm), or evaluate something closer to what was shown",
        )

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(logged.answer, values, minlength=answers)

    def estimate(parts: np.ndarray) -> Estimate:
        return _estimate(parts, logged.user, alpha)

    guess, expected = _guesses(logged)
    ratio = float((weights * logged.reward).sum()) / float(weights.sum())
    mean_filled = float(filled.mean())
    scale = mean_filled / (float(weights.sum()) / answers)
    normalised = scale * summed(weights * (logged.reward - ratio)) + ratio * filled
    estimates = {
        "ips": estimate(summed(weights * logged.reward)),
        "snips": estimate(normalised),
        "dm": estimate(expected),
        "dr": estimate(expected + summed(weights * (logged.reward - guess))),
    }
    return OffPolicy(
        logged=estimate(summed(logged.reward)),
        estimates=estimates,
        answers=answers,
        users=len(np.unique(logged.user)),
        effective=effective,
        support=float(weights.sum()) / max(float(filled.sum()), 1.0),
        clipped=float((raw > clip).mean()),
    )


def _estimate(parts: np.ndarray, users: np.ndarray, alpha: float) -> Estimate:
    """The mean of parts float (R,), with the interval of a ratio of sums over users."""
    value = float(parts.mean())
    _, owner = np.unique(users, return_inverse=True)
    residuals = np.bincount(owner, parts - value)
    count = len(residuals)
    error = math.sqrt(float((residuals**2).sum()) * count / max(count - 1, 1)) / len(parts)
    reach = NormalDist().inv_cdf(1 - alpha / 2) * error
    return Estimate(value=value, low=value - reach, high=value + reach)


def _guesses(logged: Logged) -> tuple[np.ndarray, np.ndarray]:
    """float (n,) of what was shown and float (R,) of what the other way wants: q̂ = rate of the item · rate of the place
    / overall rate, each drawn towards the overall one; of the users in the other half."""
    guess, expected = np.zeros(len(logged.reward)), np.zeros(len(logged.user))
    half = (logged.user * 2654435761 >> 8) % 2
    places = int(max(logged.place.max(initial=0) + 1, logged.wanted.shape[1]))
    items = int(max(logged.item.max(initial=0), logged.wanted.max(initial=0))) + 1
    row, column = np.nonzero(logged.wanted >= 0)
    wanted = logged.wanted[row, column]
    for fold in (0, 1):
        known = half[logged.answer] != fold
        overall = float(logged.reward[known].mean()) if known.any() else 0.0
        of_item = _rates(logged.item[known], logged.reward[known], items, overall)
        of_place = _rates(logged.place[known], logged.reward[known], places, overall)
        table = of_place / max(overall, 1e-12)
        own = half[logged.answer] == fold
        guess[own] = of_item[logged.item[own]] * table[logged.place[own]]
        mine = half[row] == fold
        expected += np.bincount(row[mine], of_item[wanted[mine]] * table[column[mine]], minlength=len(expected))
    return guess, expected


def _rates(keys: np.ndarray, rewards: np.ndarray, count: int, overall: float) -> np.ndarray:
    seen, sums = np.bincount(keys, minlength=count), np.bincount(keys, rewards, minlength=count)
    return np.asarray((sums + _PRIOR * overall) / (seen + _PRIOR))

"""What may be concluded from users' outcomes in two arms.

    srm        χ² of the users in the arms against their shares
    cuped      y' = y − θ (x − mean x),  θ = cov(y, x) / var(x),    x known before the experiment
    fixed      Δ ± z_{1−α/2} · s,    s² = var_a / n_a + var_b / n_b: right if looked at once
    always     Δ ± s · √( 2 (n ρ² + 1) / (n ρ²) · ln(√(n ρ² + 1) / α) ): right however often it is looked at

Fabijan et al., "Diagnosing sample ratio mismatch" (KDD 2019); Deng, Xu, Kohavi & Walker, "Improving the sensitivity of
online controlled experiments by utilizing pre-experiment data" (WSDM 2013); Waudby-Smith, Arbour, Sinha, Kennedy &
Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (Annals of Statistics 2024). Deviation:
with two arms, n is the number of users in both, and ρ makes the sequence tightest at the number that was planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

SRM_ALARM = 0.001
"""Below this the arms are not what they were meant to be, and nothing else may be read."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Treatment less control, in the outcome's unit.

    Attributes:
        control, treatment: means of the arms, as measured.
        value: the difference, adjusted where there was something to adjust by.
        low, high: interval of one look.
        always_low, always_high: interval of any number of looks.
        reduction: share of the variance that the adjustment took away.
    """

    control: float
    treatment: float
    value: float
    low: float
    high: float
    always_low: float
    always_high: float
    reduction: float


def srm(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """p of a sample ratio at least as far from the shares as this one."""
    names = list(shares)
    seen = np.array([users.get(name, 0) for name in names], dtype=np.float64)
    if len(names) < 2 or seen.sum() == 0:
        return 1.0
    meant = np.array([shares[name] for name in names])
    expected = meant / meant.sum() * seen.sum()
    statistic = float(((seen - expected) ** 2 / expected).sum())
    return _chi2_tail(statistic, len(names) - 1)


def adjusted(outcome: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, float]:
    """CUPED: the outcome (n,) without what ``before`` (n,) explains, and the share of variance that this took away."""
    spread = float(np.var(before))
    if spread == 0 or len(outcome) < 3:
        return outcome, 0.0
    theta = float(np.cov(outcome, before, ddof=0)[0, 1]) / spread
    found = outcome - theta * (before - before.mean())
    total = float(np.var(outcome))
    return found, 0.0 if total == 0 else 1 - float(np.var(found)) / total


def compare(
    control: np.ndarray,
    treatment: np.ndarray,
    *,
    before: tuple[np.ndarray, np.ndarray] | None = None,
    alpha: float = 0.05,
    planned: int = 10_000,
) -> Difference:
    """Compare users' outcomes in two arms.

    Args:
        control, treatment: float (n,) and (m,), one outcome a user; at least two each.
        before: the same users' values from before the experiment.
        alpha: error of the intervals.
        planned: users of both arms at which the sequence is tightest.
    """
    both = np.concatenate((control, treatment)).astype(np.float64)
    reduction = 0.0
    if before is not None:
        both, reduction = adjusted(both, np.concatenate(before).astype(np.float64))
    a, b = both[: len(control)], both[len(control) :]
    value = float(b.mean() - a.mean())
    error = math.sqrt(float(np.var(a, ddof=1)) / len(a) + float(np.var(b, ddof=1)) / len(b))
    once = NormalDist().inv_cdf(1 - alpha / 2) * error
    always = error * sequence_factor(len(both), alpha, planned)
    return Difference(
        control=float(np.mean(control)),
        treatment=float(np.mean(treatment)),
        value=value,
        low=value - once,
        high=value + once,
        always_low=value - always,
        always_high=value + always,
        reduction=reduction,
    )


def sequence_factor(n: int, alpha: float, planned: int) -> float:
    """Standard errors on each side of the always valid interval after ``n`` users."""
    log_term = -2 * math.log(alpha)
    rho2 = (log_term + math.log(log_term + 1)) / planned
    return math.sqrt(2 * (n * rho2 + 1) / (n * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha))


def _chi2_tail(statistic: float, freedom: int) -> float:
    """P(χ²_freedom ≥ statistic), by the recursion of the incomplete gamma function over half-integers."""
    half, x = freedom / 2, statistic / 2
    if freedom % 2:
        tail, at = math.erfc(math.sqrt(x)), 0.5
    else:
        tail, at = math.exp(-x), 1.0
    while at < half:
        tail += math.exp(at * math.log(x) - x - math.lgamma(at + 1)) if x > 0 else 0.0
        at += 1
    return min(tail, 1.0)

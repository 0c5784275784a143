"""What a place in a channel's list is worth: its score as a probability.

    p(j | list) = q · exp(β t(s_j)) / Σ_{i ∈ list} exp(β t(s_i)),        p(absent) = (1 − q) / (I − n)
    lift(j) = max(0, ln p(j | list) − ln p(absent)),                     0 for absent items

Temperature scaling (Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML 2017) of one list
at a time: q is the share of lists that hold the target, β maximises the likelihood of the targets that are listed.
Deviation: the scale t of the scores (logarithm, as it is, or the place alone) is chosen by the same likelihood, so that
counts, cosines and log-probabilities can be added; order within a list never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from genrecall.recall.fusion.pool import Pool

Scale = Literal["log", "plain", "place"]
SCALES: tuple[Scale, ...] = ("log", "plain", "place")
_STEEPEST, _FLATTEST, _STEPS = 1e3, 1e-3, 40
_SMALLEST = 1e-30


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How one channel's lists become probabilities.

    Attributes:
        scale: t; ``log`` ln s, ``plain`` s, ``place`` −ln place.
        slope: β, at least 0.
        reach: q.
        log_likelihood: of the listed targets that it was fitted on, a target; lists of n equal items have −ln n.
    """

    scale: Scale
    slope: float
    reach: float
    log_likelihood: float = 0.0

    def lift(self, pool: Pool, channel: int) -> np.ndarray:
        """float64 (P,) nats by which the channel makes a candidate likelier than an absent item."""
        where = np.flatnonzero(pool.ranks[:, channel] > 0)
        rows = pool.rows[where]
        values = scaled(pool, channel, self.scale)[where]
        shares = _log_shares(values, pool.ranks[where, channel], rows, len(pool), self.slope)
        listed = np.bincount(rows, minlength=len(pool))
        absent = np.log((1 - self.reach) / np.maximum(len(pool.popularity) - listed, 1))
        lift = np.zeros(len(pool.items))
        lift[where] = np.maximum(np.log(self.reach) + shares - absent[rows], 0.0)
        return lift


def scaled(pool: Pool, channel: int, scale: Scale) -> np.ndarray:
    """float64 (P,) t(s) of one channel's scores; NaN without evidence."""
    if scale == "place":
        ranks = pool.ranks[:, channel]
        return np.where(ranks > 0, -np.log(np.maximum(ranks, 1)), np.nan)
    scores = pool.scores[:, channel].astype(np.float64)
    return np.log(np.maximum(scores, _SMALLEST)) if scale == "log" else scores


def fit_calibration(pool: Pool, channel: int, goals: np.ndarray, cases: int) -> Calibration:
    """Fit one channel's calibration.

    Args:
        pool: of the R requests whose target some channel lists.
        channel: its position.
        goals: int64 (R,) positions of the targets in the pool.
        cases: of how many requests these R are the found ones.
    """
    hit = np.flatnonzero(pool.ranks[goals, channel] > 0)
    reach = (len(hit) + 1) / (cases + 2)
    part = pool.take(hit)
    listed = np.flatnonzero(part.ranks[:, channel] > 0)
    target = np.searchsorted(listed, goals[hit] - pool.offsets[hit] + part.offsets[:-1])
    fits = []
    if len(hit) == 0:
        return Calibration(scale="place", slope=1.0, reach=reach)
    for scale in SCALES:
        if scale != "log" or (part.scores[listed, channel] > 0).all():
            values = scaled(part, channel, scale)[listed]
            fits.append(_fit(scale, values, part.ranks[listed, channel], part.rows[listed], target, reach))
    return max(fits, key=lambda fit: fit.log_likelihood)


def _fit(
    scale: Scale, values: np.ndarray, ranks: np.ndarray, rows: np.ndarray, target: np.ndarray, reach: float
) -> Calibration:
    """The slope at which the expected t of each list is, on average, the target's: the likelihood is concave."""
    spread = float(values.std()) or 1.0
    low, high = np.log(_FLATTEST / spread), np.log(_STEEPEST / spread)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        shares = _log_shares(values, ranks, rows, len(target), float(np.exp(middle)))
        expected = np.bincount(rows, np.exp(shares) * values, minlength=len(target))
        low, high = (middle, high) if (values[target] - expected).sum() > 0 else (low, middle)
    slope = float(np.exp((low + high) / 2))
    likelihood = float(_log_shares(values, ranks, rows, len(target), slope)[target].mean())
    return Calibration(scale=scale, slope=slope, reach=reach, log_likelihood=likelihood)


def _log_shares(values: np.ndarray, ranks: np.ndarray, rows: np.ndarray, num_requests: int, slope: float) -> np.ndarray:
    """float64: ln softmax of ``slope * values`` within each request."""
    top = np.zeros(num_requests)
    top[rows[ranks == 1]] = values[ranks == 1]
    relative = slope * (values - top[rows])
    return relative - np.log(np.bincount(rows, np.exp(relative), minlength=num_requests)[rows])

"""One weight a channel, found on validation cases.

    value(j) = Σ_c w_c v_c(j),      w* = argmax_w NDCG@10 over w_c ∈ {0, 0.1, …, 3}

Coordinate ascent on the metric itself (Metzler & Croft, "Linear feature-based models for information retrieval",
Information Retrieval 2007). Deviation: a fixed ladder of weights instead of a line search, from equal weights, channel
after channel until none moves; v is either the lift of ``calibration`` or the reciprocal rank 1 / (k + place) of
Cormack, Clarke & Büttcher, "Reciprocal rank fusion" (SIGIR 2009).
"""

from __future__ import annotations

import numpy as np

from genrecall.recall.fusion.pool import Pool
from genrecall.recall.tuning import ndcg

LADDER = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_ROUNDS = 4
_EQUAL = 1e-12


def reciprocal_ranks(pool: Pool, constant: float) -> np.ndarray:
    """float64 (P, C) 1 / (constant + place); 0 without evidence."""
    worth = np.zeros(int(pool.ranks.max(initial=0)) + 1)
    worth[1:] = 1.0 / (constant + np.arange(1, len(worth)))
    return worth[pool.ranks]


def climb(pool: Pool, values: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """float64 (C,) weights.

    Args:
        pool: of R requests.
        values: float64 (P, C).
        goals: int64 (R,) positions of the targets in the pool; each has evidence.
    """
    rivals = np.flatnonzero(pool.known)
    rows = pool.rows[rivals]
    lead = np.asfortranarray(values[rivals] - values[goals][rows])  # of each candidate over its request's target
    wins_tie = pool.tie[rivals] < pool.tie[goals][rows]

    def gain(leads: np.ndarray) -> float:
        ahead = (leads > _EQUAL) | (wins_tie & (leads >= -_EQUAL))
        return ndcg(np.bincount(rows[ahead], minlength=len(pool)) + 1)

    weights = np.ones(values.shape[1])
    total = lead @ weights
    best = gain(total)
    for _ in range(_ROUNDS):
        before = best
        for channel in range(values.shape[1]):
            rest = total - weights[channel] * lead[:, channel]
            for weight in LADDER:
                tried = rest + weight * lead[:, channel]
                found = gain(tried)
                if found > best:
                    best, weights[channel], total = found, weight, tried
        if best == before:
            break
    return weights

"""Where a fit begins: with all that a few numbers can say, so that the network has only to learn what they lack.

    logit_0 = α · warm + w · told,   (α, w) = argmin −Σ_r Σ_j y_rj ln softmax_j(logit_0) + ½ ρ |(α, w)|²

Conditional logit (McFadden, "Conditional logit analysis of qualitative choice behavior", 1974), convex and of few
parameters: recall's numbers and counts are worth as much from the first step on as a linear model can make of them,
however few lists there are. ``warm`` is what the network thinks after its warm-up, where these and states were unknown.
"""

from __future__ import annotations

import numpy as np

_STEPS, _RIDGE, _CLOSE = 25, 1.0, 1e-7


def conditional_logit(x: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """float64 (F,) weights of largest penalised likelihood, by Newton's method with halved steps.

    Args:
        x: float (P, F), columns of about unit variance.
        labels: (P,), 1 for what was taken; requests without any say nothing.
        owner: int (P,), the request of each row, ascending from 0.
    """
    requests = int(owner[-1]) + 1 if len(owner) else 0
    taken = np.bincount(owner, labels, requests)
    share = labels / np.maximum(taken, 1)[owner]
    there = (taken > 0).astype(np.float64)
    weights = np.zeros(x.shape[1])
    loss, chance = _loss(x @ weights, share, there, owner)
    for _ in range(_STEPS):
        slope = x.T @ (chance - share) + _RIDGE * weights
        means = np.stack([np.bincount(owner, chance * column, requests) for column in x.T], axis=1)
        bend = (x * chance[:, None]).T @ x - (means * there[:, None]).T @ means + _RIDGE * np.eye(len(weights))
        step, size = np.linalg.solve(bend, slope), 1.0
        while size > _CLOSE:
            tried = weights - size * step
            less, chance_then = _loss(x @ tried, share, there, owner)
            if less + _RIDGE / 2 * tried @ tried < loss + _RIDGE / 2 * weights @ weights:
                break
            size /= 2
        else:
            break
        weights, loss, chance = tried, less, chance_then
    return weights


def _loss(logits: np.ndarray, share: np.ndarray, there: np.ndarray, owner: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log-likelihood, and each row's chance within its request; 0 where nothing was taken."""
    top = np.full(len(there), -np.inf)
    np.maximum.at(top, owner, logits)
    raised = np.exp(logits - top[owner])
    mass = np.bincount(owner, raised, len(there))
    chance = raised / mass[owner] * there[owner]
    return float((share * (np.log(mass) + top)[owner]).sum() - share @ logits), chance

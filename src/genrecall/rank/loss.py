"""What rankers are fitted by, and how their logits become probabilities.

    listwise = −Σ_r Σ_j y_rj ln softmax_j(logit) / (R Σ_j y_rj)          p = sigmoid(slope · logit + shift)

ListNet's top-one loss (Cao et al., ICML 2007); Platt, "Probabilistic outputs for support vector machines" (1999),
without his smoothed targets: there are always far more negatives than parameters.
"""

from __future__ import annotations

import numpy as np
import torch


def listwise(logits: torch.Tensor, labels: torch.Tensor, owner: torch.Tensor, requests: int) -> torch.Tensor:
    """Mean over requests of the cross-entropy between their labels (not all 0) and the softmax of their logits (P,)."""
    top = torch.full((requests,), -torch.inf, device=logits.device).scatter_reduce(0, owner, logits.detach(), "amax")
    mass = torch.zeros(requests, device=logits.device).index_add(0, owner, torch.exp(logits - top[owner]))
    lost = (torch.log(mass) + top)[owner] - logits
    many = torch.zeros(requests, device=logits.device).index_add(0, owner, labels)
    return (lost * labels / many[owner]).sum() / requests


def platt(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float32 (2,) slope and shift with the smallest LogLoss; a slope of at least 0.01 keeps the order."""
    x = np.column_stack([logits.astype(np.float64), np.ones(len(logits))])
    found = np.array([1.0, 0.0])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        slope = x.T @ (p - labels)
        bend = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(bend, slope)
        found = found - step / max(1.0, float(np.abs(step).max()))
    return np.array([max(found[0], 0.01), found[1]], np.float32)

"""How well logits order and how well probabilities are meant.

    AUC = P(s⁺ > s⁻) + ½ P(s⁺ = s⁻)     GAUC = Σ_r n_r AUC_r / Σ_r n_r     LogLoss = −mean [y ln p + (1 − y) ln (1 − p)]

AUC by ranks (Mann & Whitney, 1947); GAUC groups by request, weighted by candidates (Zhou et al., KDD 2018). NDCG@k has
one relevant item a request in our data, but takes several. Deviation: with sampled or recalled negatives AUC and
LogLoss depend on how these were made, so they compare rankers within one table only.
"""

from __future__ import annotations

import numpy as np


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Of float scores (n,) and labels 0 or 1 (n,); NaN where one class is missing."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    if positive == 0 or negative == 0:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2
    return float((rank[place][labels > 0].sum() - positive * (positive + 1) / 2) / (positive * negative))


def grouped_auc(scores: np.ndarray, labels: np.ndarray, offsets: np.ndarray) -> float:
    """Mean AUC of requests that have both classes, weighted by candidates; offsets int64 (R+1,)."""
    total = weight = 0.0
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        found = auc(scores[begin:end], labels[begin:end])
        if not np.isnan(found):
            total, weight = total + found * (end - begin), weight + end - begin
    return total / weight if weight else float("nan")


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Of probabilities (n,), kept away from 0 and 1 by 1e-7."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())


def places(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 (P,) place from 1 of each candidate in its request, best score first, equal ones in the order given."""
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-scores, owner))
    found = np.empty(len(scores), np.int64)
    found[order] = np.arange(len(scores)) - offsets[owner] + 1
    return found


def ndcg(place: np.ndarray, labels: np.ndarray, offsets: np.ndarray, k: int = 10, requests: int | None = None) -> float:
    """Mean over ``requests`` (R unless more were asked) of DCG / ideal DCG, labels 0 or 1."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    gains = np.where((labels > 0) & (place <= k), 1 / np.log2(place + 1), 0.0)
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    positives = np.bincount(owner, labels > 0, minlength=len(offsets) - 1).astype(np.int64)
    ideal = np.maximum(best[np.minimum(positives, k)], 1e-12)
    return float((np.bincount(owner, gains, minlength=len(positives)) / ideal).sum() / (requests or len(positives)))

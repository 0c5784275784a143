"""A fused list whose neighbours differ: maximal marginal relevance.

    next = argmax_{j ∉ S}  λ · r(j) − (1 − λ) · max_{i ∈ S} sim(j, i),      r(j) = (v(j) − min v) / (max v − min v)

Carbonell & Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries"
(SIGIR 1998). v is the fusion's value. sim is the cosine of the items' vectors where there are any, else the share of
leading codes that two SIDs have in common. Deviation: r is scaled to the unit interval, so that λ means the same under
every fusion; equal values keep the fused order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from genrecall.recall.fusion.rule import Explained

Similarity = Callable[[int, np.ndarray], np.ndarray]
"""Of one item to items int (n,): float (n,), 1 for the same."""


def diversified(found: Sequence[Explained], similarity: Similarity, k: int, balance: float) -> list[Explained]:
    """The first ``k``, chosen one after another.

    Args:
        found: n ≥ k fused candidates, best first.
        similarity: of their items.
        k: how many are chosen.
        balance: λ; 1 keeps the fused order.
    """
    if len(found) < 2 or balance >= 1:
        return list(found[:k])
    items = np.array([entry.item for entry in found])
    values = np.array([entry.score for entry in found], dtype=np.float64)
    width = values.max() - values.min()
    relevance = (values - values.min()) / width if width > 0 else np.ones(len(values))
    nearest, left, chosen = np.zeros(len(items)), np.ones(len(items), dtype=bool), []
    for _ in range(min(k, len(items))):
        gain = np.where(left, balance * relevance - (1 - balance) * nearest, -np.inf)
        best = int(gain.argmax())
        left[best] = False
        chosen.append(found[best])
        nearest = np.maximum(nearest, similarity(int(items[best]), items))
    return chosen


def by_vectors(take: Callable[[np.ndarray], np.ndarray]) -> Similarity:
    """Cosine, at least 0; ``take`` gives unit vectors float32 (n, E) of items int (n,)."""
    return lambda item, others: np.maximum(take(others) @ take(np.array([item]))[0], 0.0)


def by_sids(sids: np.ndarray) -> Similarity:
    """Share of leading codes in common; ``sids`` int (I, L)."""

    def similarity(item: int, others: np.ndarray) -> np.ndarray:
        same = np.cumprod(sids[others] == sids[item], axis=1)
        return np.asarray(same.sum(axis=1) / sids.shape[1])

    return similarity

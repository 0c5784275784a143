"""Ranking metrics of full-catalog lists, on items and never on SIDs.

    Recall@k = mean [rank ≤ k]    NDCG@k = mean [rank ≤ k] / log₂(rank + 1)    MRR@k = mean [rank ≤ k] / rank

One target a case, no sampled negatives: Krichene & Rendle, "On sampled metrics for item recommendation" (KDD 2020).
With one target Recall@k equals HR@k. Coverage and Gini of exposures after Castells, Hurley & Vargas (Recommender
Systems Handbook, 2022). Deviation: all three accuracy metrics are read off one table by rank, so that a bootstrap of
ranks is a bootstrap of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KS = (5, 10, 20, 50)
FAMILIES = ("recall", "ndcg", "mrr")


def ranks_of(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """1-based place of each target in its list; 0 where absent.

    Args:
        items: int (R, k) ranked items, −1 is padding.
        targets: int (R,) items.
    """
    hit = items == targets[:, None]
    return np.where(hit.any(1), hit.argmax(1) + 1, 0).astype(np.int32)


def metric_names(ks: Sequence[int] = KS) -> list[str]:
    """``recall@5, recall@10, …, mrr@50``: the columns of :func:`gain_table`."""
    return [f"{family}@{k}" for family in FAMILIES for k in ks]


def headline_cut(ks: Sequence[int]) -> int:
    """10, or the largest cut-off below; the smallest where all are larger: what tables put first."""
    return max((k for k in ks if k <= 10), default=min(ks))


def gain_table(ks: Sequence[int] = KS) -> np.ndarray:
    """float64 (max k + 1, 3·len(ks)): what a case with this rank adds to each metric; row 0 (absent) is zero."""
    rank = np.arange(1, max(ks) + 1, dtype=np.float64)
    gains = (np.ones_like(rank), 1.0 / np.log2(rank + 1), 1.0 / rank)
    columns = [np.where(rank <= k, gain, 0.0) for gain in gains for k in ks]
    return np.vstack([np.zeros(len(columns)), np.column_stack(columns)])


def gains(ranks: np.ndarray, ks: Sequence[int] = KS) -> np.ndarray:
    """float64 (N, 3·len(ks)) gains of each case; ranks beyond max(ks) count as absent."""
    return gain_table(ks)[np.where(ranks <= max(ks), ranks, 0)]


def exposures(items: np.ndarray, num_items: int, k: int) -> np.ndarray:
    """int64 (I,) how often each item stands in the first ``k`` places of the lists ``items`` (R, ≥k)."""
    shown = items[:, :k]
    return np.bincount(shown[shown >= 0], minlength=num_items)


def coverage(shown: np.ndarray) -> float:
    """Share of the catalog that is shown at all; ``shown`` (I,) are exposures."""
    return float(np.count_nonzero(shown) / len(shown))


def gini(shown: np.ndarray) -> float:
    """Inequality of exposures (I,): 0 when all items are shown alike, towards 1 when one item has everything."""
    total = shown.sum()
    if total == 0:
        return 0.0
    ordered = np.sort(shown).astype(np.float64)
    place = np.arange(1, len(shown) + 1)
    return float((2 * place - len(shown) - 1) @ ordered / (len(shown) * total))

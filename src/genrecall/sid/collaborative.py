"""Item vectors from behaviour: what is bought together, as a truncated SVD of positive pointwise mutual information.

    M_ab = max(0, log( n_ab · Σ n_b^α / (n_a · n_b^α) )),   M ≈ U S Vᵀ,   item vector = U √S, unit length

Source: Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization"; α = 0.75 as in Levy, Goldberg
and Dagan 2015, section 3.1. We deviate: items at equal timestamps (a basket, an invoice) have no order, so they are
neighbours at any distance up to ``basket``. Only training events may come in here, or the SIDs have seen the answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from genrecall.catalog.histories import Histories
from genrecall.sid.limits import require

_PAIRS_AT_ONCE = 8_000_000


@dataclass(frozen=True, kw_only=True)
class CollaborativeConfig:
    """Settings of the collaborative vectors.

    Attributes:
        dim: width of the vectors; a catalog with fewer items than that gets zeros in the rest.
        window: two events of a user count as neighbours within so many positions.
        basket: ... and within so many positions when their timestamps are equal.
        smoothing: α; below 1 it damps the pull of rare items.
        power_steps: of the randomised SVD; more is more exact.
    """

    dim: int = 64
    window: int = 5
    basket: int = 30
    smoothing: float = 0.75
    power_steps: int = 4

    def __post_init__(self) -> None:
        require(
            self,
            (
                ("dim", self.dim >= 1, "1 or more"),
                ("window", self.window >= 1, "1 or more"),
                ("basket", self.basket >= 0, "0 or more"),
                ("smoothing", self.smoothing > 0, "more than 0"),
                ("power_steps", self.power_steps >= 0, "0 or more"),
            ),
        )


def collaborative_vectors(
    histories: Histories, num_items: int, *, config: CollaborativeConfig | None = None, seed: int = 0
) -> np.ndarray:
    """Float32 (I, dim) rows of unit length; zeros for items that no neighbour was seen of."""
    config = config or CollaborativeConfig()
    left, right, counts = co_occurrences(histories, num_items, window=config.window, basket=config.basket)
    vectors = np.zeros((num_items, config.dim), np.float32)
    if not len(counts):
        return vectors
    matrix = _ppmi(left, right, counts, num_items, config.smoothing)
    rank = min(config.dim, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = torch.svd_lowrank(matrix, q=min(rank + 16, num_items), niter=config.power_steps)
    u, s = found[0][:, :rank], found[1][:rank]
    # The sign of a singular vector is arbitrary; fixing it makes equal data give equal vectors everywhere.
    signs = torch.where(u.gather(0, u.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    vectors[:, :rank] = (u * signs * s.sqrt()).numpy()
    return unit_rows(vectors)


def co_occurrences(
    histories: Histories, num_items: int, *, window: int, basket: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct ordered pairs (a, b), a ≠ b, and how often they were neighbours: int64, int64, float32; symmetric."""
    items = histories.items.astype(np.int64)
    user = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    pending: list[np.ndarray] = []
    active = np.arange(len(items))
    reach = max(window, basket) if histories.timed else window
    for distance in range(1, reach + 1):
        active = active[active + distance < len(items)]
        near = user[active] == user[active + distance]
        if distance > window:
            near &= histories.times[active] == histories.times[active + distance]
        active = active[near]  # histories are sorted: what is too far now stays too far
        if not len(active):
            break
        a, b = items[active], items[active + distance]
        pending.append((np.minimum(a, b) * num_items + np.maximum(a, b))[a != b])
        if sum(map(len, pending)) > _PAIRS_AT_ONCE:
            keys, counts = _merge(keys, counts, pending)
            pending = []
    keys, counts = _merge(keys, counts, pending)
    low, high = keys // num_items, keys % num_items
    return np.concatenate([low, high]), np.concatenate([high, low]), np.tile(counts, 2).astype(np.float32)


def _merge(keys: np.ndarray, counts: np.ndarray, more: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    new, new_counts = np.unique(np.concatenate([np.empty(0, np.int64), *more]), return_counts=True)
    merged, where = np.unique(np.concatenate([keys, new]), return_inverse=True)
    total = np.bincount(where, weights=np.concatenate([counts, new_counts]), minlength=len(merged))
    return merged, total.astype(np.int64)


def _ppmi(left: np.ndarray, right: np.ndarray, counts: np.ndarray, num_items: int, smoothing: float) -> torch.Tensor:
    """Sparse (I, I) float32."""
    marginal = np.bincount(left, weights=counts, minlength=num_items)
    context = marginal**smoothing
    values = np.log(counts * context.sum() / (marginal[left] * context[right]))
    keep = values > 0
    index = torch.from_numpy(np.stack([left[keep], right[keep]]))
    return torch.sparse_coo_tensor(
        index, torch.from_numpy(values[keep].astype(np.float32)), (num_items, num_items), check_invariants=False
    ).coalesce()


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-6).astype(np.float32)

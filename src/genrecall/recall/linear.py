"""A linear model of baskets: what else is in a basket, given all that is in it, each item counted for what it adds.

    P = (XᵀX + λI)⁻¹,    B[i, j] = max(−P[i, j] / P[j, j], 0),    M[i, j] = B[i, j] / (1 + n_j)^target_damping

where X (baskets, I) holds (|b| − 1)^(−size_damping/2) for the items of basket b. EASE (Steck, "Embarrassingly shallow
autoencoders for sparse data", WWW 2019) over baskets in place of users. Deviations: large baskets count less,
negative weights are left out and only the strongest of a row are kept, so that the matrix stays sparse (NDCG@10
0.0824 for 0.0834 on 4,000 of Online Retail's validation cases), popular targets are damped, and a history is read
with its older baskets counting less. The inverse takes O(I³) work and some 32 I² bytes, and tuning and teachers ask
for twenty of them, so catalogs above ``MOST_ITEMS`` have no such channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import CapacityError, ConfigError
from genrecall.recall.basket import shared_baskets
from genrecall.recall.neighbours import NeighbourChannel, check_history, keep_strongest
from genrecall.recall.selection import scipy_sparse

MOST_ITEMS = 8_000


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Settings of :class:`LinearChannel`; the defaults were chosen on Online Retail's validation cases.

    Attributes:
        size_damping: power of (basket size − 1) that divides a basket's pairs.
        ridge: λ.
        target_damping: power of 1 + training count that divides a column (0: none).
        last: newest history items that are read; None reads all.
        decay: weight of a history item one step older.
        session_weight: weight of history items that do not share the newest item's time.
        neighbours: strongest items kept an item; None keeps all.
    """

    size_damping: float = 0.5
    ridge: float = 20.0
    target_damping: float = 0.2
    last: int | None = 100
    decay: float = 0.99
    session_weight: float = 0.15
    neighbours: int | None = 200

    def __post_init__(self) -> None:
        check_history(self.last, self.decay, self.neighbours)
        if not 0 <= self.session_weight <= 1 or self.size_damping < 0 or self.ridge <= 0:
            raise ConfigError(
                "baskets cannot be modelled like this",
                seen=f"session_weight={self.session_weight}, size_damping={self.size_damping}, ridge={self.ridge}",
                allowed="0 <= session_weight <= 1, size_damping >= 0 and ridge > 0",
                fix="correct LinearConfig",
            )


class LinearChannel(NeighbourChannel[LinearConfig]):
    """Items that a ridge regression expects beside those of the newest basket."""

    name = "linear"
    counted_by = ("size_damping",)

    @classmethod
    def suited_to(cls, histories: Histories) -> LinearConfig:
        """The defaults."""
        return LinearConfig()

    @classmethod
    def count(cls, histories: Histories, num_items: int, config: LinearConfig) -> Any:
        """``XᵀX``: SciPy CSR float64 (I, I)."""
        if num_items > MOST_ITEMS:
            raise CapacityError(
                "the catalog is too large for a dense inverse",
                seen=f"{num_items:,} items",
                allowed=f"at most {MOST_ITEMS:,}",
                fix="leave the linear channel out; the basket channel counts the same pairs",
            )
        return shared_baskets(histories, num_items, config.size_damping)

    @classmethod
    def weigh(cls, counted: Any, counts: np.ndarray, config: LinearConfig) -> Any:
        """M, its ``neighbours`` strongest of each row."""
        gram = counted.toarray()
        gram[np.diag_indices_from(gram)] += config.ridge
        inverse = np.linalg.inv(gram)
        weights = np.maximum(inverse / -np.diag(inverse), 0.0)  # the diagonal is -1 before, so 0 after
        weights *= (1.0 + counts) ** -config.target_damping
        return keep_strongest(_strong(weights, config.neighbours), config.neighbours)


def _strong(weights: np.ndarray, neighbours: int | None) -> Any:
    """CSR of what may be among a row's strongest; sorting every entry of a dense matrix would take longer than it."""
    if neighbours is not None and neighbours < weights.shape[1]:
        least = np.partition(weights, -neighbours, axis=1)[:, -neighbours]
        weights = np.where(weights >= least[:, None], weights, 0.0)
    return scipy_sparse().csr_matrix(weights)

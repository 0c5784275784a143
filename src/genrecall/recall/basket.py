"""Basket counts: what stood in the same baskets as the items of the history, the newest basket first.

    M[i, j] = Σ_{baskets b ∋ i, j} (|b| − 1)^(−½) / √(n_i n_j),    score(j | h) = Σ_a decay^a · s(h_a) · M[h_a, j]

where s(h_a) is 1 for items that share the newest item's time and ``session_weight`` for older ones. Item-based top-N
(Deshpande & Karypis, TOIS 2004) over baskets in place of users. Deviation: large baskets count less for each pair, and
the current basket counts more than the past. Items with equal time are a basket; without ties nothing is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.neighbours import NeighbourChannel, check_history, keep_strongest
from genrecall.recall.selection import scipy_sparse


@dataclass(frozen=True, kw_only=True)
class BasketConfig:
    """Settings of :class:`BasketChannel`; the defaults were chosen on Online Retail's validation cases.

    Attributes:
        size_damping: power of (basket size − 1) that divides a basket's pairs.
        last: newest history items that are read; None reads all.
        decay: weight of a history item one step older.
        session_weight: weight of history items that do not share the newest item's time.
        neighbours: strongest items kept an item; None keeps all.
    """

    size_damping: float = 0.5
    last: int | None = 50
    decay: float = 0.97
    session_weight: float = 0.15
    neighbours: int | None = None

    def __post_init__(self) -> None:
        check_history(self.last, self.decay, self.neighbours)
        if not 0 <= self.session_weight <= 1 or self.size_damping < 0:
            raise ConfigError(
                "baskets cannot be counted like this",
                seen=f"session_weight={self.session_weight}, size_damping={self.size_damping}",
                allowed="0 <= session_weight <= 1 and size_damping >= 0",
                fix="correct BasketConfig",
            )


class BasketChannel(NeighbourChannel[BasketConfig]):
    """Items of the baskets that the history's items were in."""

    name = "basket"

    counted_by = ("size_damping",)

    @classmethod
    def suited_to(cls, histories: Histories) -> BasketConfig:
        """The defaults."""
        return BasketConfig()

    @classmethod
    def count(cls, histories: Histories, num_items: int, config: BasketConfig) -> Any:
        """Baskets that two items shared, large ones damped: SciPy CSR float64 (I, I) without diagonal."""
        together = shared_baskets(histories, num_items, config.size_damping)
        together.setdiag(0)
        together.eliminate_zeros()
        return together

    @classmethod
    def weigh(cls, counted: Any, counts: np.ndarray, config: BasketConfig) -> Any:
        """M: shared baskets, divided by the items' counts."""
        damped = scipy_sparse().diags(np.maximum(counts, 1) ** -0.5)
        return keep_strongest((damped @ counted @ damped).tocsr(), config.neighbours)


def shared_baskets(histories: Histories, num_items: int, size_damping: float) -> Any:
    """``Σ_{baskets b ∋ i, j} (|b| − 1)^(−size_damping)``, with its diagonal: SciPy CSR float64 (I, I)."""
    rows, items = histories.rows, histories.items
    opens = np.ones(len(items), dtype=bool)
    opens[1:] = (rows[1:] != rows[:-1]) | (histories.times[1:] != histories.times[:-1])
    basket = np.cumsum(opens) - 1
    sizes = np.bincount(basket)
    counted = sizes[basket] > 1 if histories.timed else np.zeros(len(items), dtype=bool)
    weights = (sizes[basket[counted]] - 1.0) ** (-size_damping / 2)
    shape = (len(sizes), num_items)
    owned = scipy_sparse().csr_matrix((weights, (basket[counted], items[counted])), shape=shape)
    return (owned.T @ owned).tocsr()

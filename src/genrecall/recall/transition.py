"""Transition counts: what came shortly after this item in other people's histories.

    T[i, j] = Σ_{users} Σ_{1 ≤ d ≤ window} f(d) · [h_t = i, h_{t+d} = j]
    M[i, j] = T[i, j] / (Σ_j' T[i, j'])^source_damping / (1 + n_j)^target_damping

First-order Markov chains with skips, after Shani, Heckerman & Brafman, "An MDP-based recommender system" (JMLR 2005).
Deviation: undirected counting (T + Tᵀ) on request, and partial instead of full row normalisation (``source_damping``
0.5 divides by the square root of the row's sum): it trusts frequent items more than a probability would.
Ties in time must have been shuffled in the histories, or the source's line order leaks into directed counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.neighbours import NeighbourChannel, check_history, keep_strongest
from genrecall.recall.selection import scipy_sparse

BASKET_SHARE = 0.3
"""From this share of tied neighbouring events on, histories are baskets rather than sequences."""


@dataclass(frozen=True, kw_only=True)
class TransitionConfig:
    """Settings of :class:`TransitionChannel`; the defaults suit sequences (see :func:`suited_to`).

    Attributes:
        window: largest distance of a counted pair, in events.
        directed: count i→j only (j later); otherwise both ways.
        distance: weight of a pair at distance d: ``inverse`` 1/d, ``halving`` 0.5^(d−1), ``flat`` 1.
        source_damping: power of the row's sum that divides a row (1: probabilities, 0: counts).
        target_damping: power of 1 + training count that divides a column (0: none).
        last: newest history items that are read; None reads all.
        decay: weight of a history item one step older.
        neighbours: strongest targets kept an item; None keeps all.
    """

    window: int = 5
    directed: bool = True
    distance: Literal["inverse", "halving", "flat"] = "inverse"
    source_damping: float = 0.3
    target_damping: float = 0.0
    last: int | None = 20
    decay: float = 0.5
    neighbours: int | None = None
    session_weight: ClassVar[float] = 1.0  # the whole history counts alike

    def __post_init__(self) -> None:
        check_history(self.last, self.decay, self.neighbours)
        if self.window < 1 or self.distance not in ("inverse", "halving", "flat"):
            raise ConfigError(
                "transitions cannot be counted like this",
                seen=f"window={self.window}, distance={self.distance!r}",
                allowed="window >= 1 and distance 'inverse', 'halving' or 'flat'",
                fix="correct TransitionConfig",
            )


def suited_to(histories: Histories) -> TransitionConfig:
    """The configuration for this kind of data, chosen by how many neighbouring events share their time.

    Sequences (each event has a time of its own): forward counts, fast decay; validated on Amazon Beauty, leave-one-out.
    Baskets (many events at one time, shuffled, so that order inside them says nothing): counts both ways without
    distance, popular targets damped, slow decay; validated on Online Retail and MovieLens 100K.
    """
    if in_baskets(histories):
        return TransitionConfig(
            window=6, directed=False, distance="flat", source_damping=0.5, target_damping=0.5, last=20, decay=0.9
        )
    return TransitionConfig()


def in_baskets(histories: Histories) -> bool:
    """Whether histories are baskets (many events at one time) rather than sequences."""
    neighbouring = histories.rows[1:] == histories.rows[:-1]
    tied = neighbouring & (histories.times[1:] == histories.times[:-1])
    return bool(histories.timed and tied.sum() > BASKET_SHARE * neighbouring.sum())


class TransitionChannel(NeighbourChannel[TransitionConfig]):
    """Items that follow the newest history items elsewhere."""

    name = "transition"
    counted_by = ("window", "directed", "distance")

    @classmethod
    def suited_to(cls, histories: Histories) -> TransitionConfig:
        """See :func:`suited_to`."""
        return suited_to(histories)

    @classmethod
    def count(cls, histories: Histories, num_items: int, config: TransitionConfig) -> Any:
        """T as SciPy CSR float64 (I, I)."""
        return count_transitions(histories, num_items, config)

    @classmethod
    def weigh(cls, counted: Any, counts: np.ndarray, config: TransitionConfig) -> Any:
        """M: T, damped."""
        return keep_strongest(_damped(counted, counts, config), config.neighbours)


def count_transitions(histories: Histories, num_items: int, config: TransitionConfig) -> Any:
    """T as SciPy CSR float64 (I, I). One distance at a time: memory is O(events + distinct pairs)."""
    sparse = scipy_sparse()
    users = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    items = histories.items
    total = sparse.csr_matrix((num_items, num_items), dtype=np.float64)
    for distance in range(1, config.window + 1):
        same_user = users[distance:] == users[:-distance]
        pairs = items[:-distance][same_user], items[distance:][same_user]
        weights = np.full(len(pairs[0]), _distance_weight(distance, config.distance))
        total = total + sparse.coo_matrix((weights, pairs), shape=(num_items, num_items)).tocsr()
    return total if config.directed else total + total.T.tocsr()


def _distance_weight(distance: int, rule: str) -> float:
    return {"inverse": 1.0 / distance, "halving": 0.5 ** (distance - 1), "flat": 1.0}[rule]


def _damped(matrix: Any, counts: np.ndarray, config: TransitionConfig) -> Any:
    """Divide rows and columns as configured."""
    sparse = scipy_sparse()
    sums = np.asarray(matrix.sum(1)).ravel()
    rows = np.divide(1.0, sums**config.source_damping, out=np.zeros_like(sums), where=sums > 0)
    columns = (1.0 + counts) ** -config.target_damping
    return (sparse.diags(rows) @ matrix @ sparse.diags(columns)).tocsr()

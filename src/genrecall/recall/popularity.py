"""The most popular items, the same for everybody: the yardstick that every channel must beat.

    score(j) = Σ over events of j  0.5^((t_last − t) / half-life)

After the time-decayed popularity baseline of Ji et al., "A re-visit of the popularity baseline in recommender systems"
(SIGIR 2020). Deviation: the clock stands still at the last training event, so that lists do not depend on when they
are asked for. Without a half-life this is the plain count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.selection import Popularity

_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class PopularityConfig:
    """Settings of :class:`PopularityChannel`.

    Attributes:
        half_life_days: days after which an event counts half; None counts all events alike.
    """

    half_life_days: float | None = None

    def __post_init__(self) -> None:
        if self.half_life_days is not None and not self.half_life_days > 0:
            raise ConfigError(
                "the half-life of popularity must be positive",
                seen=self.half_life_days,
                allowed="a number of days > 0, or None for no decay",
                fix="set half_life_days to None or to a positive number",
            )


class PopularityChannel:
    """Popular items, minus what the query excludes. Scores are (decayed) counts."""

    name = "popularity"

    def __init__(self, counts: np.ndarray, config: PopularityConfig) -> None:
        self.config = config
        self._popularity = Popularity(counts)

    @classmethod
    def fit(cls, histories: Histories, num_items: int, config: PopularityConfig | None = None) -> PopularityChannel:
        """Count the training events of each of ``num_items`` items."""
        config = config or PopularityConfig()
        if config.half_life_days is None:
            return cls(histories.item_counts(num_items).astype(np.float64), config)
        if not histories.timed:
            raise ConfigError(
                "popularity with a half-life needs timestamps",
                seen="events that only have an order",
                allowed="events with a timestamp column, or half_life_days=None",
                fix="leave half_life_days out for this data set",
            )
        age_days = (histories.times.max(initial=0) - histories.times) / _SECONDS_A_DAY
        weights = np.exp2(-age_days / config.half_life_days)
        return cls(np.bincount(histories.items, weights, minlength=num_items), config)

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) (decayed) training events by item."""
        return self._popularity.counts

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The ``k`` most popular items that each query does not exclude."""
        items = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for row, query in enumerate(queries):
            exclude = query.exclude[(query.exclude >= 0) & (query.exclude < len(self._popularity))]
            found = self._popularity.first(k, exclude, query.available)
            items[row, : len(found)] = found
            scores[row, : len(found)] = self._popularity.counts[found]
        return Candidates(items=items, scores=scores)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration, make the channel again: ``counts`` float64 (I,)."""
        return {"counts": self._popularity.counts}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: PopularityConfig) -> PopularityChannel:
        """The channel whose ``state()`` this was."""
        return cls(np.asarray(state["counts"], dtype=np.float64), config)

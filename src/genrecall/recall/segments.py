"""What is popular among users like this one: counts by the value of one profile column.

    score(j | s) = (n_sj + α · n_j / n) / (n_s + α)

Smoothing with a Dirichlet prior (Zhai & Lafferty, "A study of smoothing methods for language models applied to
information retrieval", TOIS 2004): small segments fall back on everybody. Deviation: users of no known segment get the
popular items with score 0, that is, without evidence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.errors import ConfigError
from genrecall.recall.channel import Candidates, Query
from genrecall.recall.selection import Popularity

Profiles = Callable[[int], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of :class:`SegmentChannel`.

    Attributes:
        column: of the profile.
        prior: α, in events.
        min_users: segments of fewer training users are nobody's.
    """

    column: str
    prior: float = 100.0
    min_users: int = 5

    def __post_init__(self) -> None:
        if not self.column or self.prior <= 0 or self.min_users < 1:
            raise ConfigError(
                "popularity cannot be counted by segment like this",
                seen=f"column={self.column!r}, prior={self.prior}, min_users={self.min_users}",
                allowed="a profile column, prior > 0, min_users >= 1",
                fix="correct SegmentConfig",
            )


class SegmentChannel:
    """Popular items of the user's segment, minus what the query excludes.

    Args:
        segments: values of the column, in the order of ``segment_counts``.
        segment_counts: float64 (S, I) training events.
        counts: float64 (I,) those of everybody.
        config: settings.
    """

    name = "popularity_segment"

    def __init__(
        self, segments: Sequence[str], segment_counts: np.ndarray, counts: np.ndarray, config: SegmentConfig
    ) -> None:
        self.config, self.segments = config, list(segments)
        self._counts, self._everybody = segment_counts, Popularity(np.asarray(counts, dtype=np.float64))
        self._orders: dict[str, Popularity] = {}

    @classmethod
    def fit(cls, histories: Histories, num_items: int, config: SegmentConfig, profile_of: Profiles) -> Self:
        """Count training events by segment; ``profile_of`` gives a user's profile by row of ``histories``.

        Raises:
            ConfigError: no segment has enough users.
        """
        active = np.flatnonzero(histories.lengths > 0).tolist()
        values = {user: value for user in active if (value := profile_of(user).get(config.column))}
        users = Counter(values.values())
        segments = sorted(value for value, count in users.items() if count >= config.min_users)
        if not segments:
            raise ConfigError(
                "no segment has enough users",
                seen=f"column {config.column}: {dict(users.most_common(3)) or 'no values'}",
                allowed=f"a profile column with a value that {config.min_users} training users share",
                fix="name another profile column (--segment), or give users such a column",
            )
        place = {value: row for row, value in enumerate(segments)}
        row_of = np.array([place.get(values.get(user, ""), -1) for user in range(len(histories))])
        rows = np.repeat(row_of, histories.lengths)
        counted = np.zeros((len(segments), num_items))
        np.add.at(counted, (rows[rows >= 0], histories.items[rows >= 0]), 1)
        return cls(segments, counted, histories.item_counts(num_items), config)

    @property
    def counts(self) -> np.ndarray:
        """float64 (I,) training events by item, of everybody."""
        return self._everybody.counts

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items of each query."""
        items = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for row, query in enumerate(queries):
            order = self._of(query.profile.get(self.config.column))
            exclude = query.exclude[(query.exclude >= 0) & (query.exclude < len(self._everybody))]
            found = (order or self._everybody).first(k, exclude, query.available)
            items[row, : len(found)] = found
            scores[row, : len(found)] = 0.0 if order is None else order.counts[found]
        return Candidates(items=items, scores=scores)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that, with the configuration, make the channel again."""
        told = json.dumps(self.segments, ensure_ascii=False).encode()
        rows, items = np.nonzero(self._counts)
        return {
            "segments": np.frombuffer(told, np.uint8).copy(),
            "rows": rows.astype(np.int32),
            "items": items.astype(np.int32),
            "values": self._counts[rows, items],
            "counts": self._everybody.counts,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: SegmentConfig) -> Self:
        """The channel whose ``state()`` this was."""
        segments = json.loads(np.asarray(state["segments"]).tobytes().decode())
        counted = np.zeros((len(segments), len(state["counts"])))
        counted[state["rows"], state["items"]] = state["values"]
        return cls(segments, counted, state["counts"], config)

    def _of(self, segment: str | None) -> Popularity | None:
        """Scores and order of a segment, made on first use."""
        if segment not in self.segments:
            return None
        if segment not in self._orders:
            own, everybody = self._counts[self.segments.index(segment)], self._everybody.counts
            prior = self.config.prior * everybody / max(everybody.sum(), 1.0)
            self._orders[segment] = Popularity((own + prior) / (own.sum() + self.config.prior))
        return self._orders[segment]

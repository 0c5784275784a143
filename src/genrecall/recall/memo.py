"""A channel that is asked once: fusion and evaluation want the same lists, and beams are not cheap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.recall.channel import Candidates, Channel, Query


class Remembered:
    """Answers like ``channel``, and keeps what it answered.

    Args:
        channel: asked of what is not known yet, always for ``depth`` items.
        depth: the longest list that will be asked for.
    """

    def __init__(self, channel: Channel, depth: int) -> None:
        self.channel, self.depth = channel, depth
        self._known: dict[tuple[object, ...], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def name(self) -> str:
        """The channel's."""
        return self.channel.name

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` ≤ ``depth`` items of each query."""
        assert k <= self.depth, "lists are remembered up to their depth"
        keys = [_key(query) for query in queries]
        fresh = {key: query for key, query in zip(keys, queries, strict=True) if key not in self._known}
        if fresh:
            found = self.channel.recall(list(fresh.values()), self.depth)
            self._known |= dict(zip(fresh, zip(found.items, found.scores, strict=True), strict=True))
        known = [self._known[key] for key in keys]
        return Candidates(
            items=np.stack([items[:k] for items, _ in known]), scores=np.stack([scores[:k] for _, scores in known])
        )


def _key(query: Query) -> tuple[object, ...]:
    times = None if query.times is None else query.times.tobytes()
    profile = tuple(sorted(query.profile.items()))
    return (query.history.tobytes(), times, query.excluded.tobytes(), profile, query.text)

"""Small worlds of lists: some channels, some requests, and strategies that draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from genrecall.recall.channel import Candidates
from genrecall.recall.selection import Popularity

NUM_ITEMS = 12
COUNTS = np.array([5, 5, 4, 3, 3, 3, 2, 2, 1, 1, 0, 0], np.float64)
POPULARITY = Popularity(COUNTS)

Row = Sequence[tuple[int, float]]


def answers(*rows: Row, k: int | None = None) -> Candidates:
    """Candidates of one channel: each row as (item, score) pairs, best first."""
    width = max([k or 0, *(len(row) for row in rows)])
    items = np.full((len(rows), width), -1, np.int32)
    scores = np.full((len(rows), width), -np.inf, np.float32)
    for number, row in enumerate(rows):
        for place, (item, score) in enumerate(row):
            items[number, place], scores[number, place] = item, score
    return Candidates(items=items, scores=scores)


@st.composite
def rankings(draw: st.DrawFn, requests: int, sign: int = 1) -> Candidates:
    """One channel's lists, strictly falling scores of one sign."""
    rows = []
    for _ in range(requests):
        items = draw(st.lists(st.integers(0, NUM_ITEMS - 1), unique=True, max_size=8))
        steps = draw(st.lists(st.integers(1, 5), min_size=len(items), max_size=len(items)))
        scores = np.cumsum(steps)[::-1] if sign > 0 else -np.cumsum(steps)
        rows.append([(item, float(score)) for item, score in zip(items, scores, strict=True)])
    return answers(*rows, k=8)


def several(requests: int = 3, channels: int = 3) -> st.SearchStrategy[dict[str, Candidates]]:
    """Channels named c0, c1, …; every second one scores below zero, as log-probabilities do."""
    drawn = st.fixed_dictionaries({f"c{c}": rankings(requests, 1 - 2 * (c % 2)) for c in range(channels)})
    return drawn.map(lambda candidates: dict(sorted(candidates.items())))

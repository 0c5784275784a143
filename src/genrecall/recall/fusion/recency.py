"""How long an item has been there and whether it is still asked for: what counts of all times do not tell.

    age(j) = ln(1 + days since j's first event)     idle(j) = ln(1 + days since its last)
    trend(j) = ln (1 + events of j in the newest tenth) / (1 + a tenth of all events of j)

Recent popularity beside the count of all times, after Ji et al., "A re-visit of the popularity baseline in recommender
systems" (SIGIR 2020). Deviations: logarithms, for a scorer to weigh; the clock stands still at the last training event.
Co-occurrence knows little of a young item, so that those who rank it rank it too low.
"""

from __future__ import annotations

import numpy as np

from genrecall.catalog.histories import Histories

NAMES = ("age", "idle", "trend")
_SECONDS_A_DAY, _NEWEST = 86_400.0, 0.1


def recency(histories: Histories, num_items: int) -> np.ndarray | None:
    """float32 (I, 3) of the training events; None where their times cannot be compared between users.

    An item without events came at the last one, and is idle since before the first.
    """
    times, items = histories.times, histories.items
    if not histories.timed or len(times) == 0:
        return None
    begin, end = times.min(), times.max()
    first, last = np.full(num_items, end), np.full(num_items, begin)
    np.minimum.at(first, items, times)
    np.maximum.at(last, items, times)
    fresh = times >= np.sort(times)[int(len(times) * (1 - _NEWEST))]
    newest = np.bincount(items[fresh], minlength=num_items)
    expected = fresh.mean() * np.bincount(items, minlength=num_items)
    age, idle = (np.log1p((end - moment) / _SECONDS_A_DAY) for moment in (first, last))
    return np.stack([age, idle, np.log((1 + newest) / (1 + expected))], axis=1).astype(np.float32)

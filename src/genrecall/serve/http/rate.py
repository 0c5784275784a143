"""Token buckets: so many requests a second of one caller, with a burst of two seconds' worth."""

from __future__ import annotations

import time

_BURST_S = 2.0
_CALLERS = 10_000


class Rate:
    """Limits of all callers.

    Args:
        per_s: requests a second; None: unlimited.
    """

    def __init__(self, per_s: float | None) -> None:
        self._per_s = per_s
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, caller: str) -> float:
        """0 if the caller may ask now (it is counted), else the seconds until it may."""
        if self._per_s is None:
            return 0.0
        now, most = time.monotonic(), max(self._per_s * _BURST_S, 1.0)
        level, then = self._buckets.pop(caller, (most, now))
        level = min(most, level + (now - then) * self._per_s)
        wait = 0.0 if level >= 1.0 else (1.0 - level) / self._per_s
        self._buckets[caller] = (level if wait else level - 1.0, now)
        if len(self._buckets) > _CALLERS:
            self._buckets.pop(next(iter(self._buckets)))  # the one that was quiet for longest: its bucket is full
        return wait

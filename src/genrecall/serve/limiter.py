"""How many requests may be on their way: as many as are answered in time.

    L ← L + 1/L     for an answer in time while L was in use
    L ← L · 0.8     for a late one, at most once a deadline

Additive increase, multiplicative decrease (Chiu & Jain, "Analysis of the increase and decrease algorithms for
congestion avoidance", 1989), as in adaptive concurrency limits (Netflix, Envoy). Deviation: late is measured against
the deadline instead of the fastest answer seen, and counts how far the event loop lags behind: what waits for it is not
seen.
"""

from __future__ import annotations

import asyncio
import time

_LATE = 0.8  # of the deadline
_BACK_OFF, _LEAST = 0.8, 4.0
_LOOK_S = 0.02


class Limiter:
    """The limit of one listener.

    Args:
        most: the limit never passes this.
        deadline_s: at most one step back in so long.
    """

    def __init__(self, most: int, deadline_s: float) -> None:
        self._most, self._deadline_s = float(most), deadline_s
        self.limit = min(32.0, self._most)
        self.lag_s = 0.0
        self._stepped_back = time.monotonic()

    def answered(self, seconds: float, deadline_s: float, inflight: int) -> None:
        """An answer went out after so many seconds, with so many others on their way."""
        if seconds + self.lag_s > _LATE * deadline_s:
            now = time.monotonic()
            if now - self._stepped_back > self._deadline_s:
                self.limit = max(self.limit * _BACK_OFF, _LEAST)
                self._stepped_back = now
        elif inflight + 1 >= self.limit / 2:
            self.limit = min(self.limit + 1 / self.limit, self._most)

    async def watch(self) -> None:
        """Measure how late the event loop comes round; runs until cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            lag_s = time.monotonic() - begun - _LOOK_S
            self.lag_s = max(lag_s, 0.7 * self.lag_s)

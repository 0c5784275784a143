"""How many requests may be on their way: as many as the gateway and the classic channels turn over quickly.

    L ← L + (1 − lag/most) / L     for an answer that was quick while L was in use
    L ← L · 0.8                    for a slow one, at most once in its own time; and, down to half of where it began,
                                   for each look that sees a lag above the most while half of L or more was in use

Additive increase, multiplicative decrease (Chiu & Jain, "Analysis of the increase and decrease algorithms for
congestion avoidance", 1989), as in adaptive concurrency limits (Netflix, Envoy). Deviations: what waits for the engine
alone does not count, neither its number nor its time: the engine has limits of its own (``admission``), and requests
that are parked there would fill this one with what costs nothing while cheap answers are refused. Slow is measured
against a part of the service's deadline instead of the fastest answer seen; and how far the event loop lags behind
counts, too, in time and by itself: requests wait for it before anybody sees them, those that are refused as well. A lag
with little on its way is another program's or made of refusals, and letting in less would not mend it.
"""

from __future__ import annotations

import asyncio
import math
import time

_SLOW = 0.2  # of the deadline
_BACK_OFF, _LEAST = 0.8, 4.0
_LAG_S = 0.01  # a refusal waits for a turn of the loop
_EASY = 32.0  # where it begins, and grows to while nobody needs more: short bursts are no overload
_LOOK_S, _JUST_NOW_S = 0.02, 0.1


class Limiter:
    """The limit of one listener.

    Args:
        most: requests on their way, at most, those that are parked among them.
        deadline_s: of requests that name none.

    Attributes:
        parked: requests that wait for the engine.
    """

    def __init__(self, most: int, deadline_s: float) -> None:
        self._most, self._slow_s = most, _SLOW * deadline_s
        self.limit = min(_EASY, float(most))
        self.lag_s, self.parked, self._inflight = 0.0, 0, 0
        self._stepped_back = time.monotonic()
        self._refused = -math.inf

    def is_full(self, inflight: int) -> bool:
        """Whether there is no room for another, with so many on their way; then it is to be refused."""
        self._inflight = inflight
        if inflight - self.parked < self.limit and inflight < self._most:
            return False
        self._refused = time.monotonic()
        return True

    @property
    def is_refusing(self) -> bool:
        """Whether there was no room just now."""
        return time.monotonic() - self._refused < _JUST_NOW_S

    def answered(self, seconds: float, inflight: int) -> None:
        """An answer took so many seconds beside the engine's, with so many on their way, itself among them."""
        if seconds + self.lag_s > self._slow_s:
            # What was on its way at a step back knows nothing of it yet.
            if time.monotonic() - self._stepped_back > seconds:
                self._step_back()
        elif inflight - self.parked >= self.limit / 2 or self.limit < _EASY:
            self.limit = min(self.limit + max(1 - self.lag_s / _LAG_S, 0.0) / self.limit, float(self._most))

    async def watch(self) -> None:
        """Measure how late the event loop comes round; runs until cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            lag_s = time.monotonic() - begun - _LOOK_S
            self.lag_s = max(lag_s, 0.7 * self.lag_s)
            if lag_s > _LAG_S and self._inflight - self.parked >= self.limit / 2 and self.limit > _EASY / 2:
                self._step_back(_EASY / 2)

    def _step_back(self, least: float = _LEAST) -> None:
        self.limit = max(self.limit * _BACK_OFF, least)
        self._stepped_back = time.monotonic()

"""The highest rate of arrivals that a service answers whole.

    holds(r):  p99 of the answers ≤ deadline,  and at most 1% of the requests are degraded, refused or failed
    r ← 2r while it holds, r ← r/2 while it does not, then r ← √(low · high) until high ≤ 1.1 low

Bisection, on logarithms, because not even the order of magnitude is known before. Arrivals are Poisson's, whether or
not others were answered (Schroeder, Wierman & Harchol-Balter 2006, "Open versus closed"): beyond its capacity a service
degrades most answers, so what askers in a closed loop get whole says little of it. Deviation: a rate that fails
narrowly is tried once more, since one stall of a machine that others share is more than 1% of a short phase.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from genrecall.bench.serve.figures import Figures

_STEP, _NEAR = 2.0, 1.1
MOST_LACKING, _NARROWLY = 0.01, 0.05


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One phase of the search.

    Attributes:
        deadline_ms: of each request.
        figures: what became of them.
    """

    deadline_ms: float
    figures: Figures

    @property
    def rate(self) -> float:
        """Requests a second that arrived."""
        return float(self.figures["rate_per_s"])

    @property
    def holds(self) -> bool:
        """Whether the rate is answered whole, and was really asked."""
        answered = self.figures["answered_ms"]
        in_time = answered is not None and answered["p99"] <= self.deadline_ms
        return self.figures["lacking_share"] <= MOST_LACKING and in_time and self.was_asked

    @property
    def fails_narrowly(self) -> bool:
        """Whether a stall could have made it fail."""
        return not self.holds and self.figures["lacking_share"] <= _NARROWLY

    @property
    def was_asked(self) -> bool:
        """Whether this generator kept up: one that is later than the deadline asks for less."""
        return bool(self.figures["generator_late_ms"]["p99"] <= self.deadline_ms)

    @property
    def was_calm(self) -> bool:
        """Whether the service had come back from the phase before: if not, that one may have made this one fail."""
        return bool(self.figures["calm"])


async def highest(
    probe: Callable[[float, int], Awaitable[Tried]], *, start: float, floor: float, probes: int
) -> tuple[Tried | None, list[Tried]]:
    """The phase of the highest rate that holds, None where not even ``floor`` does; and all phases.

    Args:
        probe: measures at a rate; the second number is its seed.
        start: requests a second that are tried first.
        floor: what is not worth looking below.
        probes: phases, at most.
    """
    best: Tried | None = None
    tried: list[Tried] = []
    rate, high, doubted = max(start, floor), math.inf, False
    while len(tried) < probes:
        found = await probe(rate, len(tried))
        tried.append(found)
        if not found.was_asked:  # says nothing of the service, and higher rates will not either
            break
        doubted = found.fails_narrowly and not doubted
        if doubted:
            continue
        if found.holds:
            best = found
        else:
            high = rate
        if best is None:
            if rate == floor:
                break
            rate = max(rate / _STEP, floor)
        elif high <= _NEAR * best.rate:
            break
        else:
            rate = best.rate * _STEP if high == math.inf else math.sqrt(best.rate * high)
    return best, tried


def settled(best: Tried | None, tried: Sequence[Tried]) -> bool:
    """Whether a search ended between two rates, and not because it had no phases left, its generator was late, or the
    service had not come back from the phase before."""
    failed = [one.rate for one in tried if not one.holds and one.was_asked and one.was_calm]
    return any(best is None or rate <= 1.01 * _NEAR * best.rate for rate in failed)

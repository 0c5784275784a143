"""What a running service answers whole, what it does at three times its capacity, and afterwards.

It has two capacities: the highest rate that it answers whole, every channel asked at full width (``search``), and its
peak, where the engine is left out of most answers (closed loop). ``light`` is half of the first, ``quiet`` half of the
second. ``calm`` is whether the service had come back from the load before, in phases that wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from genrecall.bench.serve.asking import Asking, ServeBench
from genrecall.bench.serve.figures import Figures, figures, good, lacking
from genrecall.bench.serve.search import MOST_LACKING, Tried, highest, settled
from genrecall.bench.serve.warm import Warmth, calmed, warmed
from genrecall.errors import ConfigError
from genrecall.serve.chaos.load import Outcomes, recovered
from genrecall.serve.event_loop import event_loop
from genrecall.telemetry import Bar, progress

_WORKERS = (1, 4, 16, 48)
_LEAST_PER_S = 1.0
_PROBES = 9
_LEAST_ASKED = 100  # in a phase of the search: of fewer, 1% is less than one
_CALM_S = 5.0


def measure(bench: ServeBench) -> dict[str, Any]:
    """Both capacities, and all phases; every figure that the table shows.

    Raises:
        ConfigError: nothing answers at that address, or nothing by the deadline.
    """
    return _with(bench, _capacities)


def measure_rates(bench: ServeBench, rates: Sequence[float]) -> dict[str, Any]:
    """Open-loop phases at these rates, requests a second, and nothing else.

    Raises:
        ConfigError: nothing answers at that address.
    """
    return _with(bench, lambda phases: _stated(phases, rates))


class _Phases:
    """Loads one service, phase by phase.

    Args:
        bench: settings.
        asking: its clients.
        warmth: what warming it up came to; a service that answers nothing whole then is not waited for later.
        bar: what is told of every phase.
    """

    def __init__(self, bench: ServeBench, asking: Asking, warmth: Warmth, bar: Bar) -> None:
        self.bench, self.warmth = bench, warmth
        self._asking, self._bar, self._upset = asking, bar, False

    async def closed(self, workers: int) -> Outcomes:
        """Half a phase with so many askers."""
        outcomes = await self._asking.timely.closed(workers, self.bench.seconds / 2)
        return self._over(f"{workers} askers", outcomes)

    async def open(self, name: str, rate: float, seconds: float, seed: int) -> Outcomes:
        """Arrivals of ``rate`` a second."""
        outcomes = await self._asking.timely.open(rate, seconds, self.bench.seed + seed)
        return self._over(f"{name}, {rate:.1f}/s", outcomes)

    async def calm(self) -> bool:
        """Let no phase pay for an overload before it; whether the service answers whole again."""
        return not self._upset or (self.warmth.whole and await calmed(self._asking, _CALM_S))

    async def probe(self, rate: float, seed: int) -> Tried:
        """One phase of the search; up to four times as long where few would ask in it."""
        seconds = max(self.bench.seconds / 2, min(_LEAST_ASKED / rate, 2 * self.bench.seconds))
        calm = await self.calm()
        found = self.told(await self.open("search", rate, seconds, seed), rate)
        return Tried(deadline_ms=self.bench.deadline_ms, figures={**found, "calm": calm})

    def _over(self, name: str, outcomes: Outcomes) -> Outcomes:
        self._bar.advance(phase=name)
        self._upset = lacking(outcomes) > MOST_LACKING
        return outcomes

    def told(self, outcomes: Outcomes, rate: float) -> Figures:
        """Figures of an open-loop phase."""
        return {"rate_per_s": round(rate, 2), **figures(outcomes, self.bench.deadline_ms)}


def _with(bench: ServeBench, work: Callable[[_Phases], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    asking = Asking(bench)

    async def run() -> dict[str, Any]:
        with progress("phases") as bar:
            warmth = await warmed(asking, bench.deadline_ms / 1e3, bench.warm_s)
            bar.advance(phase="warm-up")
            told = await work(_Phases(bench, asking, warmth, bar))
        asking.close()
        warm = {"seconds": round(warmth.seconds, 2), "alone_ms": round(warmth.alone_ms, 2), "whole": warmth.whole}
        return {"users": len(asking.users), "deadline_ms": bench.deadline_ms, "warm_up": warm, **told}

    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(run())


async def _stated(phases: _Phases, rates: Sequence[float]) -> dict[str, Any]:
    told = []
    for seed, rate in enumerate(rates):
        calm = await phases.calm()
        found = phases.told(await phases.open("stated", rate, phases.bench.seconds, seed), rate)
        told.append({**found, "calm": calm})
    return {"rates": told}


async def _capacities(phases: _Phases) -> dict[str, Any]:
    bench, deadline_ms = phases.bench, phases.bench.deadline_ms
    closed = {workers: await phases.closed(workers) for workers in _WORKERS}
    peaks = {workers: good(outcomes, deadline_ms) for workers, outcomes in closed.items()}
    best = max(peaks, key=lambda workers: peaks[workers])
    peak = peaks[best]
    if not peak:
        statuses = sorted({status for outcomes in closed.values() for status in outcomes.status})
        raise ConfigError(
            "the service answers nothing by the deadline", seen=f"HTTP {statuses} within {deadline_ms} ms",
            allowed="a deadline that it keeps when it is asked one by one", fix="raise --deadline-ms; see /health",
        )  # fmt: skip
    whole, tried = await _whole(phases, closed)
    whole_per_s = 0.0 if whole is None else whole.rate
    calm = await phases.calm()
    light_per_s, quiet_per_s = (max(most * bench.load, _LEAST_PER_S) for most in (whole_per_s, peak))
    light = await phases.open("light", light_per_s, bench.seconds, 0)
    quiet = await phases.open("quiet", quiet_per_s, bench.seconds, 0)
    over = await phases.open("overload", peak * bench.overload, bench.seconds, 1)
    after = await phases.open("after", quiet_per_s, bench.seconds, 2)
    # Machines that others share change their speed within a minute.
    middle = (peak + good(await phases.closed(best), deadline_ms)) / 2
    return {
        "whole_per_s": round(whole_per_s, 1),
        "whole_is_settled": settled(whole, tried),
        "peak_per_s": round(peak, 1),
        "peak_around_per_s": round(middle, 1),
        "whole": None if whole is None else whole.figures,
        "search": [{"holds": one.holds, **one.figures} for one in tried],
        "light": {**phases.told(light, light_per_s), "calm": calm},
        "quiet": phases.told(quiet, quiet_per_s),
        "overload": {
            **phases.told(over, peak * bench.overload),
            "goodput_of_peak": round(good(over, deadline_ms) / middle, 3),
        },
        "after": {**phases.told(after, quiet_per_s), "recovery_s": recovered(quiet, after)},
    }


async def _whole(phases: _Phases, closed: Mapping[int, Outcomes]) -> tuple[Tried | None, list[Tried]]:
    """The highest rate that is answered whole, sought from the closed loops on that were."""
    rates = [good(o, phases.bench.deadline_ms, whole=True) for o in closed.values() if lacking(o) <= MOST_LACKING]
    if not rates and not phases.warmth.whole:
        return None, []
    alone = good(closed[1], phases.bench.deadline_ms, whole=True)
    return await highest(phases.probe, start=max([alone, *rates]), floor=_LEAST_PER_S, probes=_PROBES)

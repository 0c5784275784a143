"""Load on an engine: closed loop for the rate that saturates it, open loop for what a user waits at a given rate.

Open loop: requests arrive as a Poisson process whether or not others have been answered, and latency counts from the
arrival, so that queueing is seen (Schroeder, Wierman & Harchol-Balter 2006, "Open versus closed"). One thread arrives
and drives the engine; a late arrival is counted from when it should have come.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Answer, Request
from genrecall.engine.loop import Outcome


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Answers of an open loop.

    Attributes:
        rate: requests per second that arrived.
        answered: requests per second that were answered.
        p50_ms, p95_ms, p99_ms: from arrival to answer.
        refused: requests without an answer.
    """

    rate: float
    answered: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int

    @classmethod
    def of(cls, rate: float, waits: Sequence[float], seconds: float, refused: int) -> Latency:
        """From the answers' seconds, and how long it took until all were there."""
        p50, p95, p99 = (1e3 * np.percentile(waits, [50, 95, 99])).tolist() if waits else (np.inf,) * 3
        answered = len(waits) / seconds
        return cls(rate=rate, answered=answered, p50_ms=p50, p95_ms=p95, p99_ms=p99, refused=refused)


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Answers of a closed loop.

    Attributes:
        rate: requests per second that were answered.
        longest_gap_ms: the longest time in which none was.
    """

    rate: float
    longest_gap_ms: float


def saturated(
    engine: Engine,
    make: Callable[[int], Request],
    *,
    outstanding: int,
    seconds: float,
    meanwhile: Callable[[], None] = lambda: None,
    submit: Callable[[int, Callable[[Outcome], None]], object] | None = None,
) -> Closed:
    """The rate while ``outstanding`` requests are always there; the first third of the time does not count.

    Args:
        engine: asked.
        make: requests by number.
        outstanding: how many wait or run.
        seconds: of load.
        meanwhile: called between two moves of the engine.
        submit: asks for something else than answers to ``make``.
    """
    done: list[float] = []
    given = 0
    ask = submit or (lambda number, deliver: engine.submit(make(number), deliver))

    def deliver(outcome: Outcome) -> None:
        assert isinstance(outcome, Answer | np.ndarray), f"every request of a benchmark is answered, not: {outcome}"
        done.append(time.perf_counter())

    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(done) < 2:
        while given - len(done) < outstanding:
            ask(given, deliver)
            given += 1
        engine.advance()
        meanwhile()
    while not engine.loop.idle:
        engine.advance()
    begin, end = start + seconds / 3, start + seconds
    stamps = np.array([stamp for stamp in done if begin <= stamp <= end] or [0.0])
    rate = slope(stamps) if len(stamps) > outstanding else len(done) / (done[-1] - start)
    return Closed(rate=rate, longest_gap_ms=1e3 * float(np.diff(stamps).max(initial=0.0)))


def slope(stamps: np.ndarray) -> float:
    """Answers per second of a stretch of a steady load, by least squares over float64 (n,) times of answers.

    Batches come at once: a count over a stretch is off by up to a batch, the slope of a staircase is not.
    """
    centred = stamps - stamps.mean()
    return float(centred @ np.arange(len(stamps)) / (centred @ centred))


def open_loop(engine: Engine, make: Callable[[int], Request], *, rate: float, seconds: float, seed: int = 0) -> Latency:
    """Latencies at a rate of arrivals."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, max(int(rate * seconds), 2)))
    waits: list[float] = []
    refused = 0
    start = time.perf_counter()

    def deliver_from(arrival: float) -> Callable[[Outcome], None]:
        def deliver(outcome: Outcome) -> None:
            nonlocal refused
            if isinstance(outcome, Answer):
                waits.append(time.perf_counter() - start - arrival)
            else:
                refused += 1

        return deliver

    given = 0
    while given < len(arrivals) or not engine.loop.idle:
        now = time.perf_counter() - start
        while given < len(arrivals) and arrivals[given] <= now:
            engine.submit(make(given), deliver_from(float(arrivals[given])))
            given += 1
        if engine.loop.idle:
            time.sleep(min(max(arrivals[given] - now, 0.0), 5e-5) if given < len(arrivals) else 0.0)
        else:
            engine.advance()
    return Latency.of(rate, waits, time.perf_counter() - start, refused)


def alone_seconds(engine: Engine, make: Callable[[int], Request], *, requests: int, pause_s: float) -> float:
    """Median latency of requests that come one by one, each ``pause_s`` after the answer before: a lone user keeps no
    device warm, and is never batched with anybody. Two rounds before it compile and capture their sizes.
    """
    seconds: list[float] = []
    for pause in (0.0, 0.0, pause_s):
        seconds.clear()
        for number in range(requests):
            time.sleep(pause)
            start = time.perf_counter()
            engine.generate([make(number)])
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def highest_rate(
    probe: Callable[[float, int], Latency], *, slo_ms: float, ceiling: float, probes: int
) -> tuple[Latency | None, Sequence[Latency]]:
    """The highest rate below ``ceiling`` whose p99 keeps the objective, by bisection; and all probes.

    Args:
        probe: measures at a rate; the second number is its seed.
        slo_ms: the objective.
        ceiling: requests per second that cannot be had.
        probes: rates that are tried.
    """
    low, high = 0.0, ceiling
    best, tried = None, []
    for number in range(probes):
        rate = 0.8 * ceiling if number == 0 else (low + high) / 2
        found = probe(rate, number)
        tried.append(found)
        if found.p99_ms <= slo_ms and not found.refused:
            low, best = rate, found
        else:
            high = rate
    return best, tried


Ask = Callable[[int], Awaitable[None]]
"""Asks for the request of this number and returns once it has its answer."""


async def saturated_by(ask: Ask, *, outstanding: int, seconds: float) -> float:
    """Answers a second while ``outstanding`` askers wait; the first third of the time does not count."""
    done: list[float] = []
    numbers, start = itertools.count(), time.perf_counter()

    async def asker() -> None:
        while time.perf_counter() - start < seconds or len(done) < 2:
            await ask(next(numbers))
            done.append(time.perf_counter())

    await asyncio.gather(*(asker() for _ in range(outstanding)))
    begin, end = start + seconds / 3, start + seconds
    counted = sum(begin <= stamp <= end for stamp in done)
    return counted / (end - begin) if counted > outstanding else len(done) / (done[-1] - start)


async def arriving(ask: Ask, *, rate: float, seconds: float, seed: int = 0) -> Latency:
    """As ``open_loop``, of whatever can be awaited."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, max(int(rate * seconds), 2)))
    start = time.perf_counter()

    async def one(number: int, arrival: float) -> float:
        await ask(number)
        return time.perf_counter() - start - arrival

    asked = []
    for number, arrival in enumerate(arrivals.tolist()):
        await asyncio.sleep(max(arrival - (time.perf_counter() - start), 0.0))
        asked.append(asyncio.create_task(one(number, arrival)))
    waits = await asyncio.gather(*asked)
    return Latency.of(rate, waits, time.perf_counter() - start, 0)

"""Waiting times without a GPU: the engine's own scheduler on a clock of its own.

    arrivals ~ Poisson(rate);   a batch of load x takes seconds(x);   wait = end of its batch − arrival

Discrete-event simulation (Law 2015) with the scheduler, page allocator and prefix cache that the engine runs. We
deviate from the engine in one thing: the next batch is planned when the last has ended, not a moment before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from genrecall.bench.plan.costs import Cost
from genrecall.engine.host.cost import CostModel
from genrecall.engine.host.pages import PageAllocator
from genrecall.engine.host.prefix_cache import PrefixCache
from genrecall.engine.host.scheduler import Job, Limits, Scheduler
from genrecall.engine.host.step import Kind, Load
from genrecall.telemetry import progress

_PROBES = 8
_BUSY = 0.9
"""No replica is planned busier than this: nearer to its limit, waits depend on how long one looks."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of request.

    Attributes:
        tokens: of a prompt; none of them lies in pages already.
        rows: beams after each level.
        batch: the most requests of a batch.
        max_rows, max_tokens: the most beams of a level and prompt tokens of a batch.
    """

    tokens: int
    rows: tuple[int, ...]
    batch: int = 32
    max_rows: int = 4096
    max_tokens: int = 16384


@dataclass(frozen=True, kw_only=True)
class Waits:
    """What requests of a simulation waited, from arrival to answer.

    Attributes:
        rate: requests per second that arrived.
        p50_ms, p99_ms: of the waits.
        busy: share of the time in which a batch ran.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    busy: float


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(work: Workload, cost: Cost, rate: float, *, requests: int, seed: int = 0) -> Waits:
    """Let requests arrive at one engine; the first tenth of them does not count."""
    clock, pages = _Clock(), -(-work.tokens // 16)
    limits = Limits(
        rows=work.max_rows,
        tokens=work.max_tokens,
        requests=work.batch,
        filters=1,
        widest=max(work.max_rows, *work.rows),
    )
    cache = PrefixCache(PageAllocator(1 + pages * work.batch), 16)
    scheduler = Scheduler(limits, cache, CostModel(), clock)
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests)).tolist()
    waits, given, busy_s = np.zeros(requests), 0, 0.0
    prompt = [0] * work.tokens
    while given < requests or scheduler.waiting:
        if not scheduler.waiting:
            clock.now = max(clock.now, arrivals[given])
        while given < requests and arrivals[given] <= clock.now:
            scheduler.submit(
                Job(
                    number=given, kind=Kind.SEARCH, catalog=0, tokens=prompt, user=None, rows=work.rows,
                    narrowest=work.rows,
                )
            )  # fmt: skip
            given += 1
        plan = scheduler.plan()
        assert plan is not None, "whatever is admitted fits alone"
        seconds = cost.seconds(plan.load)
        clock.now, busy_s = clock.now + seconds, busy_s + seconds
        scheduler.finish(plan)
        for seat in plan.seats:
            waits[seat.job] = clock.now - arrivals[seat.job]
    p50, p99 = (1e3 * np.percentile(waits[requests // 10 :], [50, 99])).tolist()
    return Waits(rate=rate, p50_ms=p50, p99_ms=p99, busy=busy_s / clock.now)


def full_batch(work: Workload) -> int:
    """Requests of the largest batch."""
    return max(min(work.batch, work.max_rows // max(work.rows), work.max_tokens // work.tokens), 1)


def load_of(work: Workload, requests: int, cached: int = 0) -> Load:
    """Of a batch."""
    return reduce(add, [Load.of(work.tokens, cached, work.rows)] * requests)


def saturated_rate(work: Workload, cost: Cost) -> float:
    """Requests per second of full batches."""
    size = full_batch(work)
    return size / cost.seconds(load_of(work, size))


def highest_rate(work: Workload, cost: Cost, *, slo_ms: float, requests: int, seed: int = 0) -> Waits | None:
    """The highest rate of one engine whose p99 keeps the objective, by bisection; None: not even a lone request."""
    high = _BUSY * saturated_rate(work, cost)
    low, best = 0.0, None
    with progress("searching the rate that keeps the objective", _PROBES) as bar:
        for probe in range(_PROBES):
            rate = high if probe == 0 else (low + high) / 2
            found = simulate(work, cost, rate, requests=requests, seed=seed)
            bar.advance(1, rate=rate, p99_ms=found.p99_ms)
            if found.p99_ms <= slo_ms:
                low, best = rate, found
                if probe == 0:
                    break
            else:
                high = rate
    return best

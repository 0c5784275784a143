"""What a gateway's forecast of the engine's wait costs: admission as shipped, before batches on a clock of their own.

    python benchmarks/admission.py --beam 300 --base-ms 6 --row-us 8.75 --rates 160,200,240,270
    python benchmarks/admission.py --beam 50 --base-ms 6.5 --row-us 23 --rates 500,580,640,700
    python benchmarks/admission.py --deadline-ms 60,200    (each of half the requests: the forecast knows no order)

``serve.admission.grant`` and ``serve.worker.cost.BatchCost`` decide and learn as in a service. Batches take
base + row · rows (the defaults: Qwen2-1.5B shape on an H100) and up to an eighth more at random; two are on their way,
the next is planned 4 ms before the device should run dry, the earliest deadline first, and none is filled beyond 50 ms;
the engine takes a batch for ``--bias`` times what it is. Replies of a batch leave after 3 ms, one each 0.3 ms, and are
late where that is beyond the budget. There is no other noise: what a host adds, and what it loses, only a real service
tells.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

from genrecall.serve.admission import grant
from genrecall.serve.worker.cost import TARGET_S, BatchCost

_AHEAD_S, _HOST_S, _EACH_S, _OWN_S, _RESERVE = 0.004, 0.003, 0.0003, 0.002, 0.15


@dataclass(order=True)
class _Job:
    due: float
    came: float
    beam: int
    expected_s: float
    budget_s: float


class _Lane:
    """What ``grant`` asks of a worker's lane."""

    facts = SimpleNamespace(device="cuda")

    def __init__(self, cost: BatchCost) -> None:
        self.cost, self.rows, self.begun, self.busy_s = cost, 0, 0, 0.0

    def expected_s(self, beam: int) -> float:
        return self.busy_s + self.cost.seconds(self.rows - self.begun + beam, beam)


def simulate(options: argparse.Namespace, rate: float) -> list[Counter[str]]:
    """How many of the requests were answered whole, narrowed, shed or late, by deadline."""
    chance, which, order = random.Random(options.seed), random.Random(options.seed), itertools.count()
    counts = {deadline_ms / 1e3 * (1 - _RESERVE) - _OWN_S: Counter[str]() for deadline_ms in options.deadline_ms}
    base_s, row_s = options.base_ms / 1e3, options.row_us / 1e6
    lane = _Lane(BatchCost(base_s, row_s))
    waiting: list[_Job] = []
    flights: list[float] = []  # what is thought of each that runs
    busy_until, said_until, now = 0.0, 0.0, 0.0
    events: list[tuple[float, int, str, list[_Job]]] = []
    while now < options.seconds:
        now += chance.expovariate(rate)
        heapq.heappush(events, (now, next(order), "comes", []))

    def took(rows: int) -> float:
        return (base_s + row_s * rows) * options.bias

    def end(job: _Job, at: float, outcome: str) -> None:
        outcome = "late" if at - job.came > job.budget_s else outcome
        lane.rows -= job.beam
        lane.cost.waited(job.expected_s, at - job.came, answered=outcome != "late")
        counts[job.budget_s][outcome] += 1

    def plan(now: float) -> None:
        nonlocal busy_until, said_until
        while waiting and len(flights) < 2 and (not flights or said_until - now < _AHEAD_S):
            start, batch, rest, rows, most_s = max(now, said_until), [], [], 0, TARGET_S
            for job in sorted(waiting):
                if not batch and start + took(job.beam) > job.due:
                    end(job, now, "late")
                    continue
                most_s = most_s if batch else max(TARGET_S, 2 * took(job.beam))
                seconds, due = took(rows + job.beam), min(one.due for one in [*batch, job])
                if batch and (seconds > most_s or start + seconds > due):
                    rest.append(job)
                else:
                    batch.append(job)
                    rows += job.beam
            waiting[:] = rest
            if batch:
                seconds = (base_s + row_s * rows) * (1 + chance.random() / 8)
                lane.cost.see(rows, seconds)
                lane.begun += rows
                flights.append(took(rows))
                busy_until, said_until = max(now, busy_until) + seconds, start + took(rows)
                heapq.heappush(events, (busy_until, next(order), "ends", batch))
                heapq.heappush(events, (max(said_until - _AHEAD_S, now), next(order), "plan", []))

    while events:
        now, _, kind, jobs = heapq.heappop(events)
        if kind == "comes":
            lane.busy_s, budget_s = max(said_until - now, 0.0), which.choice(list(counts))
            granted = grant(lane, beam=options.beam, k=options.k, budget_s=budget_s)  # type: ignore[arg-type]
            if granted.beam:
                expected_s = lane.expected_s(granted.beam)
                waiting.append(_Job(now + budget_s - _HOST_S, now, granted.beam, expected_s, budget_s))
                lane.rows += granted.beam
            else:
                counts[budget_s]["shed"] += 1
        elif kind == "ends":
            del flights[0]
            said_until = now + sum(flights)
            for place, job in enumerate(jobs):
                heapq.heappush(events, (now + _HOST_S + place * _EACH_S, next(order), "leaves", [job]))
        for job in jobs if kind == "leaves" else []:
            lane.begun -= job.beam
            end(job, now, "whole" if job.beam == options.beam else "narrowed")
        plan(now)
    return list(counts.values())


def main() -> None:
    """Print a line a rate and deadline."""

    def several(told: str) -> list[float]:
        return [float(one) for one in told.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beam", type=int, default=300)
    parser.add_argument("--base-ms", type=float, default=6.0)
    parser.add_argument("--row-us", type=float, default=8.75)
    parser.add_argument("--rates", type=several, default=[160, 200, 240, 270])
    parser.add_argument("--bias", type=float, default=1.0)
    parser.add_argument("--deadline-ms", type=several, default=[100.0])
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for rate in options.rates:
        for deadline_ms, counts in zip(options.deadline_ms, simulate(options, rate), strict=True):
            shares = "  ".join(
                f"{name} {counts[name] / counts.total():6.1%}" for name in ("whole", "narrowed", "shed", "late")
            )
            print(f"W={options.beam}, {rate:g}/s, {deadline_ms:g} ms: {shares}")


if __name__ == "__main__":
    main()

"""What is promised, in the order in which it is tried."""

from __future__ import annotations

from genrecall.serve.chaos import answers, interface, pressure, processes, releases, storage, surroundings
from genrecall.serve.chaos.scenario import Scenario, Setting

__all__ = ["SCENARIOS", "Setting"]

SCENARIOS = [
    Scenario(
        name="overload",
        promise="at 3x: goodput ≥ 90% of peak, admitted p99 ≤ deadline, refused p99 ≤ 10 ms, normal in 5 s",
        run=pressure.overload,
    ),
    Scenario(
        name="deadlines", promise="≥ 99.9% of answers by their deadline + 10 ms, 60 to 400 ms", run=pressure.deadlines
    ),
    Scenario(name="clients-leave", promise="no row and no request is left behind", run=pressure.clients_leave),
    Scenario(
        name="surrounded",
        promise="a channel that is slow, hangs, raises, kills: answered, stated; a clock ±1 h: no effect",
        run=surroundings.surrounded,
        own=True,
    ),
    Scenario(
        name="worker-stopped", promise="answered all the while; unready in 2 s", run=processes.worker_stopped
    ),
    Scenario(
        name="worker-killed", promise="answered all the while; unready in 2 s, back in 10 s",
        run=processes.worker_killed,
    ),
    Scenario(
        name="classic-killed", promise="answered all the while; back in 10 s", run=processes.classic_killed
    ),
    Scenario(
        name="one-of-two-killed", promise="answered all the while, stays ready; lost requests are asked again once",
        run=processes.one_of_two_killed, own=True,
    ),
    Scenario(
        name="stopped", promise="no accepted request lost, ends within 30 s", run=processes.stopped, own=True
    ),
    Scenario(name="swapped", promise="no failed request, rollback within 1 s", run=releases.swapped),
    Scenario(name="delisted", promise="never answered after the acknowledgement", run=releases.delisted),
    Scenario(
        name="valid", promise="no invalid SID, none twice; a whole beam equals brute force", run=answers.valid, own=True
    ),
    Scenario(
        name="written", promise="readers see old or new, never a mixture; every flipped bit is noticed",
        run=storage.written, own=True,
    ),
    Scenario(
        name="events-killed", promise="no acknowledged event lost or counted twice; back in 10 s",
        run=processes.events_killed, own=True,
    ),
    Scenario(
        name="hostile", promise="no server error, no leak, nothing that the API does not describe",
        run=interface.hostile,
    ),
    Scenario(
        name="oversized", promise="refused while it is read; 200 slow clients harm nobody", run=interface.oversized
    ),
    Scenario(
        name="locked", promise="every route needs a key; keys and certificates change without a restart",
        run=interface.locked, own=True,
    ),
    Scenario(
        name="planted", promise="nothing outside an artifact is read, nothing that is read is run",
        run=storage.pointing, own=True,
    ),
    Scenario(name="soaked", promise="memory +≤ 50 MB, files and threads stay", run=pressure.soaked),
    Scenario(
        name="network", promise="50 ms, 5% lost: answered; cut and mended: nothing left behind",
        run=surroundings.network,
    ),
    Scenario(
        name="measured", promise="≤ 2,000 series, no user in them, stages cover ≥ 95%", run=interface.measured
    ),
]  # fmt: skip

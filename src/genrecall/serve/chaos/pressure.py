"""More load than it can take, deadlines, clients that leave, and many requests one after another."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
from pathlib import Path

import numpy as np

from genrecall.serve.chaos.load import Client, Outcomes, recovered
from genrecall.serve.chaos.scenario import DEADLINE_MS, Setting, good, shown
from genrecall.serve.chaos.target import Target, wait_until
from genrecall.serve.event_loop import event_loop

_PEAK_S, _REFUSED = 5.0, (429, 503)
_CALM_S = 8.0  # before and after alike: the worst of few half seconds is no measure of the worst of many


def overload(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Three times what it can do, open loop, twice.

    What it can do is measured before, between and after: machines that others share change their speed within seconds.
    """
    assert target is not None
    seconds = float(setting.times(10, 120))

    async def phases() -> tuple[list[float], Outcomes, list[Outcomes], Outcomes]:
        client = setting.client(target)
        await client.closed(4, 2.0)
        found = {workers: good(await client.closed(workers, 3.0)) for workers in (4, 16, 48)}
        best = max(found, key=lambda workers: found[workers])
        peak = found[best]
        assert peak >= 1, f"this machine is too busy: {peak:.1f} answers a second within {DEADLINE_MS} ms, unloaded"

        async def again() -> float:
            return good(await client.closed(best, _PEAK_S))

        before = await client.open(0.3 * peak, _CALM_S)
        peaks = [await again()]
        over = [await client.open(3 * peaks[0], seconds)]
        after = await client.open(0.3 * peak, _CALM_S)
        peaks.append(await again())
        over.append(await client.open(3 * peaks[1], seconds, seed=1))
        peaks.append(await again())
        client.close()
        return peaks, before, over, after

    with asyncio.Runner(loop_factory=event_loop()) as runner:
        peaks, before, overs, after = runner.run(phases())
    peak = float(np.mean(peaks))
    share = float(np.mean([good(over) for over in overs])) / peak
    answered = np.concatenate([over.latencies(200) for over in overs])
    turned_away = np.concatenate([over.latencies(*_REFUSED) for over in overs])
    late = float(np.percentile(answered, 99)) * 1e3
    refused = float(np.percentile(turned_away, 99)) * 1e3 if len(turned_away) else 0.0
    degraded = float(np.mean([lacks for over in overs for lacks in over.degraded]))
    retries = [
        r for over in overs for r, status in zip(over.retry_after, over.status, strict=True) if status in _REFUSED
    ]
    other = sum(len(over.status) for over in overs) - len(answered) - len(turned_away)
    back = recovered(before, after)
    text = (
        f"goodput {share:.0%} of {peak:.0f}/s, admitted p99 {late:.0f} ms (deadline {DEADLINE_MS}), refused p99 "
        f"{refused:.0f} ms, {degraded:.0%} degraded, {other} other errors, back to normal after "
        f"{back:.1f} s"
    )
    return text, share >= 0.9 and late <= DEADLINE_MS and refused <= 10 and other == 0 and all(retries) and back <= 5


def deadlines(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Deadlines of all lengths under moderate load: whoever is answered is answered in time."""
    assert target is not None
    lengths = (60, 100, 150, 250, 400)
    late = asked = answered = 0

    async def ask() -> None:
        nonlocal late, asked, answered
        for length in lengths:
            bodies = [json.dumps({"user_id": u, "k": 10, "deadline_ms": length}).encode() for u in setting.users]
            client = Client("127.0.0.1", target.port, lambda number, b=bodies: b[number % len(b)])  # type: ignore[misc]
            seen = await client.open(15.0, float(setting.times(3, 30)))
            client.close()
            found = seen.latencies(200)
            asked, answered = asked + len(seen.status), answered + len(found)
            late += int((found > (length + 10) / 1e3).sum())

    asyncio.run(ask())
    share = 1 - late / max(answered, 1)
    return f"{answered} of {asked} answered, {share:.2%} by their deadline + 10 ms", share >= 0.999 and answered > 0


def clients_leave(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Clients that hang up at any moment."""
    assert target is not None
    rng, count = random.Random(0), setting.times(200, 1000)
    body = json.dumps({"user_id": setting.users[0], "k": 10}).encode()
    head = "POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", target.port)) as connection:
            whole = head.encode() + body
            connection.sendall(whole[: rng.randint(1, len(whole))] if rng.random() < 0.3 else whole)
            time.sleep(rng.random() * 0.02)

    def quiet() -> bool:
        told = target.call("GET", "/health")[1]
        replicas = told["worker"]["replicas"]
        rows = sum(one["asked_rows"] + one["running_rows"] + one["waiting_rows"] for one in replicas)
        return told["inflight"] == 0 and rows == 0

    settled = wait_until(quiet, 5)
    return f"{count} left; no row and no request after {shown(settled)}", settled is not None and target.is_ready()


def soaked(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Many requests one after another: memory, files and threads stay what they are."""
    assert target is not None
    seconds = setting.times(15, 1200)
    pids = [target.process.pid, target.pid("worker 0"), target.pid("classic")]

    async def load(length: float) -> Outcomes:
        client = setting.client(target)
        seen = await client.closed(2, length)
        client.close()
        return seen

    asyncio.run(load(max(seconds / 3, 5.0)))
    before = [_used(pid) for pid in pids]
    seen = asyncio.run(load(seconds))
    after = [_used(pid) for pid in pids]
    grown = sum(b[0] - a[0] for a, b in zip(before, after, strict=True)) / 1e6
    files = sum(b[1] - a[1] for a, b in zip(before, after, strict=True))
    threads = sum(b[2] - a[2] for a, b in zip(before, after, strict=True))
    text = f"{len(seen.status)} requests: {grown:+.1f} MB, {files:+d} files, {threads:+d} threads"
    return text, grown <= 50 and files <= 4 and threads <= 0


def _used(pid: int) -> tuple[int, int, int]:
    """Resident bytes, open files, threads; of Linux's /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {line.partition(":")[0]: line.partition(":")[2].split() for line in status.splitlines()}
    return int(found["VmRSS"][0]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(found["Threads"][0])

"""What is promised, and how it is tried: each scenario breaks something and measures what clients saw of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrecall.serve.chaos.load import Client, Outcomes
from genrecall.serve.chaos.target import Target, serving, wait_until

_DEADLINE_MS = 250


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where scenarios run.

    Attributes:
        bundle: that is served.
        scratch: directory for states.
        users: whose recommendations are asked for.
        scale: 1 for the short form; the long one repeats more.
    """

    bundle: Path
    scratch: Path
    users: list[str]
    scale: int = 1

    def client(self, target: Target) -> Client:
        """A load generator for the target."""
        bodies = [json.dumps({"user_id": u, "k": 10, "deadline_ms": _DEADLINE_MS}).encode() for u in self.users]
        return Client("127.0.0.1", target.port, lambda number: bodies[number % len(bodies)])


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One promise.

    Attributes:
        name: short.
        promise: what is kept.
        run: tries it on a running service, and says what was measured and whether the promise was kept.
        own: whether it starts services itself; else it is given the shared one.
    """

    name: str
    promise: str
    run: Callable[[Setting, Target | None], tuple[str, bool]]
    own: bool = False


def worker_killed(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """kill -9 of the worker."""
    assert target is not None
    os.kill(target.pid(), signal.SIGKILL)
    with _asking(setting, target) as seen:
        unready = wait_until(lambda: not target.is_ready(), 2)
        back = wait_until(target.is_ready, 60)
    kept = unready is not None and back is not None and back <= 10 and not seen.failures and seen.answers > 0
    return f"unready after {_s(unready)}, back after {_s(back)}, {seen}", kept


def worker_stopped(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """SIGSTOP of the worker: alive, but without progress."""
    assert target is not None
    pid = target.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with _asking(setting, target) as seen:
            unready = wait_until(lambda: not target.is_ready(), 5)
    finally:
        os.kill(pid, signal.SIGCONT)
    back = wait_until(target.is_ready, 10)
    kept = unready is not None and unready <= 2 and back is not None and not seen.failures
    return f"unready after {_s(unready)}, {seen}, ready again after {_s(back)}", kept


def overload(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Three times what it can do, open loop."""
    assert target is not None
    seconds = 6.0 * setting.scale

    async def phases() -> tuple[float, Outcomes, Outcomes]:
        client = setting.client(target)
        await client.closed(4, 2.0)
        peak = max([_good(await client.closed(workers, 3.0)) for workers in (4, 16, 48)])
        over = await client.open(3 * peak, seconds)
        after = await client.open(0.5 * peak, 5.0)
        client.close()
        return peak, over, after

    peak, over, after = asyncio.run(phases())
    share, late = _good(over) / peak, float(np.percentile(over.latencies(200), 99)) * 1e3
    other = sum(status not in (200, 429, 503) for status in over.status)
    told = all(retry for retry, status in zip(over.retry_after, over.status, strict=True) if status in (429, 503))
    calm = sum(status == 200 for status in after.status) / len(after.status)
    text = (
        f"goodput {share:.0%} of {peak:.0f}/s, admitted p99 {late:.0f} ms (deadline {_DEADLINE_MS}), "
        f"{other} other errors, afterwards {calm:.1%} answered"
    )
    return text, share >= 0.9 and other == 0 and told and calm >= 0.99


def clients_leave(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Clients that hang up at any moment."""
    assert target is not None
    rng, count = random.Random(0), 200 * setting.scale
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
        return told["inflight"] == 0 and told["worker"]["rows"] == 0

    settled = wait_until(quiet, 5)
    return f"{count} left; nothing on its way after {_s(settled)}", settled is not None and target.is_ready()


def delisted(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Items that are taken out while requests run."""
    assert target is not None
    tried, seen = 20 * setting.scale, 0
    for user in (setting.users * tried)[:tried]:
        top = target.recommend(user_id=user, k=3)["items"][0]["item_id"]
        target.admin("items/delist", item_ids=[top])
        again = [item["item_id"] for item in target.recommend(user_id=user, k=10)["items"]]
        seen += top in again
        target.admin("items/delist", item_ids=[top], delisted=False)
    return f"{tried} items taken out, {seen} came back", seen == 0


def swapped(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Bundles staged, activated and rolled back under load."""
    assert target is not None
    swaps, slowest = 2 * setting.scale, 0.0
    with _asking(setting, target) as seen:
        for _ in range(swaps):
            target.admin("releases/stage", bundle=str(setting.bundle.resolve()))
            target.admin("releases/activate")
            begun = time.monotonic()
            target.admin("releases/rollback")
            slowest = max(slowest, time.monotonic() - begun)
    return (
        f"{swaps} swaps and rollbacks, slowest rollback {slowest * 1e3:.0f} ms, {seen}",
        not seen.failures and slowest <= 1,
    )


def hostile(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """Nonsense: broken JSON, wrong types, huge bodies, slow ones, odd paths."""
    assert target is not None
    rng, statuses, leaks = random.Random(0), list[int](), 0
    values: list[object] = [
        None,
        -1,
        0,
        1e308,
        "",
        "x" * 500,
        "\u0000",
        [],
        {},
        [[]],
        True,
        {"a": 1},
        "../../etc/passwd",
    ]
    names = ["user_id", "history", "k", "beam", "channels", "filters", "profile", "query", "deadline_ms", "model", "n",
             "messages", "inputs", "instances", "events", "outputs"]  # fmt: skip
    paths = ["/v1/recommend", "/v1/search", "/v1/events", "/v2/models/pipeline/infer", "/v1/chat/completions",
             "/v1/models/pipeline:predict", "/v1/items/%00", "/v1/explain/..%2f", "/console/..%2fapi.py"]  # fmt: skip
    for _ in range(400 * setting.scale):
        body = {rng.choice(names): rng.choice(values) for _ in range(rng.randint(0, 4))}
        status, told = target.call(rng.choice(["POST", "POST", "POST", "GET", "PUT"]), rng.choice(paths), body)
        statuses.append(status)
        leaks += any(word in json.dumps(told) for word in ("Traceback", "/src/", str(setting.bundle.resolve().parent)))
    slow = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(100)]
    for connection in slow:
        connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n")
    with _asking(setting, target) as seen:
        time.sleep(1.0)
    for connection in slow:
        connection.close()
    errors = sum(status >= 500 and status != 503 for status in statuses)
    large = target.call("POST", "/v1/recommend", {"query": "x" * (2 << 20)})[0]
    text = f"{len(statuses)} requests: {errors} server errors, {leaks} leaks; 2 MiB → {large}; "
    text += f"beside 100 slow ones: {seen}"
    return text, errors == 0 and leaks == 0 and large == 413 and not seen.failures


def stopped(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """SIGTERM under load."""
    rounds, lost, slowest = 2 * setting.scale, 0, 0.0
    for number in range(rounds):
        with serving(setting.bundle, setting.scratch / f"stop{number}", "--classic-only") as own:
            with _asking(setting, own, stop_on_refusal=True) as seen:
                time.sleep(0.5)
                begun = time.monotonic()
                own.process.send_signal(signal.SIGTERM)
                own.process.wait(30)
                slowest = max(slowest, time.monotonic() - begun)
            lost += len(seen.failures)
    return f"{rounds} stops, {lost} accepted requests lost, slowest stop {slowest:.1f} s", lost == 0 and slowest <= 30


def events_killed(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """kill -9 of the gateway while events come in."""
    state, acknowledged, rounds = setting.scratch / "killed", list[str](), 2 * setting.scale
    for number in range(rounds + 1):
        with serving(setting.bundle, state, "--classic-only") as own:
            if number == rounds:
                break
            killer = threading.Timer(0.3 + 0.2 * number, own.process.send_signal, (signal.SIGKILL,))
            killer.start()
            with contextlib.suppress(OSError):
                for place in range(100_000):
                    item = f"{number}-{place}"
                    event = {"user_id": "chaos", "item_id": item, "event_id": item}
                    if own.call("POST", "/v1/events", {"events": [event]})[0] == 200:
                        acknowledged.append(item)
            killer.join()
    with serving(setting.bundle, state, "--classic-only") as last:
        told = last.call("GET", "/v1/users/chaos")[1]["history"]
        stored = [event["item_id"] for event in told]
    newest = acknowledged[-len(stored) + rounds :]
    lost = len(set(newest) - set(stored))
    twice = len(stored) - len(set(stored))
    text = f"{rounds} kills, {len(acknowledged)} acknowledged, {lost} lost, {twice} counted twice"
    return text, lost == 0 and twice == 0 and len(acknowledged) > 0


SCENARIOS = [
    Scenario(name="worker-stopped", promise="answered all the while; unready in 2 s", run=worker_stopped),
    Scenario(name="overload", promise="goodput ≥ 90% at 3x, only 429/503 with Retry-After, recovers", run=overload),
    Scenario(name="clients-leave", promise="no row and no request is left behind", run=clients_leave),
    # Not the first: right after its start a service has no spare, and a killed worker takes as long as the start.
    Scenario(name="worker-killed", promise="answered all the while; unready in 2 s, back in 10 s", run=worker_killed),
    Scenario(name="delisted", promise="never answered after the acknowledgement", run=delisted),
    Scenario(name="swapped", promise="no failed request, rollback within 1 s", run=swapped),
    Scenario(name="hostile", promise="no server error, no leak, others unharmed", run=hostile),
    Scenario(name="stopped", promise="no accepted request lost, ends within 30 s", run=stopped, own=True),
    Scenario(name="events-killed", promise="no acknowledged event lost or counted twice", run=events_killed, own=True),
]


@dataclass(kw_only=True, eq=False)
class _Seen:
    """What a client that asks one after another saw."""

    answers: int = 0
    degraded: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        failed = f", {len(self.failures)} failed ({self.failures[0][:60]})" if self.failures else ", 0 failed"
        return f"{self.answers} answers ({self.degraded} degraded){failed}"


@contextlib.contextmanager
def _asking(setting: Setting, target: Target, *, stop_on_refusal: bool = False) -> Iterator[_Seen]:
    """Ask all the while; with ``stop_on_refusal`` the first refusal or refused connection ends it without a failure."""
    seen, over = _Seen(), threading.Event()

    def ask() -> None:
        for number in range(10**9):
            if over.is_set():
                return
            asked = {"user_id": setting.users[number % len(setting.users)], "k": 5, "deadline_ms": _DEADLINE_MS}
            try:
                status, answer = target.call("POST", "/v1/recommend", asked)
            except ConnectionRefusedError:
                if stop_on_refusal:
                    return
                seen.failures.append("connection refused")
                continue
            except OSError as error:
                seen.failures.append(type(error).__name__)
                continue
            if status == 200:
                seen.answers += 1
                seen.degraded += answer["coverage"]["degraded"]
            elif stop_on_refusal and status == 503:
                return
            else:
                seen.failures.append(f"{status} {answer}")
            time.sleep(0.005)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(30)


def _good(outcomes: Outcomes) -> float:
    kept = (np.asarray(outcomes.status) == 200) & (np.asarray(outcomes.latency_s) <= _DEADLINE_MS / 1e3)
    return float(kept.sum() / max(np.asarray(outcomes.due) + np.asarray(outcomes.latency_s), default=1.0))


def _s(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"

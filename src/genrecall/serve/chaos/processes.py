"""Processes that are killed, stopped and asked to end."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time

from genrecall.serve.chaos.scenario import Setting, asking, shown
from genrecall.serve.chaos.target import Target, serving, wait_until

_KEPT = 1000  # of a user's newest events are shown


def worker_killed(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """kill -9 of the worker."""
    assert target is not None
    os.kill(target.pid(), signal.SIGKILL)
    with asking(setting, target) as seen:
        unready = wait_until(lambda: not target.is_ready(), 2)
        back = wait_until(target.is_ready, 60)
    kept = unready is not None and back is not None and back <= 10 and not seen.failures and seen.answers > 0
    return f"unready after {shown(unready)}, back after {shown(back)}, {seen}", kept


def worker_stopped(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """SIGSTOP of the worker: alive, but without progress."""
    assert target is not None
    pid = target.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with asking(setting, target) as seen:
            unready = wait_until(lambda: not target.is_ready(), 5)
    finally:
        os.kill(pid, signal.SIGCONT)
    back = wait_until(target.is_ready, 10)
    kept = unready is not None and unready <= 2 and back is not None and not seen.failures
    return f"unready after {shown(unready)}, {seen}, ready again after {shown(back)}", kept


def stopped(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """SIGTERM under load."""
    rounds, lost, slowest = setting.times(2, 50), 0, 0.0
    for number in range(rounds):
        with serving(setting.bundle, setting.scratch / f"stop{number}", "--classic-only") as own:
            with asking(setting, own, stop_on_refusal=True) as seen:
                time.sleep(0.5)
                begun = time.monotonic()
                own.process.send_signal(signal.SIGTERM)
                own.process.wait(30)
                slowest = max(slowest, time.monotonic() - begun)
            lost += len(seen.failures)
    return f"{rounds} stops, {lost} accepted requests lost, slowest stop {slowest:.1f} s", lost == 0 and slowest <= 30


def events_killed(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """kill -9 of the gateway at random moments while events come in."""
    state, acknowledged, rounds = setting.scratch / "killed", list[str](), setting.times(2, 100)
    rng, slowest = random.Random(0), 0.0
    for number in range(rounds):
        begun = time.monotonic()
        with serving(setting.bundle, state, "--classic-only") as own:
            slowest = max(slowest, time.monotonic() - begun)
            killer = threading.Timer(0.1 + rng.random(), own.process.send_signal, (signal.SIGKILL,))
            killer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                for place in range(100_000):
                    item = f"{number}-{place}"
                    event = {"user_id": f"chaos{number}", "item_id": item, "event_id": item}
                    if own.call("POST", "/v1/events", {"events": [event]})[0] == 200:
                        acknowledged.append(item)
            killer.join()
    with serving(setting.bundle, state, "--classic-only") as last:
        stored = [
            event["item_id"]
            for number in range(rounds)
            for event in last.call("GET", f"/v1/users/chaos{number}")[1].get("history", [])
        ]
    newest = {
        number: [item for item in acknowledged if item.startswith(f"{number}-")][-_KEPT:] for number in range(rounds)
    }
    lost = len({item for items in newest.values() for item in items} - set(stored))
    twice = len(stored) - len(set(stored))
    text = f"{rounds} kills, {len(acknowledged)} acknowledged, {lost} lost, {twice} counted twice; slowest start "
    return f"{text}{slowest:.1f} s", lost == 0 and twice == 0 and len(acknowledged) > 0 and slowest <= 10


def one_of_two_killed(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """kill -9 of one of two engine workers under load."""
    with serving(setting.bundle, setting.scratch / "replicas", "--replicas", "2") as own, asking(setting, own) as seen:
        time.sleep(1.0)
        os.kill(own.pid("worker 1"), signal.SIGKILL)
        ready = own.is_ready()
        time.sleep(2.0)

        def both() -> bool:
            return all(one["state"] == "ready" for one in own.call("GET", "/health")[1]["worker"]["replicas"])

        back = wait_until(both, 60)
        retried = own.call("GET", "/health")[1]["worker"]["retried"]
    kept = ready and back is not None and not seen.failures and seen.answers > 0
    return f"{seen}, {retried} asked a second time, both back after {shown(back)}", kept


def classic_killed(setting: Setting, target: Target | None) -> tuple[str, bool]:
    """kill -9 of the classic channels' process."""
    assert target is not None
    os.kill(target.pid("classic"), signal.SIGKILL)
    with asking(setting, target) as seen:
        unready = wait_until(lambda: not target.is_ready(), 2)
        back = wait_until(target.is_ready, 60)
    kept = unready is not None and back is not None and back <= 10 and not seen.failures
    return f"{seen}, back after {shown(back)}", kept

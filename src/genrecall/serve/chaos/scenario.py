"""What a promise is, where it is tried, and a client that asks all the while."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrecall.serve.chaos.load import Client, Outcomes
from genrecall.serve.chaos.target import Target

DEADLINE_MS = 250


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

    def times(self, short: int, long: int) -> int:
        """How often something is tried."""
        return short if self.scale == 1 else long

    def client(self, target: Target) -> Client:
        """A load generator for the target."""
        bodies = [json.dumps({"user_id": u, "k": 10, "deadline_ms": DEADLINE_MS}).encode() for u in self.users]
        return Client("127.0.0.1", target.port, lambda number: bodies[number % len(bodies)])


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One promise.

    Attributes:
        name: short.
        promise: what is kept.
        run: tries it, and says what was measured and whether the promise was kept.
        own: whether it starts services itself, or needs none; else it is given the shared one.
    """

    name: str
    promise: str
    run: Callable[[Setting, Target | None], tuple[str, bool]]
    own: bool = False


@dataclass(kw_only=True, eq=False)
class Seen:
    """What a client that asks one after another saw."""

    answers: int = 0
    degraded: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        failed = f", {len(self.failures)} failed ({self.failures[0][:60]})" if self.failures else ", 0 failed"
        return f"{self.answers} answers ({self.degraded} degraded){failed}"


@contextlib.contextmanager
def asking(setting: Setting, target: Target, *, stop_on_refusal: bool = False) -> Iterator[Seen]:
    """Ask all the while; with ``stop_on_refusal`` the first refusal or refused connection ends it without a failure."""
    seen, over = Seen(), threading.Event()

    def ask() -> None:
        for number in range(10**9):
            if over.is_set():
                return
            asked = {"user_id": setting.users[number % len(setting.users)], "k": 5, "deadline_ms": DEADLINE_MS}
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


def good(outcomes: Outcomes) -> float:
    """Answers a second that kept the deadline."""
    kept = (np.asarray(outcomes.status) == 200) & (np.asarray(outcomes.latency_s) <= DEADLINE_MS / 1e3)
    return float(kept.sum() / outcomes.span_s)


def shown(seconds: float | None) -> str:
    """Seconds in words."""
    return "never" if seconds is None else f"{seconds:.1f} s"

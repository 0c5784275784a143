"""What a running service does at half load, at three times its capacity, and afterwards.

It has two capacities: what it answers whole, every channel asked at full width, and its peak, where the engine is left
out of most answers. ``light`` is half of the first, ``quiet`` half of the second.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from genrecall.errors import ConfigError
from genrecall.serve.chaos.load import Client, Outcomes, recovered
from genrecall.serve.event_loop import event_loop

_WORKERS = (1, 4, 16, 48)
_LEAST_PER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ServeBench:
    """One measurement.

    Attributes:
        url: of the service.
        key: API key, where it wants one.
        seconds: of each phase; the overload takes so long, too.
        k: items of a request.
        beam: width of its search; None: the service's own.
        deadline_ms: of every request, and what a good answer keeps.
        load: share of the capacity in the light and quiet phases.
        overload: multiple of the capacity in the overload.
        seed: of the arrivals.
    """

    url: str = "http://127.0.0.1:8080"
    key: str | None = None
    seconds: float = 10.0
    k: int = 10
    beam: int | None = None
    deadline_ms: int = 250
    load: float = 0.5
    overload: float = 3.0
    seed: int = 0


def measure(bench: ServeBench) -> dict[str, Any]:
    """Run all phases; every figure that the table shows.

    Raises:
        ConfigError: nothing answers at that address.
    """
    users = _users(bench)
    asked: dict[str, Any] = {"k": bench.k, "deadline_ms": bench.deadline_ms}
    asked |= {} if bench.beam is None else {"beam": bench.beam}
    bodies = [json.dumps({"user_id": user, **asked}).encode() for user in users]
    parts = urlsplit(bench.url)
    client = Client(
        parts.hostname or "127.0.0.1", parts.port or 80, lambda number: bodies[number % len(bodies)], key=bench.key
    )
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(_phases(bench, client, len(users)))


async def _phases(bench: ServeBench, client: Client, users: int) -> dict[str, Any]:
    await client.closed(4, min(bench.seconds, 2.0))
    closed = {workers: await client.closed(workers, bench.seconds / 2) for workers in _WORKERS}
    whole = max(_good(outcomes, bench, whole=True) for outcomes in closed.values())
    peaks = {workers: _good(outcomes, bench) for workers, outcomes in closed.items()}
    best = max(peaks, key=lambda workers: peaks[workers])
    peak = peaks[best]
    light = await client.open(max(whole * bench.load, _LEAST_PER_S), bench.seconds, bench.seed)
    quiet = await client.open(peak * bench.load, bench.seconds, bench.seed)
    over = await client.open(peak * bench.overload, bench.seconds, bench.seed + 1)
    after = await client.open(peak * bench.load, bench.seconds, bench.seed + 2)
    # Machines that others share change their speed within a minute.
    middle = (peak + _good(await client.closed(best, bench.seconds / 2), bench)) / 2
    client.close()
    return {
        "users": users,
        "deadline_ms": bench.deadline_ms,
        "whole_per_s": round(whole, 1),
        "peak_per_s": round(peak, 1),
        "peak_around_per_s": round(middle, 1),
        "light": _figures(light, bench),
        "quiet": _figures(quiet, bench),
        "overload": {**_figures(over, bench), "goodput_of_peak": round(_good(over, bench) / middle, 3)},
        "after": {**_figures(after, bench), "recovery_s": recovered(quiet, after)},
    }


def _good(outcomes: Outcomes, bench: ServeBench, *, whole: bool = False) -> float:
    """Answers a second that kept the deadline; ``whole``: and of which nothing was left out."""
    kept = (np.asarray(outcomes.status) == 200) & (np.asarray(outcomes.latency_s) <= bench.deadline_ms / 1e3)
    kept &= ~np.asarray(outcomes.degraded, dtype=bool) if whole else True
    span = max(np.asarray(outcomes.due) + np.asarray(outcomes.latency_s), default=1.0)
    return float(kept.sum() / span)


def _figures(outcomes: Outcomes, bench: ServeBench) -> dict[str, Any]:
    answered, refused = outcomes.latencies(200) * 1e3, outcomes.latencies(429, 503) * 1e3
    statuses = np.asarray(outcomes.status)
    own = np.asarray(outcomes.latency_s)[statuses == 200] * 1e3 - np.asarray(outcomes.channels_ms)[statuses == 200]
    degraded = np.asarray(outcomes.degraded)[statuses == 200]
    turned_away = np.isin(statuses, (429, 503))
    return {
        "asked": len(statuses),
        "answered": len(answered),
        "refused": int(turned_away.sum()),
        "failed": int(len(statuses) - len(answered) - turned_away.sum()),
        "good_per_s": round(_good(outcomes, bench), 1),
        "degraded_share": round(float(degraded.mean()) if len(degraded) else 0.0, 3),
        "answered_ms": _quantiles(answered),
        "without_channels_ms": _quantiles(own),
        "refused_ms": _quantiles(refused),
        "generator_late_ms": _quantiles(np.asarray(outcomes.late_s) * 1e3),
        "refused_with_retry_after": bool(np.asarray(outcomes.retry_after)[turned_away].all()),
    }


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return dict(zip(("p50", "p95", "p99"), np.percentile(values, (50, 95, 99)).round(2).tolist(), strict=True))


def _users(bench: ServeBench) -> list[str]:
    """Up to a few hundred users of the service."""
    parts = urlsplit(bench.url)
    headers = {"authorization": f"Bearer {bench.key}"} if bench.key else {}
    found: list[str] = []
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=10)
    try:
        prefixes = ["", *"123456789", *(f"u{digit}" for digit in range(10)), *(f"1{digit}" for digit in range(10))]
        for prefix in prefixes:
            connection.request("GET", f"/v1/users?prefix={prefix}", headers=headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            if answer.status != 200:
                raise ConfigError(
                    "the service does not let us in", seen=told.get("code"), allowed="its users", fix="give --key"
                )
            found += told["users"]
    except OSError as error:
        raise ConfigError(
            "no service answers there", seen=f"{bench.url}: {error}", allowed="the URL that `genrecall serve` prints",
            fix="start it, or correct the URL",
        ) from None  # fmt: skip
    finally:
        connection.close()
    if not found:
        raise ConfigError(
            "the service knows no users",
            seen=bench.url,
            allowed="a service with histories",
            fix="start it with --catalog",
        )
    return sorted(set(found))

"""Requests for a service's own users: with the deadline that is measured, and with a long one."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from genrecall.errors import ConfigError
from genrecall.serve.chaos.load import Client

_PATIENT_MS = 25_000  # the generator hangs up after 30 s


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
        warm_s: for how long the service may compile what it never ran before.
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
    warm_s: float = 30.0
    seed: int = 0


class Asking:
    """Two clients of one service.

    Args:
        bench: whom and what to ask.

    Attributes:
        users: that are asked for, in turn.
        timely: asks with the deadline.
        patient: asks with one of 25 s.

    Raises:
        ConfigError: nothing answers at that address, or it knows no users.
    """

    def __init__(self, bench: ServeBench) -> None:
        self.users = _users(bench)
        self.timely, self.patient = self._client(bench, bench.deadline_ms), self._client(bench, _PATIENT_MS)

    def close(self) -> None:
        """Close the connections."""
        self.timely.close()
        self.patient.close()

    def _client(self, bench: ServeBench, deadline_ms: int) -> Client:
        asked = {"k": bench.k, "deadline_ms": deadline_ms} | ({} if bench.beam is None else {"beam": bench.beam})
        bodies = [json.dumps({"user_id": user, **asked}).encode() for user in self.users]
        parts = urlsplit(bench.url)
        return Client(
            parts.hostname or "127.0.0.1", parts.port or 80, lambda number: bodies[number % len(bodies)], key=bench.key
        )


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

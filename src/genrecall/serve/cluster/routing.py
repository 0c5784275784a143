"""Whose request it is: every user has one home among the replicas, because histories are kept there.

    home(user) = jump(BLAKE2b(user), N)

Lamping & Veach, "A fast, minimal memory, consistent hash algorithm" (2014): of N + 1 replicas each takes an equal share
from all others. No deviation. Requests without a user go anywhere; those of several users' homes are refused, but for
events, which are divided.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from genrecall.serve.problems import Problem

_ONE_USER = frozenset({"/v1/recommend", "/v1/search"})
_JUMP = 2862933555777941757


@dataclass(frozen=True, kw_only=True)
class Route:
    """Who is asked.

    Attributes:
        kind: ``one`` replica; ``all``, and the worst answer counts; ``first`` that knows it; ``events``, divided.
        home: of ``one``.
        bodies: of ``events``, by replica.
    """

    kind: Literal["one", "all", "first", "events"]
    home: int = 0
    bodies: Mapping[int, bytes] | None = None


def home_of(user_id: str, replicas: int) -> int:
    """The replica that keeps this user, 0 to ``replicas`` − 1."""
    key = int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "big")
    bucket, jump = -1, 0
    while jump < replicas:
        bucket = jump
        key = (key * _JUMP + 1) % 2**64
        jump = int((bucket + 1) * (2**31 / ((key >> 33) + 1)))
    return bucket


def route(method: str, path: str, body: bytes, replicas: int, *, key: str | None = None) -> Route:
    """Where a request goes.

    Args:
        method, path, body: of the request; what cannot be read goes anywhere, to be refused there.
        replicas: how many there are.
        key: its ``Idempotency-Key``.

    Raises:
        Problem: it asks for users of several homes.
    """
    if path in ("/health/ready", "/v2/health/ready"):
        return Route(kind="all")
    if path.startswith("/v1/explain/"):
        return Route(kind="first")
    if path.startswith("/v1/users/"):
        return Route(kind="one", home=home_of(unquote(path.removeprefix("/v1/users/")), replicas))
    told = _read(body) if method == "POST" else None
    if told is None:
        return _anywhere(replicas)
    if path == "/v1/events":
        return _events(told, replicas, key)
    homes = {home_of(user, replicas) for user in _users(path, told)}
    if len(homes) > 1:
        raise Problem("invalid", "these users are kept by several replicas; ask for one user a call")
    return Route(kind="one", home=homes.pop()) if homes else _anywhere(replicas)


def _users(path: str, told: Mapping[str, Any]) -> list[str]:
    """Ids of the users whose stored history a request may need."""
    found: Any = []
    if path in _ONE_USER:
        found = [told.get("user_id")]
    elif path == "/v1/chat/completions":
        found = [told.get("user")]
    elif path.endswith(":predict"):
        rows, columns = told.get("instances"), told.get("inputs")
        found = [row.get("user_id") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        if isinstance(columns, dict):
            found = _listed(columns.get("user_id"))
    elif path.endswith("/infer"):
        tensors = told.get("inputs")
        tensors = tensors if isinstance(tensors, list) else []
        named = [t for t in tensors if isinstance(t, dict) and t.get("name") == "user_id"]
        if any(isinstance(t.get("parameters"), dict) and "binary_data_size" in t["parameters"] for t in named):
            raise Problem("invalid", "user_id must be JSON here: the front does not read binary tensors")
        found = [user for tensor in named for user in _listed(tensor.get("data"))]
    return [user for user in found if isinstance(user, str) and user]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _events(told: Mapping[str, Any], replicas: int, key: str | None) -> Route:
    """A batch by homes. Events get the ids that the whole batch would have given them, so a repetition counts once."""
    events = told.get("events")
    if set(told) != {"events"} or not isinstance(events, list):
        return Route(kind="one", home=0)
    parts: dict[int, list[Any]] = {}
    for place, event in enumerate(events):
        user = event.get("user_id") if isinstance(event, dict) else None
        if not isinstance(user, str):
            return Route(kind="one", home=0)  # the whole batch is refused there
        named = {**event, "event_id": f"{key}#{place}"} if key is not None and event.get("event_id") is None else event
        parts.setdefault(home_of(user, replicas), []).append(named)
    return Route(kind="events", bodies={home: json.dumps({"events": part}).encode() for home, part in parts.items()})


def merged(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several replicas' acknowledgements as one; ``sequence`` is the largest, numbers are a replica's own."""
    totals = {
        name: sum(int(answer[name]) for answer in answers) for name in ("accepted", "duplicates", "unknown_items")
    }
    return {**totals, "sequence": max((int(answer["sequence"]) for answer in answers), default=0)}


def _read(body: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _anywhere(replicas: int) -> Route:
    return Route(kind="one", home=secrets.randbelow(replicas))

"""The front of a cluster without Ray: whom it asks, and what it makes of several answers."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from genrecall.serve.cluster.on_ray import Front, Reply
from genrecall.serve.cluster.routing import home_of

Answer = Callable[[str, str, dict[str, str], bytes], Reply]


class Replica:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.ask = self
        self._answer = answer

    async def remote(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        """As a Ray handle is called."""
        self.asked.append((method, target, headers, body))
        return self._answer(method, target, headers, body)


def _call(front: Front, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    raw = b"" if body is None else json.dumps(body).encode()
    told = {"host": "localhost", **headers}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items()],
        "server": ("localhost", 80),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    answer = asyncio.run(front._answered(Request(scope, receive)))
    return answer[0], json.loads(answer[2])


def _stored(method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
    count = len(json.loads(body)["events"])
    told = {"accepted": count, "duplicates": 0, "unknown_items": 0, "sequence": count}
    return 200, [("content-type", "application/json")], json.dumps(told).encode()


def test_events_are_divided_and_their_acknowledgements_added() -> None:
    replicas = [Replica(_stored) for _ in range(3)]
    events = [{"user_id": f"u{number}"} for number in range(30)]
    status, told = _call(
        Front(True, *replicas), "POST", "/v1/events", {"events": events}, idempotency_key="k", authorization="Bearer x"
    )
    assert (status, told["accepted"]) == (200, 30)
    for number, replica in enumerate(replicas):
        ((_, _, headers, body),) = replica.asked
        assert {home_of(event["user_id"], 3) for event in json.loads(body)["events"]} == {number}
        assert headers == {"authorization": "Bearer x"}  # the key of the batch is in its events


def test_a_refusal_of_one_is_the_batchs() -> None:
    full: Reply = (503, [("retry-after", "5")], b'{"code": "storage_failed"}')
    replicas = [Replica(_stored), Replica(lambda *_: full)]
    events = [{"user_id": f"u{number}"} for number in range(10)]
    assert _call(Front(True, *replicas), "POST", "/v1/events", {"events": events})[0] == 503


def test_ready_means_all_and_explanations_are_looked_for() -> None:
    def answer(status: int) -> Answer:
        return lambda *_: (status, [], json.dumps({"status": status}).encode())

    front = Front(True, Replica(answer(200)), Replica(answer(503)))
    assert _call(front, "GET", "/health/ready")[0] == 503
    found = Front(True, Replica(answer(404)), Replica(answer(200)))
    assert _call(found, "GET", "/v1/explain/abc")[0] == 200
    nowhere = Front(True, Replica(answer(404)), Replica(answer(404)))
    assert _call(nowhere, "GET", "/v1/explain/abc")[0] == 404


def test_foreign_names_are_refused_without_keys() -> None:
    replica = Replica(_stored)
    status, told = _call(Front(True, replica), "GET", "/v1/models", host="evil.example")
    assert (status, told["code"]) == (403, "forbidden_host")
    assert replica.asked == []

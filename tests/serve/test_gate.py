"""Who may call, how much, and what refusals look like."""

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from genrecall.errors import ConfigError
from genrecall.serve.config import ServeConfig
from genrecall.serve.http.gate import OPEN
from genrecall.serve.http.keys import Keys, add
from tests.serve.world import Spoiled, World, serving


def _paths(world: World) -> list[str]:
    routes = world.gate._app._router.routes  # type: ignore[attr-defined]
    found = [route.path for route in routes if isinstance(route, Route)]
    assert len(found) > 8
    return found


def test_every_route_but_probes_needs_a_key(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = add(file, "shop")

    async def scenario() -> None:
        async with serving(run, tmp_path / "state", keys=file) as world:
            for path in [*_paths(world), "/nowhere", "/v1/../admin/releases"]:
                for method in ("GET", "POST", "DELETE", "PUT"):
                    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic " + "x" * 9}):
                        answer = await world.client.request(method, path, headers=header)
                        assert path in OPEN or answer.status_code == 401, (method, path)
            for header in (f"Bearer {key}", "Basic " + base64.b64encode(f"any:{key}".encode()).decode()):
                assert (await world.client.get("/health", headers={"authorization": header})).status_code == 200

    asyncio.run(scenario())


def test_keys_are_rotated_without_a_restart(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first = add(file, "old")
    assert first not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0

    async def status(world: World, key: str) -> int:
        return (await world.client.get("/health", headers={"authorization": f"Bearer {key}"})).status_code

    async def scenario() -> None:
        async with serving(run, tmp_path / "state", keys=file) as world:
            second = add(file, "new")
            assert [await status(world, key) for key in (first, second)] == [200, 200]
            file.write_text("".join(line for line in file.read_text().splitlines(True) if line.startswith("new")))
            assert [await status(world, key) for key in (first, second)] == [401, 200]
            file.write_text("nonsense\n")
            assert [await status(world, key) for key in (first, second)] == [401, 401]
            file.unlink()
            assert await status(world, second) == 401

    asyncio.run(scenario())


def test_a_key_after_a_line_without_its_end_withdraws_no_other(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first = add(file, "old")
    file.write_text(file.read_text().rstrip("\n"))  # as many an editor and secret store leave it
    second = add(file, "new")
    keys = Keys(file)
    assert [keys.holder(f"Bearer {key}") for key in (first, second)] == ["old", "new"]


def test_an_open_address_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="genrecall keys add"):
        ServeConfig(state=tmp_path, host="0.0.0.0")
    ServeConfig(state=tmp_path, host="0.0.0.0", insecure=True)


def test_without_keys_a_foreign_name_is_refused(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            for host, status in (("evil.example", 403), ("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:80", 200)):
                assert (await world.client.get("/health", headers={"host": host})).status_code == status

    asyncio.run(scenario())


def test_bodies_are_refused_at_the_first_byte_too_many(run: Path, tmp_path: Path) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1024
            yield b"x" * 1024

    async def scenario() -> None:
        async with serving(run, tmp_path, max_body_bytes=8192) as world:
            json = {"content-type": "application/json"}
            answer = await world.client.post("/v1/recommend", content=endless(), headers=json)
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
            assert sent < 64 * 1024
            announced = {**json, "content-length": "9000"}
            assert (await world.client.post("/v1/recommend", content=b"{}", headers=announced)).status_code == 413

    asyncio.run(scenario())


def test_a_body_that_dribbles_is_refused(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path, body_s=0.1) as world:
            told = await _asgi(world, [b"{"], forever=True)
            assert told["status"] == 408

    asyncio.run(scenario())


def test_refusals_are_problem_documents(run: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/v1/recommend", {}, 405, "method_not_allowed"),
        ("POST", "/v1/recommend", {"content": b"{}"}, 415, "not_acceptable_type"),
        ("POST", "/v1/recommend", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed"),
        ("POST", "/v1/recommend", {"json": {"k": 0}}, 422, "invalid"),
        ("POST", "/v1/recommend", {"json": {"beam": 10**9}}, 422, "invalid"),
        ("POST", "/v1/recommend", {"json": {"kk": 3}}, 422, "invalid"),
        ("POST", "/v1/events", {"json": {"events": []}}, 422, "invalid"),
        ("GET", "/v1/items/none", {}, 404, "not_found"),
        ("GET", "/v1/explain/none", {}, 404, "not_found"),
    ]

    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            for method, path, more, status, code in cases:
                answer = await world.client.request(method, path, **more)
                assert (answer.status_code, answer.json()["code"]) == (status, code)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["request_id"] == answer.headers["x-request-id"]
                assert "default-src 'none'" in answer.headers["content-security-policy"]

    asyncio.run(scenario())


def test_a_caller_has_its_rate(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path, rate_per_s=1.0) as world:
            answers = [await world.client.get("/v1/items/i1") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
            assert int(answers[-1].headers["retry-after"]) >= 1
            assert (await world.client.get("/health/live")).status_code == 200

    asyncio.run(scenario())


def test_too_many_at_a_time_are_told_to_come_back(run: Path, tmp_path: Path) -> None:
    slow = {"item_cf": Spoiled("item_cf", lambda: time.sleep(0.3))}

    async def scenario() -> None:
        async with serving(run, tmp_path, channels=slow, max_inflight=2) as world:
            asked = [world.client.post("/v1/recommend", json={"channels": ["item_cf"]}) for _ in range(6)]
            answers = await asyncio.gather(*asked)
            assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
            refused = next(answer for answer in answers if answer.status_code == 503)
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["retryable"] is True
            assert world.gate.inflight == 0

    asyncio.run(scenario())


def test_draining_refuses_what_is_new_and_says_so_to_probes(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            assert (await world.client.get("/health/ready")).status_code == 200
            world.gate.draining = True
            assert (await world.client.get("/health/ready")).json() == {"ready": False, "reasons": ["draining"]}
            assert (await world.client.get("/health/live")).status_code == 200
            assert (await world.client.post("/v1/recommend", json={})).json()["code"] == "draining"

    asyncio.run(scenario())


def test_a_client_that_goes_away_is_not_worked_for(run: Path, tmp_path: Path) -> None:
    slow = {"item_cf": Spoiled("item_cf", lambda: time.sleep(0.5))}

    async def scenario() -> None:
        async with serving(run, tmp_path, channels=slow) as world:
            begun = time.perf_counter()
            told = await _asgi(world, [b'{"channels":["item_cf"]}'], leave_after_s=0.1)
            assert time.perf_counter() - begun < 0.4
            assert told == {}
            assert world.gate.inflight == 0
            assert "genrecall_cancelled_total 1.0" in world.service.metrics.render().decode()

    asyncio.run(scenario())


def test_metrics_name_no_user_and_no_item(run: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(run, tmp_path) as world:
            await world.recommend(user_id="u3", k=5)
            await world.client.get("/v1/items/i11")
            page = (await world.client.get("/metrics")).text
            for name in ("request_duration_seconds", "stage_duration_seconds", "channel_results_total", "fill_ratio"):
                assert f"genrecall_{name}" in page
            assert 'route="/v1/items/{item_id:path}"' in page
            assert "u3" not in page
            assert "i11" not in page
            assert len([line for line in page.splitlines() if not line.startswith("#")]) < 2000

    asyncio.run(scenario())


async def _asgi(
    world: World, parts: list[bytes], *, forever: bool = False, leave_after_s: float | None = None
) -> dict[str, Any]:
    """Speak ASGI by hand: send parts of a body, then wait, or leave."""
    messages = [
        {"type": "http.request", "body": part, "more_body": forever or n + 1 < len(parts)}
        for n, part in enumerate(parts)
    ]
    told: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60 if leave_after_s is None else leave_after_s)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.update({"status": message["status"]} if message["type"] == "http.response.start" else {})

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend", "query_string": b"",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("localhost", 80), "scheme": "http", "root_path": "",
        "http_version": "1.1",
    }  # fmt: skip
    await world.gate(scope, receive, send)
    return told

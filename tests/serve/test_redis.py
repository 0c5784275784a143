"""The store in Redis: the same contract against a real server, its durability, and life without it."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from genrecall.errors import ConfigError
from genrecall.serve.schema import Event
from genrecall.serve.state.redis import RedisState
from genrecall.serve.state.state import StateUnavailableError
from tests.serve.state_contract import StoreMachine, newest_are_kept, taken_in_once
from tests.serve.world import serving

redis = pytest.importorskip("redis", reason="redis is not installed")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on this machine")


class Server:
    """A redis-server over a directory and a Unix socket."""

    def __init__(self, *more: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gr"))
        self.more = more or ("--appendonly", "yes", "--appendfsync", "always")
        self.url = f"unix://{self.directory}/s"
        self.start()

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self.directory / "s"),
            "--dir",
            str(self.directory),
        ]
        self.process = subprocess.Popen([*command, "--save", "", *self.more], stdout=subprocess.DEVNULL)
        atexit.register(self.process.kill)  # also where the test fails
        client = redis.Redis.from_url(self.url)
        for _ in range(500):
            try:
                client.ping()
                return
            except redis.exceptions.ConnectionError:  # also while it loads
                time.sleep(0.02)
        raise AssertionError("redis-server did not start")

    def end(self, number: int) -> None:
        os.kill(self.process.pid, number)
        self.process.wait(10)

    def close(self) -> None:
        self.end(signal.SIGKILL)
        shutil.rmtree(self.directory)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def state(server: Server) -> Iterator[RedisState]:
    redis.Redis.from_url(server.url).flushall()
    opened = RedisState(server.url)
    yield opened
    opened.close()


def test_it_keeps_the_contract(server: Server) -> None:
    class Machine(StoreMachine):
        fresh = True

        def open(self) -> RedisState:
            if self.fresh:
                redis.Redis.from_url(server.url).flushall()
            self.fresh = False
            return RedisState(server.url)

    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=settings(max_examples=10, stateful_step_count=10, deadline=None))


def test_a_catalogs_histories_are_taken_in_once(state: RedisState, run: Path) -> None:
    taken_in_once(state, run)


def test_the_newest_events_are_kept(state: RedisState) -> None:
    newest_are_kept(state)


def test_two_gateways_see_one_store_and_prefixes_keep_services_apart(server: Server, state: RedisState) -> None:
    other, apart = RedisState(server.url), RedisState(server.url + "?prefix=search")
    event = Event(user_id="u", item_id="i", event_id="e", timestamp=3)
    assert state.commit([[event]])[0].accepted == 1
    assert other.commit([[event]])[0].duplicates == 1
    assert [past.item_id for past in other.history("u")] == ["i"]
    assert apart.history("u") == []
    other.close()
    apart.close()


def test_acknowledged_events_survive_a_kill() -> None:
    server = Server()
    state = RedisState(server.url)
    for round_ in range(3):
        state.commit(
            [[Event(user_id="u", item_id=f"i{round_}-{n}", timestamp=n, event_id=f"{round_}-{n}")] for n in range(20)]
        )
        server.end(signal.SIGKILL)
        with pytest.raises(StateUnavailableError):
            state.history("u")
        server.start()
        assert state.counts() == {"events": 20 * (round_ + 1), "users": 1, "sequence": 20 * (round_ + 1)}
    state.close()
    server.close()


def test_a_server_that_may_lose_what_it_acknowledged_is_refused() -> None:
    server = Server("--appendonly", "no")
    with pytest.raises(ConfigError, match="acknowledges what it may lose"):
        RedisState(server.url)
    accepted = RedisState(server.url + "?acknowledge=memory")
    accepted.commit([[Event(user_id="u", item_id="i")]])
    assert accepted.counts()["events"] == 1
    accepted.close()
    server.close()
    for url in (server.url, "http://x", "redis://127.0.0.1:1"):
        with pytest.raises(ConfigError, match="cannot be reached"):
            RedisState(url)


def test_requests_are_answered_while_the_store_is_away(run: Path, tmp_path: Path) -> None:
    server = Server()

    async def scenario() -> None:
        store = RedisState(server.url)
        async with serving(run, tmp_path, store=store) as world:
            known = await world.recommend(user_id="u3", k=5)
            assert not known["coverage"]["degraded"]
            told: dict[str, Any] = {"events": [{"user_id": "u3", "item_id": "i9"}]}
            assert (await world.client.post("/v1/events", json=told)).json()["accepted"] == 1
            page = (await world.client.get("/v1/users/u3")).json()
            assert page["history"][-1]["item_id"] == "i9"
            server.end(signal.SIGKILL)
            away = await world.recommend(user_id="u3", k=5)
            assert len(away["items"]) == 5
            assert "error: user state" in away["coverage"]["reasons"]
            refused = await world.client.post("/v1/events", json=told)
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_failed")
            assert (await world.client.get("/v1/users/u3")).status_code == 503
            server.start()
            back = await world.recommend(user_id="u3", k=5)
            assert not back["coverage"]["degraded"]

    asyncio.run(scenario())
    server.close()

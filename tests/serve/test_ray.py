"""Ray for real, on this machine: the same bytes in batches, the same answers online. `make test-ray`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genrecall.errors import ConfigError
from genrecall.serve.batch.run import BatchConfig, run_batch
from genrecall.serve.batch.shards import MANIFEST
from genrecall.serve.chaos.target import wait_until
from genrecall.serve.cluster.on_ray import require_count
from genrecall.serve.cluster.routing import home_of
from tests.serve.process import serve

pytestmark = pytest.mark.ray
CONFIG = BatchConfig(k=5, shard_users=7, batch_users=4)
PATIENT = os.environ | {"RAY_raylet_start_wait_time_s": "180"}  # a busy machine starts Ray slowly


def _bytes(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def clean(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ray") / "clean"
    assert run_batch(run / "bundle", run / "catalog", out, CONFIG, device="cpu")
    return out


def _command(run: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "genrecall", "batch", str(run / "bundle"), "--catalog", str(run / "catalog"),
        "--out", str(out), "-k", "5", "--shard-users", "7", "--batch-users", "4", "--device", "cpu",
        "--runner", "ray", "--workers", "2",
    ]  # fmt: skip


def test_a_batch_on_ray_has_the_local_bytes(run: Path, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "ray"
    done = subprocess.run(_command(run, out), capture_output=True, text=True, check=False, env=PATIENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("complete")
    assert _bytes(out) == _bytes(clean)


def test_a_killed_batch_on_ray_is_finished_with_the_same_bytes(run: Path, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    driver = subprocess.Popen(_command(run, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=PATIENT)
    until = time.monotonic() + 300
    while not list(out.glob("*.parquet")):
        assert driver.poll() is None or list(out.glob("*.parquet"))
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    # The local runner goes on where Ray stopped; actors whose driver is gone end by themselves.
    while not run_batch(run / "bundle", run / "catalog", out, CONFIG, device="cpu"):
        assert time.monotonic() < until
        time.sleep(0.5)
    assert (out / MANIFEST).is_file()
    assert _bytes(out) == _bytes(clean)


EVENTS = [{"user_id": f"new{number}", "item_id": f"i{number}"} for number in range(8)]
HOMES = {event["user_id"]: home_of(event["user_id"], 2) for event in EVENTS}


@contextlib.contextmanager
def _cluster(run: Path, state: Path, port: int, *options: str) -> Iterator[None]:
    """`genrecall serve --ray`, ready; nothing of it is left in the end."""
    command = [
        sys.executable, "-m", "genrecall", "serve", str(run / "bundle"), "--ray", "--partitions", "2",
        "--port", str(port), "--state", str(state), "--catalog", str(run / "catalog"), *options,
    ]  # fmt: skip
    log = state.with_name("log")
    with log.open("w") as stream:
        cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, env=PATIENT)
        try:
            assert cluster.stdout is not None
            told = ""
            while "ready" not in told:
                line = cluster.stdout.readline()
                assert line, log.read_text()[-3000:]
                told += line
            yield
        finally:
            cluster.send_signal(signal.SIGTERM)
            cluster.wait(180)
    # No service outlives its replica: else nobody could start one on its state again.
    assert wait_until(lambda: not any(_gateway(state / f"replica-{number}") for number in (0, 1)), 90) is not None


def test_replicas_on_ray_keep_users_and_answer_alike(run: Path, tmp_path: Path) -> None:
    port, wait = 18_431, ("--deadline-ms", "8000")
    users = [f"u{number}" for number in range(12)]
    events = [{"user_id": user, "item_id": "i1", "timestamp": 1_700_000_000} for user in users] + EVENTS
    assert set(HOMES.values()) == {0, 1}
    alone = serve(run / "bundle", tmp_path / "alone", "--catalog", str(run / "catalog"), *wait)
    with _cluster(run, tmp_path / "state", port, *wait), alone as single:
        for expected in ((20, 0), (0, 20)):  # repeated under the same key, nothing is counted twice
            stored = _call(port, "/v1/events", {"events": events}, {"idempotency-key": "order-1"})[1]
            assert (stored["accepted"], stored["duplicates"]) == expected
        assert single.call("POST", "/v1/events", {"events": events})[0] == 200
        for event in EVENTS:
            history = _call(port, f"/v1/users/{event['user_id']}")[1]["history"]
            assert [past["item_id"] for past in history] == [event["item_id"]]
        for user in [*users, *HOMES]:
            status, answer = _call(port, "/v1/recommend", {"user_id": user, "k": 5})
            assert status == 200
            expected_items = single.recommend(user_id=user, k=5)["items"]
            assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected_items]
            assert _call(port, f"/v1/explain/{answer['request_id']}")[1]["user_id"] == user
        assert _call(port, "/health/ready")[0] == 200
        assert _call(port, "/v1/recommend", {"k": 0})[0] == 422
        several = {"instances": [{"user_id": user} for user in HOMES]}
        assert _call(port, "/v1/models/pipeline:predict", several)[0] == 422
    with pytest.raises(ConfigError, match="another number of replicas"):
        require_count(tmp_path / "state", 3)


def test_a_killed_service_is_replaced_and_has_forgotten_nothing(run: Path, tmp_path: Path) -> None:
    port, state = 18_432, tmp_path / "state"
    with _cluster(run, state, port, "--classic-only"):
        assert _call(port, "/v1/events", {"events": EVENTS})[0] == 200
        victim = _gateway(state / "replica-0")
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        user = next(user for user, home in HOMES.items() if home == 0)
        other = next(user for user, home in HOMES.items() if home == 1)
        until = time.monotonic() + 240
        while True:
            status, page = _call(port, f"/v1/users/{user}")
            if status == 200 and _gateway(state / "replica-0") != victim:
                break
            # Until it is back, callers are told to come again; users of the other one notice nothing.
            assert status == 200 or (status == 503 and page["retryable"]), page
            assert _call(port, f"/v1/users/{other}")[0] == 200
            assert time.monotonic() < until, page
            time.sleep(1)
        assert [past["item_id"] for past in page["history"]] == [f"i{user.removeprefix('new')}"]


def _call(port: int, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    kind = {} if body is None else {"content-type": "application/json"}
    raw = None if body is None else json.dumps(body)
    try:
        connection.request("GET" if body is None else "POST", path, raw, {**kind, **(headers or {})})
        answer = connection.getresponse()
        told = answer.read()
    finally:
        connection.close()
    return answer.status, json.loads(told) if told[:1] in (b"{", b"[") else told.decode()


def _gateway(state: Path) -> int | None:
    """Process id of the gateway that serves this state."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(state).encode() in words and b"serve" in words:
                return int(entry.name)
    return None

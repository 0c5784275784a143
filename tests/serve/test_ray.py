"""Ray for real, on this machine: the same bytes in batches, the same answers online. `make test-ray`."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
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
    done = subprocess.run(_command(run, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("complete")
    assert _bytes(out) == _bytes(clean)


def test_a_killed_batch_on_ray_is_finished_with_the_same_bytes(run: Path, clean: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    driver = subprocess.Popen(_command(run, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def test_replicas_on_ray_keep_users_and_answer_alike(run: Path, tmp_path: Path) -> None:
    state, port = tmp_path / "state", 18_431
    command = [
        sys.executable, "-m", "genrecall", "serve", str(run / "bundle"), "--ray", "--partitions", "2",
        "--port", str(port), "--state", str(state), "--catalog", str(run / "catalog"),
        "--deadline-ms", "8000",
    ]  # fmt: skip
    log = (tmp_path / "log").open("w")
    cluster = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert cluster.stdout is not None
        told = ""
        while "ready" not in told:
            line = cluster.stdout.readline()
            assert line, (tmp_path / "log").read_text()[-3000:]
            told += line
        users = [f"u{number}" for number in range(12)]
        events = [{"user_id": user, "item_id": "i1", "timestamp": 1_700_000_000} for user in users]
        events += [{"user_id": f"new{number}", "item_id": f"i{number}"} for number in range(8)]
        for expected in ((20, 0), (0, 20)):  # repeated under the same key, nothing is counted twice
            stored = _call(port, "/v1/events", {"events": events}, {"idempotency-key": "order-1"})[1]
            assert (stored["accepted"], stored["duplicates"]) == expected
        homes = {f"new{number}": home_of(f"new{number}", 2) for number in range(8)}
        assert set(homes.values()) == {0, 1}
        for number in range(8):
            history = _call(port, f"/v1/users/new{number}")[1]["history"]
            assert [past["item_id"] for past in history] == [f"i{number}"]
        with serve(
            run / "bundle", tmp_path / "alone", "--catalog", str(run / "catalog"), "--deadline-ms", "8000"
        ) as alone:
            assert alone.call("POST", "/v1/events", {"events": events})[0] == 200
            for user in [*users, *homes]:
                status, answer = _call(port, "/v1/recommend", {"user_id": user, "k": 5})
                assert status == 200
                expected_items = alone.recommend(user_id=user, k=5)["items"]
                assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in expected_items]
                found = _call(port, f"/v1/explain/{answer['request_id']}")[1]
                assert found["user_id"] == user
        assert _call(port, "/health/ready")[0] == 200
        assert _call(port, "/v1/recommend", {"k": 0})[0] == 422
        both = {"instances": [{"user_id": user} for user in homes]}
        assert _call(port, "/v1/models/pipeline:predict", both)[0] == 422
        # A replica's service is killed: Ray replaces it, and what it had acknowledged is still there.
        victim = _gateway(state / "replica-0")
        os.kill(victim, signal.SIGKILL)
        kept = next(user for user, home in homes.items() if home == 0)
        until = time.monotonic() + 240
        while True:
            status, page = _call(port, f"/v1/users/{kept}")
            if status == 200 and _gateway(state / "replica-0") != victim:
                break
            assert status == 200 or (status == 503 and page["retryable"]), page
            assert time.monotonic() < until, page
            time.sleep(1)
        assert [past["item_id"] for past in page["history"]] == [f"i{kept.removeprefix('new')}"]
    finally:
        cluster.send_signal(signal.SIGTERM)
        cluster.wait(180)
        log.close()
    # No service outlives its replica: else nobody could start one on its state again.
    assert wait_until(lambda: not any(_gateway(state / f"replica-{number}") for number in (0, 1)), 90) is not None
    with pytest.raises(ConfigError, match="another number of replicas"):
        require_count(state, 3)


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
            if str(state).encode() in words and b"genrecall" in words:
                return int(entry.name)
    return None

"""`genrecall serve` as it is started by a user: real processes, a real port, kills, swaps and a drained stop."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from genrecall.serve.admin_client import ask
from tests import pipeline
from tests.serve.process import Served, serve

pytestmark = pytest.mark.slow


def test_it_answers_and_is_ready(served: Served) -> None:
    assert served.call("GET", "/health/ready") == (200, {"ready": True, "reasons": []})
    answer = served.recommend(user_id="u3", k=5, explain=True)
    assert answer["coverage"]["channels"]["generative"]["outcome"] == "ok"
    assert not answer["coverage"]["degraded"]
    explained = served.call("GET", f"/v1/explain/{answer['request_id']}")[1]
    assert len(explained["levels"]) == 2
    assert explained["levels"][0][0]["titles"]
    assert served.call("POST", "/v1/search", {"query": "red candle"})[1]["items"][0]["title"] == "red candle no 0"


def test_events_are_visible_at_once(served: Served) -> None:
    top = served.recommend(user_id="eve", k=1)["items"][0]["item_id"]
    status, stored = served.call("POST", "/v1/events", {"events": [{"user_id": "eve", "item_id": top}]})
    assert (status, stored["accepted"]) == (200, 1)
    assert served.recommend(user_id="eve", k=1)["items"][0]["item_id"] != top


def test_the_admin_socket_is_the_owners_alone(served: Served) -> None:
    path = served.state / "admin.sock"
    assert path.stat().st_mode & 0o077 == 0
    assert served.call("GET", "/admin/releases")[0] == 404  # on the data listener there is no such thing
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))


def test_a_killed_worker_is_covered_for_and_comes_back(served: Served) -> None:
    os.kill(served.pid(), signal.SIGKILL)
    answer = served.recommend(user_id="u3", k=5)
    assert len(answer["items"]) == 5
    begun = time.monotonic()
    while served.call("GET", "/health/ready")[0] == 200 and time.monotonic() - begun < 2:
        time.sleep(0.02)
    status, told = served.call("GET", "/health/ready")
    assert status == 503
    assert "starting" in told["reasons"][0]
    answer = served.recommend(user_id="u3", k=5)
    assert answer["coverage"]["channels"]["generative"]["outcome"] == "error"
    assert answer["coverage"]["degraded"]
    while served.call("GET", "/health/ready")[0] != 200:
        assert time.monotonic() - begun < 60
        time.sleep(0.1)
    assert served.recommend(user_id="u3", k=5)["coverage"]["channels"]["generative"]["outcome"] == "ok"


def test_a_bundle_is_swapped_and_rolled_back_without_a_failed_request(
    served: Served, run: Path, tmp_path: Path
) -> None:
    from genrecall.catalog.store import Catalog
    from genrecall.recipes import stages

    pipeline.retrained(run, tmp_path / "model", seed=5)
    other = stages.export(
        Catalog.load(run / "catalog"), sid=run / "sid", model=tmp_path / "model", out=tmp_path / "bundle",
        recipe=pipeline.RECIPE,
    )  # fmt: skip
    old = ask(served.state, "GET", "/admin/releases")["active"]["digest"]
    stop, seen, failed = threading.Event(), set(), []

    def load() -> None:
        while not stop.is_set():
            try:
                seen.add(served.recommend(user_id="u5", k=3)["versions"]["bundle"])
            except (AssertionError, OSError) as error:
                failed.append(error)
            time.sleep(0.01)

    client = threading.Thread(target=load)
    client.start()
    try:
        staged = served.admin("releases/stage", bundle=str(tmp_path / "bundle"))
        assert (staged["active"]["digest"], staged["candidate"]["digest"]) == (old, other.digest)
        served.admin("releases/canary", percent=50)
        versions = {served.recommend(user_id=f"u{n}")["versions"]["bundle"] for n in range(30)}
        assert versions == {old, other.digest}
        assert served.admin("releases/activate")["active"]["digest"] == other.digest
        assert served.recommend(user_id="u3")["versions"]["bundle"] == other.digest
        while other.digest not in seen and not failed:
            time.sleep(0.01)
        assert served.admin("releases/rollback")["active"]["digest"] == old
        assert served.recommend(user_id="u3")["versions"]["bundle"] == old
    finally:
        stop.set()
        client.join()
    assert failed == []
    assert seen == {old, other.digest}


def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(served: Served, run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run / "bundle", damaged)
    with (damaged / "items.parquet").open("r+b") as file:
        file.write(b"no parquet")
    for bundle, what, seen in (
        (damaged, f"{damaged} is damaged", "items.parquet does not match its checksum"),
        (run / "catalog", f"{run / 'catalog'} is of another kind", "catalog"),
        (tmp_path, f"there is no artifact at {tmp_path}", "a directory without manifest.json"),
    ):
        command = [sys.executable, "-m", "genrecall", "release", "stage", str(bundle), "--state", str(served.state)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert lines[:2] == [f"error: the service refused: {what}", f"  seen:    {seen}"]
        assert [line.split(":")[0].strip() for line in lines[2:]] == ["allowed", "do"]
        assert "see the service's log" not in done.stderr
    assert served.call("GET", "/health/ready")[0] == 200


def test_a_stop_drains_and_the_next_start_knows_what_was_told(run: Path, tmp_path: Path) -> None:
    with serve(run / "bundle", tmp_path / "state", "--classic-only") as first:
        events = [{"user_id": "late", "item_id": f"i{n}", "timestamp": n} for n in range(3)]
        assert first.call("POST", "/v1/events", {"events": events})[1]["accepted"] == 3
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(15) == 0
    with serve(run / "bundle", tmp_path / "state", "--classic-only") as second:
        history = second.call("GET", "/v1/users/late")[1]["history"]
        assert [event["item_id"] for event in history] == ["i0", "i1", "i2"]
        assert second.recommend(user_id="late", k=3)["coverage"]["channels"].keys() == {"item_cf", "transition"}


def test_a_stop_that_is_sent_to_every_process_ends_no_channel_before_the_gateway(served: Served) -> None:
    """As systemd and `timeout` send it: channels must be there for what is drained."""
    pids = {name: served.pid(name) for name in ("worker 0", "classic")}
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    assert {name: served.pid(name) for name in pids} == pids
    assert not served.recommend(user_id="u3", k=5)["coverage"]["degraded"]

"""`genrecall serve --gateways 2`: real processes that answer as one service, whichever a connection reaches."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genrecall.experiment.exposure import Exposure, ExposureLog, read_exposures
from genrecall.serve.admin_client import ask
from genrecall.serve.chaos.target import wait_until
from genrecall.serve.http.rate import Rate
from genrecall.serve.recent import Traffic
from genrecall.serve.shared import Seat, Tally, forget
from tests.serve.process import Served, serve

MANY = 16  # connections: that the kernel hands all of them to one of two has a chance of 2⁻¹⁵
RATE = 30


@pytest.fixture(scope="module")
def two(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("two") / "state"
    with serve(run / "bundle", state, "--classic-only", "--gateways", "2", "--deadline-ms", "5000") as running:
        yield running


def _gateways(served: Served) -> dict[str, Any]:
    return dict(ask(served.state, "GET", "/admin/releases")["gateways"])


def _answered(served: Served) -> dict[str, float]:
    """Recommendations by gateway."""
    lines = served.call("GET", "/metrics")[1].splitlines()
    found = [line for line in lines if "duration_seconds_count" in line and 'route="/v1/recommend"' in line]
    return {line.partition('gateway="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in found}


@pytest.mark.gateways
def test_both_answer_and_are_measured_apart(two: Served) -> None:
    for _ in range(MANY):
        assert len(two.recommend(user_id="u3", k=5)["items"]) == 5
    answered = _answered(two)
    assert set(answered) == {"0", "1"}
    assert sum(answered.values()) >= MANY
    health = two.call("GET", "/health")[1]
    assert (health["gateways"], health["traffic"]["answers"]) == (2, sum(answered.values()))


@pytest.mark.gateways
def test_what_one_learns_all_know(two: Served) -> None:
    top = two.recommend(user_id="eve", k=1)["items"][0]["item_id"]
    assert two.call("POST", "/v1/events", {"events": [{"user_id": "eve", "item_id": top}]})[0] == 200
    found = [two.recommend(user_id="eve", k=1) for _ in range(MANY)]
    assert all(answer["items"][0]["item_id"] != top for answer in found)
    explained = [two.call("GET", f"/v1/explain/{answer['request_id']}") for answer in found]
    assert [told["request_id"] for _, told in explained] == [answer["request_id"] for answer in found]
    assert two.call("DELETE", "/v1/users/eve")[1]["erased_events"] == 1
    for answer in found:
        assert two.call("GET", f"/v1/explain/{answer['request_id']}")[0] == 404


@pytest.mark.gateways
def test_a_change_is_acknowledged_when_all_serve_it(two: Served, run: Path) -> None:
    top = two.recommend(user_id="u3", k=1)["items"][0]["item_id"]
    two.admin("items/delist", item_ids=[top])
    assert all(two.recommend(user_id="u3", k=1)["items"][0]["item_id"] != top for _ in range(MANY))
    two.admin("items/delist", item_ids=[top], delisted=False)
    assert all(two.recommend(user_id="u3", k=1)["items"][0]["item_id"] == top for _ in range(MANY))
    two.admin("releases/stage", bundle=str(run / "bundle"))
    assert {two.call("POST", "/v1/recommend", {"k": 1, "release": "candidate"})[0] for _ in range(MANY)} == {200}
    two.admin("releases/canary", percent=100)
    roles = {two.recommend(user_id=f"u{n}", k=1)["versions"]["release"] for n in range(MANY)}
    assert roles == {"candidate"}
    two.admin("releases/rollback")
    assert {two.call("POST", "/v1/recommend", {"k": 1, "release": "candidate"})[0] for _ in range(MANY)} == {409}


@pytest.mark.gateways
def test_a_killed_one_is_covered_for_and_comes_back(two: Served) -> None:
    killed = _gateways(two)["1"]["pid"]
    killer = threading.Timer(0.2, os.kill, (killed, signal.SIGKILL))
    killer.start()
    acknowledged = []
    for number in range(10_000):
        event = {"user_id": "told", "item_id": f"i{number}", "event_id": str(number)}
        with contextlib.suppress(OSError, http.client.HTTPException):  # the killed one's connections break
            if two.call("POST", "/v1/events", {"events": [event]})[0] == 200:
                acknowledged.append(f"i{number}")
        if killer.finished.is_set() and len(acknowledged) > 2 * MANY:
            break
    stored = [event["item_id"] for event in two.call("GET", "/v1/users/told")[1]["history"]]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    wait_until(lambda: _gateways(two)["1"]["state"] == "starting", 5)
    assert all(len(two.recommend(user_id="u3", k=5)["items"]) == 5 for _ in range(MANY))
    assert wait_until(lambda: _gateways(two)["1"]["state"] == "ready", 30) is not None
    assert _gateways(two)["1"]["restarts"] == 1
    before = _answered(two).get("1", 0.0)
    for _ in range(MANY):
        two.recommend(user_id="u3", k=5)
    assert _answered(two)["1"] > before


@pytest.mark.gateways
def test_what_a_killed_one_had_asked_for_takes_nobodys_place(run: Path, tmp_path: Path) -> None:
    """Its rows are forgotten when it ends, not only when another has opened the bundle."""
    options = ("--gateways", "2", "--device", "cpu", "--deadline-ms", "5000")
    with serve(run / "bundle", tmp_path / "state", *options) as own:

        def leave() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):  # as its gateway is killed
                own.recommend(user_id="u3", k=5)

        def rows() -> int:
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return int(own.call("GET", "/health")[1]["worker"]["rows"])

        for _ in range(3):  # each time another starts later: 0.2, 0.4, 0.8 s
            assert wait_until(lambda: _gateways(own)["1"]["state"] == "ready", 30) is not None
            killed, worker = _gateways(own)["1"]["pid"], own.pid()
            os.kill(worker, signal.SIGSTOP)
            asking = [threading.Thread(target=leave) for _ in range(MANY)]
            for one in asking:
                one.start()
            assert wait_until(lambda: rows() == 12 * MANY, 5) is not None
            os.kill(killed, signal.SIGKILL)
            os.kill(worker, signal.SIGCONT)
            for one in asking:
                one.join()
            forgotten = wait_until(lambda: rows() == 0, 30)
            last = _gateways(own)["1"]["pid"]
        assert forgotten is not None
        assert last is None, f"forgotten after {forgotten:.1f} s, when another was there"


@pytest.mark.gateways
def test_another_service_does_not_get_the_same_port(two: Served, run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "genrecall", "serve", str(run / "bundle"), "--port", str(two.port), "--state",
               str(tmp_path / "state"), "--classic-only", "--gateways", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot listen there" in done.stderr


@pytest.mark.gateways
def test_a_stop_takes_all_down(run: Path, tmp_path: Path) -> None:
    with serve(run / "bundle", tmp_path / "state", "--classic-only", "--gateways", "2") as own:
        pids = [gateway["pid"] for gateway in _gateways(own).values()]
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(30) == 0
        assert len(pids) == 2
        assert wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), 5) is not None


def test_rates_are_counted_once_for_all_processes(tmp_path: Path) -> None:
    first, second = Rate(RATE, tmp_path / "rate"), Rate(RATE, tmp_path / "rate")
    let_in = sum(rate.wait_s("someone") == 0 for _ in range(200) for rate in (first, second))
    assert 2 * RATE <= let_in <= 2 * RATE + 5  # a burst of two seconds, and what came in meanwhile
    assert first.wait_s("someone else") == 0


def test_many_callers_share_a_table_of_fixed_size() -> None:
    rate = Rate(1.0)
    assert [rate.wait_s("one") == 0 for _ in range(3)] == [True, True, False]
    assert all(rate.wait_s(f"caller {number}") == 0 for number in range(5000))


def test_a_tally_is_the_sum_of_all_processes(tmp_path: Path) -> None:
    seat = Seat(directory=tmp_path, number=0, gateways=2)
    own = Tally(tmp_path / "rows", seat)
    own.add(3)
    code = (
        "import sys; from pathlib import Path; from genrecall.serve.shared import Seat, Tally\n"
        "d = Path(sys.argv[1]); t = Tally(d / 'rows', Seat(directory=d, number=1, gateways=2))\n"
        "t.add(4); print(t.total)"
    )
    for _ in range(2):  # the second takes the place of the first, which ended and left its part behind
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), own.total) == ("7", 7)
    forget(replace(seat, directory=tmp_path.parent, number=2), 1)  # by the keeper, whose directory is above
    assert own.total == 3


def test_minutes_are_joined(tmp_path: Path) -> None:
    from tests.serve.test_insight import _answer

    parts = [Traffic(), Traffic()]
    for place, traffic in enumerate(parts):
        for number in range(5):
            traffic.see(_answer("active", 10.0 * number, reasons=("timeout: item_cf",) if place else ()), 10, "short")
    joined = parts[0].joined([parts[1].told()]).summary()
    assert (joined["answers"], joined["degraded_share"]) == (10, 0.5)
    assert joined["reasons"] == {"timeout: item_cf": 5}
    assert parts[0].summary()["answers"] == 5


def test_a_cut_line_of_the_exposure_log_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "exposures.jsonl"
    settings: dict[str, Any] = {"arms": {}, "items": [], "total_ms": 1.0, "degraded": False, "filled": 0, "k": 1}
    for number in range(2):
        log = ExposureLog(file)
        log.append(Exposure(time=time.time(), user_id="u", request_id=str(number), **settings))
        log.close()
        with file.open("a", encoding="utf-8") as stream:
            stream.write('{"time": 1.0, "user_id": "u", "requ')  # killed here
    assert [one.request_id for one in read_exposures(file)] == ["0", "1"]

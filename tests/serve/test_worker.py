"""The worker process: right answers, cancelled work, and what happens when it dies or hangs."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from genrecall import Recommender
from genrecall.engine.worker.frames import Frame
from genrecall.engine.worker.record import Record
from genrecall.errors import ArtifactError
from genrecall.recall.channel import Query
from genrecall.recall.ensemble import EnsembleChannel
from genrecall.serve.admission import grant
from genrecall.serve.lanes import Asked, LaneDiedError, LaneFailedError, LaneShedError, Listed
from genrecall.serve.worker.config import WorkerConfig
from genrecall.serve.worker.cost import BatchCost
from genrecall.serve.worker.generative import Desk
from genrecall.serve.worker.lane import Facts, Suspects, WorkerLane
from genrecall.serve.worker.messages import arrays_of
from genrecall.serve.worker.remote import ClassicProcess
from genrecall.serve.worker.replicas import Replicas
from tests.serve.world import shop

pytestmark = pytest.mark.slow
HISTORY = np.array([0, 8, 3], np.int32)


def _asked(beam: int = 12, k: int = 10, budget_s: float = 5.0, trace: bool = False) -> Asked:
    query = Query(history=HISTORY, exclude=np.unique(HISTORY))
    return Asked(query=query, k=k, beam=beam, budget_s=budget_s, trace=trace, user="u1")


def _with_worker(run: Path, scenario: Callable[[WorkerLane], Awaitable[None]]) -> None:
    async def whole() -> None:
        worker = WorkerLane((run / "bundle").resolve(), WorkerConfig(device="cpu", threads=1))
        await worker.start()
        try:
            await scenario(worker)
        finally:
            await worker.close()

    asyncio.run(whole())


async def _until(condition: Callable[[], bool], within_s: float) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


def test_one_workers_life(run: Path) -> None:
    """Several promises on one process: starting one costs seconds."""

    async def scenario(worker: WorkerLane) -> None:
        await _answers_as_the_library(worker, run)
        await _batches_what_waits(worker)
        await _cold_late_and_cancelled(worker)
        await _stopped_is_not_ready(worker)
        await _killed_is_started_again(worker)

    _with_worker(run, scenario)


async def _answers_as_the_library(worker: WorkerLane, run: Path) -> None:
    expected = shop(run).generative.recall([_asked().query], 10, beams=[12])
    found = await worker.ask(_asked(trace=True))
    assert found.items.tolist() == expected.items[0].tolist()
    np.testing.assert_allclose(found.scores, expected.scores[0], atol=1e-5)
    assert found.levels is not None
    assert len(found.levels) == 2
    narrow = await worker.ask(_asked(beam=3))
    assert len(narrow.items) <= 10
    assert worker.facts is not None
    assert worker.facts.digest == shop(run).digest


async def _batches_what_waits(worker: WorkerLane) -> None:
    alone = (await worker.ask(_asked())).items.tolist()
    found = await asyncio.gather(*(worker.ask(_asked()) for _ in range(40)))
    assert all(listed.items.tolist() == alone for listed in found)
    child = worker.process.child
    assert child is not None
    before = child.record.batches
    await asyncio.gather(*(worker.ask(_asked()) for _ in range(40)))
    assert child.record.batches - before < 40
    assert worker.rows == 0


async def _cold_late_and_cancelled(worker: WorkerLane) -> None:
    cold = await worker.ask(Asked(query=Query(), k=5, beam=12))
    assert cold.cold
    assert len(cold.items) == 0
    with pytest.raises(TimeoutError):
        await worker.ask(_asked(budget_s=0.0))
    tasks = [asyncio.create_task(worker.ask(_asked())) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert worker.rows == 0
    child = worker.process.child
    assert child is not None
    await _until(lambda: child.record.rows == (0, 0), 2.0)  # nor did the engine keep any of their beams
    tasks = [asyncio.create_task(worker.ask(_asked())) for _ in range(200)]
    await _until(lambda: child.record.begun > 0, 2.0)
    for task in tasks:
        task.cancel()
    assert asyncio.CancelledError in {type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)}
    assert worker.rows == 0
    await _until(lambda: child.record.rows == (0, 0) and child.record.begun == 0, 2.0)
    assert len((await worker.ask(_asked())).items) == 10
    await worker.purge("u1")


async def _stopped_is_not_ready(worker: WorkerLane) -> None:
    assert worker.process.pid is not None
    assert worker.process.state == "ready"
    os.kill(worker.process.pid, signal.SIGSTOP)
    assert await _until(lambda: worker.process.state == "stalled", 4.0) < 2.0
    with pytest.raises(LaneFailedError, match="stalled"):
        await worker.ask(_asked())
    os.kill(worker.process.pid, signal.SIGCONT)
    await _until(lambda: worker.process.state == "ready", 2.0)


async def _killed_is_started_again(worker: WorkerLane) -> None:
    first = worker.process.pid
    assert first is not None
    asked = [asyncio.create_task(worker.ask(_asked())) for _ in range(8)]
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    assert {type(found) for found in await asyncio.gather(*asked, return_exceptions=True)} <= {LaneDiedError, Listed}
    await _until(lambda: worker.process.state != "ready", 2.0)
    with pytest.raises(LaneFailedError):
        await worker.ask(_asked())
    took = await _until(lambda: worker.process.state == "ready", 30.0)
    assert worker.process.pid != first
    assert worker.process.restarts == 1
    assert len((await worker.ask(_asked())).items) == 10
    print(f"back after {took:.1f} s")


def test_a_request_that_kills_workers_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    suspects = Suspects()
    for _ in range(2):
        assert not suspects.is_quarantined(b"f")
        suspects.blame(b"f")
    assert suspects.is_quarantined(b"f")
    assert not suspects.is_quarantined(b"g")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    assert not suspects.is_quarantined(b"f")


def test_one_of_two_dies_and_nobody_notices(run: Path) -> None:
    async def scenario() -> None:
        workers = Replicas((run / "bundle").resolve(), WorkerConfig(device="cpu", threads=1, replicas=2))
        await workers.start()
        try:
            own = workers.of("u1")
            assert own is not None
            assert own is workers.of("u1")
            assert {workers.of(f"u{n}") for n in range(20)} == set(workers.lanes)
            pid = own.process.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)  # so that what is asked is on its way when it dies
            asked = [asyncio.create_task(workers.ask(_asked())) for _ in range(6)]
            await asyncio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
            found = await asyncio.gather(*asked)
            assert all(len(listed.items) == 10 for listed in found)
            assert workers.retried > 0
            assert workers.state == "ready"
            other = workers.of("u1")
            assert other is not None
            assert other is not own
        finally:
            await workers.close()

    asyncio.run(scenario())


def test_the_classic_process_answers_as_its_channels(run: Path) -> None:
    async def scenario() -> None:
        process = ClassicProcess((run / "bundle").resolve())
        await process.start()
        lanes = process.lanes()
        try:
            names = ["popularity", "item_cf", "transition"]
            found = await asyncio.gather(*(lanes[name].ask(asked) for name in names))
            for name, listed in zip(names, found, strict=True):
                expected = shop(run).channels[name].recall([asked.query], 10).items[0]
                assert listed.items.tolist() == expected[expected >= 0].tolist()
            late = await asyncio.gather(lanes["item_cf"].ask(replace(asked, budget_s=0.0)), return_exceptions=True)
            assert isinstance(late[0], TimeoutError)
            pid = process.process.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await _until(lambda: process.process.state != "ready", 2.0)
            with pytest.raises(LaneFailedError):
                await lanes["item_cf"].ask(asked)
            await _until(lambda: process.process.state == "ready", 60.0)
            assert len((await lanes["item_cf"].ask(asked)).items) == len(found[1].items)
        finally:
            await process.close()

    asked = _asked()
    asyncio.run(scenario())


def test_several_tables_answer_as_their_ensemble(run: Path, tmp_path: Path) -> None:
    first, second = (Recommender.load(run / "bundle", device="cpu", beam=beam) for beam in (12, 5))
    ensemble = EnsembleChannel([*first.generative.members, *second.generative.members])
    queries = [Query(history=HISTORY, exclude=np.unique(HISTORY)), Query(history=HISTORY[:1])]
    expected = ensemble.recall(queries, 6, beams=[9, 7])
    desk = Desk(replace(first, generative=ensemble), Record(tmp_path / "record"))

    async def ask(query: Query, beam: int) -> Frame:
        head = {"k": 6, "beam": beam, "narrowest": None, "timeout_s": 30.0, "trace": True, "user": "u1", "profile": {},
                "text": None, "tag": beam}  # fmt: skip
        return await desk.recall(Frame(head=head, arrays=arrays_of(query)))

    async def both() -> list[Frame]:
        return await asyncio.gather(*(ask(query, beam) for query, beam in zip(queries, (9, 7), strict=True)))

    found = asyncio.run(both())
    desk.engine.close()
    assert desk.opened["passes"] == 4
    for row, frame in enumerate(found):
        assert frame.arrays["items"].tolist() == expected.items[row].tolist()
        np.testing.assert_allclose(frame.arrays["scores"], expected.scores[row], atol=1e-4)
        assert frame.head["levels"] is None


def test_a_bundle_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        worker = WorkerLane(tmp_path / "nowhere", WorkerConfig(start_s=60))
        with pytest.raises(ArtifactError, match="there is no artifact at"):
            await worker.start()

    asyncio.run(scenario())


def test_beams_are_narrowed_before_the_channel_is_left_out(run: Path) -> None:
    worker = WorkerLane(run / "bundle")
    worker.facts = Facts(digest="d", device="cpu", passes=1, reads_search=False)
    worker.cost = BatchCost(0.01, 0.001)
    seen = []
    for rows in range(0, 400, 10):
        worker._rows.add(rows - worker.rows)
        seen.append(grant(worker, beam=64, k=10, budget_s=0.25))
    beams = [granted.beam for granted in seen]
    assert beams[0] == 64
    assert beams == sorted(beams, reverse=True)
    assert set(beams) == {64, 32, 16, 10, 0}
    assert next(granted.reason for granted in seen if granted.beam == 0) == "shed"
    assert {granted.reason for granted in seen if 0 < granted.beam < 64} == {"narrowed"}
    worker._rows.add(64 - worker.rows)
    assert grant(worker, beam=64, k=10, budget_s=0.25).beam == 64
    for _ in range(20):  # requests wait longer than their batches take: less is let in
        worker.cost.waited(0.1, 0.25, answered=True)
    assert grant(worker, beam=64, k=10, budget_s=0.25).beam < 64
    worker._rows.add(-worker.rows)
    assert grant(worker, beam=64, k=10, budget_s=0.001).beam == 10


def test_what_a_worker_has_begun_waits_no_more(run: Path, tmp_path: Path) -> None:
    worker, record = WorkerLane(run / "bundle"), Record(tmp_path / "record")
    worker.facts = Facts(digest="d", device="cuda", passes=1, reads_search=False)
    worker.cost = BatchCost(0.01, 0.001)
    worker._rows.add(60)
    assert worker.expected_s(10) == pytest.approx(0.01 * 2 + 0.07), "of a worker that tells nothing all may wait"
    worker.process._child, worker.process._is_open = SimpleNamespace(record=record), True  # type: ignore[assignment]
    record.begin(40)
    record.busy(5.0)
    assert worker.expected_s(10) == pytest.approx(5 + 0.01 + 0.03, abs=1)
    record.busy(0.0)  # it should have been done by now
    assert worker.expected_s(10) == pytest.approx(0.01 + 0.03)
    record.begin(70)  # a moment in which a reply has arrived but not left, or left but not arrived
    assert worker.expected_s(10) == pytest.approx(0.01 + 0.01)


def test_what_requests_wait_beside_their_batches_is_learned_also_from_who_was_not_answered() -> None:
    cost = BatchCost(0.01, 0.001)
    for _ in range(100):
        cost.waited(0.1, 0.3, answered=False)  # given up 0.2 s after their batches should have ended
    assert cost.excess_s == pytest.approx(0.2, rel=0.01)
    cost.waited(0.1, 0.05, answered=False)  # a client that left early: nothing is learned from that
    assert cost.excess_s == pytest.approx(0.2, rel=0.01)
    rng = np.random.default_rng(0)
    for waited_s in rng.uniform(0.05, 0.15, 2000):
        cost.waited(0.1, waited_s, answered=True)
    assert 0.0 < cost.excess_s < 0.04  # most, not all, wait no longer than that
    cost.waited(0.01, 60.0, answered=True)  # a machine that stood still says nothing of the next request
    assert cost.excess_s < 0.06


def test_a_shed_error_is_no_failure() -> None:
    assert not issubclass(LaneShedError, LaneFailedError)


def test_the_cost_of_batches_is_learned() -> None:
    cost = BatchCost(0.5, 0.5)
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows = int(rng.integers(10, 500))
        cost.see(rows, 0.004 + 0.0002 * rows + abs(rng.normal(0, 1e-4)))
    assert cost.base_s == pytest.approx(0.004, abs=0.001)
    assert cost.row_s == pytest.approx(0.0002, rel=0.05)
    for _ in range(200):
        cost.see(50, 0.028)  # of one size, and twice as slow: the forecast for that size follows
    assert cost.seconds(50, 50) == pytest.approx(0.028, rel=0.05)
    rows = cost.batch_rows(50)
    assert cost.base_s + rows * cost.row_s == pytest.approx(2 * cost.seconds(50, 50), rel=0.01)
    assert cost.seconds(3 * rows, 50) == pytest.approx(3 * cost.base_s + 3 * rows * cost.row_s)

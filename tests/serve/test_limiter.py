"""How many requests may be on their way."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from genrecall.recall.channel import Query
from genrecall.serve.admission import grant
from genrecall.serve.lanes import Asked, LaneShedError, Listed
from genrecall.serve.limiter import Limiter
from genrecall.serve.recalling import recalled
from genrecall.serve.worker.lane import Facts, WorkerLane


def test_what_waits_for_the_engine_takes_no_room_but_of_the_whole() -> None:
    limiter = Limiter(most=20, deadline_s=0.25)
    limiter.limit = 8.0
    assert not limiter.is_full(7)
    assert limiter.is_full(8)
    limiter.parked = 5
    assert not limiter.is_full(12)
    assert limiter.is_full(13)
    limiter.parked = 20
    assert limiter.is_full(20)


def test_the_limit_follows_how_quick_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limiter = Limiter(most=256, deadline_s=0.25)
    begun = limiter.limit
    for _ in range(10):
        limiter.answered(0.01, inflight=2)
    assert limiter.limit == begun  # nobody needs more
    for _ in range(int(begun)):
        limiter.answered(0.01, inflight=32)
    assert limiter.limit == pytest.approx(begun + 1, abs=0.05)
    now += 1
    for _ in range(20):  # all of them were on their way already
        limiter.answered(0.1, inflight=32)
    assert limiter.limit == pytest.approx(0.8 * (begun + 1), rel=0.01)
    for _ in range(50):
        now += 0.2
        limiter.answered(0.1, inflight=32)
    assert limiter.limit == 4.0
    limiter.limit = begun
    limiter.lag_s = 0.1  # what waits for the loop is not seen by the answer, but counts
    now += 1
    limiter.answered(0.001, inflight=32)
    assert limiter.limit == pytest.approx(0.8 * begun)


def test_a_loop_that_lags_lets_in_less_and_a_calm_one_more_again() -> None:
    async def scenario() -> None:
        limiter = Limiter(most=256, deadline_s=0.25)
        begun = limiter.limit
        watching = asyncio.create_task(limiter.watch())
        for inflight in (3, 20):
            limiter.is_full(inflight)
            await asyncio.sleep(0.03)
            assert limiter.limit == begun  # what lags with 3 on their way is not their fault
            time.sleep(0.1)
            await asyncio.sleep(0.03)
            assert limiter.lag_s > 0.02
        assert limiter.limit < begun
        for _ in range(8):
            time.sleep(0.05)
            await asyncio.sleep(0.03)
        assert limiter.limit == begun / 2  # slow answers alone lower it further
        limiter.limit = 8.0
        time.sleep(0.05)
        await asyncio.sleep(0.03)
        assert limiter.limit == 8.0
        watching.cancel()
        limiter.limit, limiter.lag_s = 4.0, 0.0
        for _ in range(600):
            limiter.answered(0.001, inflight=1)
        assert limiter.limit == pytest.approx(begun, abs=0.1)  # a short burst finds room, and nobody needs more

    asyncio.run(scenario())


def test_an_engine_on_the_gateways_cores_is_left_out_before_requests_are_refused() -> None:
    limiter = Limiter(most=256, deadline_s=0.25)
    limiter.limit = 4.0
    assert not limiter.is_full(3)
    assert not limiter.is_refusing
    assert limiter.is_full(4)
    assert limiter.is_refusing
    for device, beam in (("cpu", 0), ("cuda:0", 50)):
        worker = WorkerLane(Path("nowhere"))
        worker.facts = Facts(digest="d", device=device, passes=1, reads_search=False)
        granted = grant(worker, beam=50, k=10, budget_s=1.0, refusing=limiter.is_refusing)
        assert (granted.beam, granted.reason) == (beam, "" if beam else "shed")


@dataclass
class _Slow:
    """A lane that waits until it is told."""

    name: str
    until: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, asked: Asked) -> Listed:
        await self.until.wait()
        return Listed(items=np.arange(3, dtype=np.int32), scores=np.zeros(3, np.float32))

    async def close(self) -> None: ...


@dataclass
class _Full:
    """A lane that takes nothing."""

    name: str

    async def ask(self, asked: Asked) -> Listed:
        raise LaneShedError(self.name)

    async def close(self) -> None: ...


def test_a_request_is_parked_while_the_engine_has_it() -> None:
    async def scenario() -> None:
        limiter, engine = Limiter(most=8, deadline_s=1.0), _Slow("generative")
        asked = Asked(query=Query(), k=3)
        lanes = {"generative": engine, "item_cf": _Full("item_cf")}
        running = asyncio.create_task(recalled(lanes, {"item_cf": asked, "generative": asked}, limiter))
        await asyncio.sleep(0.01)
        assert limiter.parked == 1
        engine.until.set()
        found = await running
        assert [(name, one.coverage.outcome) for name, one in found.items()] == [
            ("item_cf", "shed"),
            ("generative", "ok"),
        ]
        assert limiter.parked == 0
        engine.until.clear()
        left = asyncio.create_task(recalled(lanes, {"generative": asked}, limiter))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert limiter.parked == 0

    asyncio.run(scenario())

"""A worker whose model is spread over two processes: the library's answers, and a new pair where one of them dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from genrecall.recall.channel import Query
from genrecall.serve.lanes import Asked, LaneFailedError
from genrecall.serve.worker.config import WorkerConfig
from genrecall.serve.worker.lane import WorkerLane
from tests.serve.world import shop

HISTORY = np.array([0, 8, 3], np.int32)
ENDS_WITHIN_S, BACK_WITHIN_S = 30.0, 240.0


def _asked() -> Asked:
    return Asked(query=Query(history=HISTORY, exclude=np.unique(HISTORY)), k=10, beam=12, budget_s=30.0, user="u1")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def _until(condition, within_s: float) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


@pytest.mark.ranks
def test_a_pair_answers_and_is_replaced_together(run: Path) -> None:
    expected = shop(run).generative.recall([_asked().query], 10, beams=[12])

    async def scenario() -> None:
        config = WorkerConfig(device="cpu", threads=1, ranks=2, sequence_tokens=16)
        worker = WorkerLane((run / "bundle").resolve(), config)
        await worker.start()
        try:
            found = await worker.ask(_asked())
            assert found.items.tolist() == expected.items[0].tolist()
            np.testing.assert_allclose(found.scores, expected.scores[0], atol=1e-4)
            first = worker.process.pid
            assert first is not None
            (other,) = _children(first)
            os.kill(other, signal.SIGKILL)
            gone = await _until(lambda: worker.process.pid != first, ENDS_WITHIN_S)
            with pytest.raises(LaneFailedError):  # the other channels answer meanwhile
                await worker.ask(_asked())
            back = await _until(lambda: worker.is_ready, BACK_WITHIN_S)
            assert (await worker.ask(_asked())).items.tolist() == found.items.tolist()
            print(f"gone after {gone:.2f} s, back after {back:.1f} s")
        finally:
            await worker.close()

    asyncio.run(scenario())


def test_replicas_of_several_ranks_do_not_share_gpus() -> None:
    config = WorkerConfig(device="cuda", replicas=3, ranks=2)
    assert [config.device_of(replica) for replica in range(3)] == ["cuda:0", "cuda:2", "cuda:4"]

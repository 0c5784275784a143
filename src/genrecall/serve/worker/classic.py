"""The classic channels' process: they compute here, so that the gateway's loop has the interpreter to itself.

| kind | head, arrays | reply |
|---|---|---|
| open | | opened: channels |
| recall | channels, k, budgets_s, profile, text; history int32, exclude int32, times int64 | lists: outcomes
  (by channel ``ok``, ``timeout``, ``shed`` or ``error``), seconds; ``items NAME`` int32 (n,), ``scores NAME``
  float32 (n,) |

Each channel has a thread of its own, so that one which hangs or fails leaves the others as they are.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.engine.worker.frames import Frame
from genrecall.engine.worker.record import Record
from genrecall.engine.worker.server import Handler
from genrecall.serve.lanes import Asked, Lane, LaneFailedError, LaneShedError, Listed, ThreadLane
from genrecall.serve.settle import settle
from genrecall.serve.worker import life
from genrecall.serve.worker.messages import query_of

_BEAT_S, _SWITCH_S, _BEHIND = 0.25, 0.005, 10


async def _outcome(lane: Lane, asked: Asked) -> tuple[str, float, Listed | None]:
    begun, listed = time.monotonic(), None
    try:
        async with asyncio.timeout(asked.budget_s):
            outcome, listed = "ok", await lane.ask(asked)
    except TimeoutError:
        outcome = "timeout"
    except LaneShedError:
        outcome = "shed"
    except LaneFailedError:
        outcome = "error"
    return outcome, time.monotonic() - begun, listed


def main(directory: str, bundle: str) -> None:
    """The process."""
    from genrecall.serve.release import channels_of

    sys.setswitchinterval(_SWITCH_S)
    lanes: dict[str, Lane] = {}
    record = Record(Path(directory) / "record")
    beating: list[asyncio.Task[None]] = []

    async def open_(frame: Frame) -> Frame:
        if not lanes:
            found = await asyncio.to_thread(lambda: channels_of(Contents.open(bundle)))
            lanes.update({name: ThreadLane(channel) for name, channel in found.items()})
            beating.append(asyncio.create_task(_beat(record)))
            record.moved([], (0, 0))
            settle()
            life.step_back(_BEHIND)
        return Frame(head={"kind": "opened", "channels": list(lanes)})

    async def recall(frame: Frame) -> Frame:
        names = frame.head["channels"]
        query, k = query_of(frame), frame.head["k"]
        asked = [Asked(query=query, k=k, budget_s=budget_s) for budget_s in frame.head["budgets_s"]]
        found = await asyncio.gather(*(_outcome(lanes[n], one) for n, one in zip(names, asked, strict=True)))
        arrays: dict[str, np.ndarray] = {}
        for name, (_, _, listed) in zip(names, found, strict=True):
            if listed is not None:
                arrays |= {f"items {name}": listed.items, f"scores {name}": listed.scores}
        head = {"outcomes": [outcome for outcome, _, _ in found], "seconds": [seconds for _, seconds, _ in found]}
        return Frame(head={"kind": "lists", **head}, arrays=arrays)

    handlers: dict[str, Handler] = {"open": open_, "recall": recall}
    life.answer(Path(directory), handlers)


async def _beat(record: Record) -> None:
    while True:
        record.moved([], (0, 0))
        await asyncio.sleep(_BEAT_S)

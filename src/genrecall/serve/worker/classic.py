"""The classic channels' process: they compute here, so that the gateway's loop has the interpreter to itself.

| kind | head, arrays | reply |
|---|---|---|
| open | | opened: channels |
| recall | channels, k, budgets_s, profile, text; history int32, exclude int32, times int64, barred uint8, of
  int32 | lists: outcomes
  (by channel ``ok``, ``timeout``, ``shed`` or ``error``), seconds; ``items NAME`` int32 (n,), ``scores NAME``
  float32 (n,) |

Each channel has a thread of its own, so that one which hangs or fails leaves the others as they are.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.engine.worker.frames import Frame
from genrecall.engine.worker.record import Record
from genrecall.engine.worker.server import Handler
from genrecall.serve.lanes import Asked, LaneFailedError, LaneShedError, Listed, ThreadLane
from genrecall.serve.settle import settle
from genrecall.serve.worker import life
from genrecall.serve.worker.messages import query_of

_BEAT_S, _SWITCH_S, _BEHIND = 0.25, 0.005, 10


class _Asking:
    """One request to several channels, each within its budget; no task but the request's own.

    Args:
        lanes: of the channels.
        asked: of each of them.
    """

    def __init__(self, lanes: Sequence[ThreadLane], asked: Sequence[Asked]) -> None:
        self._begun = time.monotonic()
        self._asked, self._ended = asked, [0.0] * len(lanes)
        self._found = [lane.begin(one) for lane, one in zip(lanes, asked, strict=True)]
        for place, future in enumerate(self._found):
            future.add_done_callback(partial(self._end, place))

    async def outcomes(self) -> list[tuple[str, float, Listed | None]]:
        """What became of each: ``ok`` and its list, ``timeout``, ``shed`` or ``error``; and after how many seconds."""
        waiting = {future: one.budget_s for future, one in zip(self._found, self._asked, strict=True)}
        try:
            while waiting:
                await asyncio.wait(waiting, timeout=max(min(waiting.values()) - self._seconds(), 0.0))
                gone_s = self._seconds()
                waiting = {future: until for future, until in waiting.items() if not future.done() and until > gone_s}
        finally:
            for future in self._found:
                future.cancel()
        return [self._outcome(place, future) for place, future in enumerate(self._found)]

    def _outcome(self, place: int, future: asyncio.Future[Listed]) -> tuple[str, float, Listed | None]:
        if future.cancelled():
            return "timeout", self._seconds(), None
        error, took_s = future.exception(), self._ended[place]
        if error is None:
            return "ok", took_s, future.result()
        assert isinstance(error, LaneShedError | LaneFailedError)
        return "shed" if isinstance(error, LaneShedError) else "error", took_s, None

    def _end(self, place: int, _: asyncio.Future[Listed]) -> None:
        self._ended[place] = self._seconds()

    def _seconds(self) -> float:
        return time.monotonic() - self._begun


def main(directory: str, bundle: str) -> None:
    """The process."""
    from genrecall.serve.release import channels_of

    sys.setswitchinterval(_SWITCH_S)
    lanes: dict[str, ThreadLane] = {}
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
        found = await _Asking([lanes[name] for name in names], asked).outcomes()
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

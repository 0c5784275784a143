"""One gateway of several: a process that the keeper starts, follows its layout, and ends with it.

| kind | head | reply |
|---|---|---|
| open | | opened: it answers clients |
| follow | layout | done: it serves that |
| drain | | done: it has answered all that it took |
| explain, forget, traffic, metrics | see ``fellows`` | told: uint8 |
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from genrecall.engine.worker.connection import Connection
from genrecall.engine.worker.frames import Frame
from genrecall.engine.worker.record import Record
from genrecall.engine.worker.server import Handler
from genrecall.serve.config import ServeConfig
from genrecall.serve.event_loop import event_loop
from genrecall.serve.gateways.fellows import KINDS, tell, through
from genrecall.serve.gateways.layout import Layout
from genrecall.serve.listeners import Listeners, drain, listen
from genrecall.serve.metrics import Metrics
from genrecall.serve.releases import Releases
from genrecall.serve.service import Service
from genrecall.serve.shared import HUB, Seat
from genrecall.serve.state.ingest import Ingest
from genrecall.serve.state.state import open_state
from genrecall.serve.tracing import Tracing
from genrecall.serve.worker import life

_BEAT_S, _SWITCH_S = 0.25, 0.0005


class _Member:
    """What the process does when the keeper asks."""

    def __init__(self, directory: Path, config: ServeConfig, seat: Seat) -> None:
        self._config, self._seat = config, seat
        self._record = Record(directory / "record")
        self._opened = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    def handlers(self) -> dict[str, Handler]:
        """By kind."""
        fellows: dict[str, Handler] = {kind: partial(self._tell, kind) for kind in KINDS}
        return {"open": self._open, "follow": self._follow, "drain": self._drain, **fellows}

    async def _open(self, frame: Frame) -> Frame:
        config, seat = self._config, self._seat
        state = await asyncio.to_thread(open_state, config)
        metrics = Metrics()
        self._service = service = Service(config, Releases(config, state, metrics), state, Ingest(state), metrics)
        service.tracing = Tracing.from_environment()
        hub = await Connection.open(seat.directory / HUB)
        service.fellows = through(hub, seat.name)
        told = await hub.ask("layout", {})
        await service.releases.follow(_layout(told.head["layout"]))
        self._listeners = await Listeners.open(service, config, listen(config, shared=True))
        for task in self._listeners.tasks:
            task.add_done_callback(self._ended)
        self._beating = asyncio.create_task(self._beat())
        self._opened.set()
        self._record.moved([], (0, 0))
        return Frame(head={"kind": "opened"})

    async def _follow(self, frame: Frame) -> Frame:
        await self._opened.wait()
        await self._service.releases.follow(_layout(frame.head["layout"]))
        return Frame(head={"kind": "done"})

    async def _drain(self, frame: Frame) -> Frame:
        for task in self._listeners.tasks:
            task.remove_done_callback(self._ended)
        await drain(self._listeners.gate, self._config.drain_s)
        await self._listeners.close()
        await self._service.close()
        return Frame(head={"kind": "done"})

    async def _tell(self, kind: str, frame: Frame) -> Frame:
        await self._opened.wait()
        told = tell(self._service, self._listeners.health.measured, kind, frame.head)
        return Frame(head={"kind": "told"}, arrays={"told": np.frombuffer(told, np.uint8)})

    async def _beat(self) -> None:
        while True:
            self._record.moved([], (0, 0))
            await asyncio.sleep(_BEAT_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        os._exit(1)  # it listens no more: the keeper starts another


def main(directory: str, config: ServeConfig) -> None:
    """The process."""
    seat = config.seat
    assert seat is not None
    sys.setswitchinterval(_SWITCH_S)

    async def run() -> None:
        await life.served(Path(directory), _Member(Path(directory), config, seat).handlers())

    life.alive(Path(directory), nice=0)
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(run())


def _layout(told: Any) -> Layout:
    return msgspec.convert(told, Layout)

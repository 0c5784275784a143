"""Lanes to the classic channels' process: what one request asks of several channels travels as one frame."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genrecall.engine.worker.connection import WorkerDied
from genrecall.engine.worker.frames import Frame
from genrecall.errors import GenrecallError
from genrecall.serve.lanes import Asked, LaneDiedError, LaneFailedError, LaneShedError, Listed
from genrecall.serve.shared import Seat
from genrecall.serve.worker import messages
from genrecall.serve.worker.supervisor import supervised

_SHARE = 0.9  # of the budget: what is there by then travels back in time
_START_S = 600.0


@dataclass(eq=False)
class _Group:
    """What one request asked in one turn of the loop."""

    asked: dict[str, Asked] = field(default_factory=dict)
    waiting: dict[str, asyncio.Future[Listed]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class ClassicProcess:
    """The process and the lanes to it.

    Args:
        bundle: directory.
        seat: of one of several gateways; the keeper starts the process, the others connect to it.
    """

    def __init__(self, bundle: Path, seat: Seat | None = None) -> None:
        self._names: list[str] = []
        self._groups: dict[int, _Group] = {}
        place = None if seat is None else seat.directory / "classic"
        self.process = supervised(
            f"the classic channels of {bundle}", messages.classic, [str(bundle)], self._opened, _START_S, place, seat
        )

    async def start(self) -> None:
        """See ``Supervisor.start``."""
        await self.process.start()

    def lanes(self) -> Mapping[str, RemoteLane]:
        """A lane for each of its channels."""
        return {name: RemoteLane(name, self) for name in self._names}

    async def ask(self, name: str, asked: Asked) -> Listed:
        """One channel's list, asked together with what else the same query asks in this turn."""
        group = self._groups.get(id(asked.query))
        if group is None:
            group = self._groups[id(asked.query)] = _Group()
            asyncio.get_running_loop().call_soon(self._leave, group)
        future = group.waiting[name] = asyncio.get_running_loop().create_future()
        group.asked[name] = asked
        try:
            return await future
        finally:
            if group.task is not None and all(one.done() for one in group.waiting.values()):
                group.task.cancel()  # nobody waits any more: without effect where it is done

    async def close(self) -> None:
        """End it."""
        await self.process.close()

    def _opened(self, frame: Frame) -> None:
        self._names = frame.head["channels"]

    def _leave(self, group: _Group) -> None:
        del self._groups[id(next(iter(group.asked.values())).query)]
        group.task = asyncio.create_task(self._ask(group))

    async def _ask(self, group: _Group) -> None:
        names = [name for name, future in group.waiting.items() if not future.done()]
        if not names:
            return
        try:
            reply = await self._reply([group.asked[name] for name in names], names)
        except LaneFailedError as error:
            for future in group.waiting.values():
                if not future.done():
                    future.set_exception(error)
            return
        for name, outcome in zip(names, reply.head["outcomes"], strict=True):
            future = group.waiting[name]
            if future.done():
                continue
            if outcome == "ok":
                arrays = reply.arrays
                future.set_result(Listed(items=arrays[f"items {name}"], scores=arrays[f"scores {name}"]))
            else:
                future.set_exception(_ERRORS[outcome](name))

    async def _reply(self, asked: list[Asked], names: list[str]) -> Frame:
        child, query = self.process.child, asked[0].query
        if child is None or self.process.state != "ready":
            raise LaneFailedError(f"the classic channels are {self.process.state}")
        head = {
            "channels": names, "k": max(one.k for one in asked), "budgets_s": [one.budget_s * _SHARE for one in asked],
            "profile": dict(query.profile), "text": query.text,
        }  # fmt: skip
        try:
            return await child.connection.ask("recall", head, messages.arrays_of(query))
        except WorkerDied:
            raise LaneDiedError("the classic channels' process ended") from None
        except GenrecallError as error:
            raise LaneFailedError(error.what) from error


_ERRORS: dict[str, type[Exception]] = {"timeout": TimeoutError, "shed": LaneShedError, "error": LaneFailedError}


class RemoteLane:
    """One channel of the process; see ``lanes.Lane``."""

    def __init__(self, name: str, process: ClassicProcess) -> None:
        self.name, self._process = name, process

    async def ask(self, asked: Asked) -> Listed:
        """See ``lanes.Lane``."""
        return await self._process.ask(self.name, asked)

    async def close(self) -> None:
        """Its process is closed by whoever started it."""

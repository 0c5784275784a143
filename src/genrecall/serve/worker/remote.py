"""Lanes to the classic channels' process: what one request asks of several channels travels as one frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from genrecall.engine.worker.connection import WorkerDied
from genrecall.engine.worker.frames import Frame
from genrecall.errors import GenrecallError
from genrecall.serve.lanes import Asked, LaneDiedError, LaneFailedError, LaneShedError, Listed
from genrecall.serve.shared import Seat
from genrecall.serve.worker import messages
from genrecall.serve.worker.supervisor import supervised

_SHARE = 0.9  # of the budget: what is there by then travels back in time
_START_S = 600.0


class Told(NamedTuple):
    """What became of one channel there: a list, or what asking it alone raises; and how long that took."""

    listed: Listed | Exception
    seconds: float


class ClassicProcess:
    """The process and the lanes to it.

    Args:
        bundle: directory.
        seat: of one of several gateways; the keeper starts the process, the others connect to it.
    """

    def __init__(self, bundle: Path, seat: Seat | None = None) -> None:
        self._names: list[str] = []
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

    async def recall(self, asked: Mapping[str, Asked]) -> dict[str, Told]:
        """What several channels answer to one query, each within its budget.

        Raises:
            LaneFailedError: the process is not there, or not any more.
        """
        child, one = self.process.child, next(iter(asked.values()))
        if child is None or self.process.state != "ready":
            raise LaneFailedError(f"the classic channels are {self.process.state}")
        head = {
            "channels": list(asked), "k": max(one.k for one in asked.values()),
            "budgets_s": [one.budget_s * _SHARE for one in asked.values()],
            "profile": dict(one.query.profile), "text": one.query.text,
        }  # fmt: skip
        try:
            reply = await child.connection.ask("recall", head, messages.arrays_of(one.query))
        except WorkerDied:
            raise LaneDiedError("the classic channels' process ended") from None
        except GenrecallError as error:
            raise LaneFailedError(error.what) from error
        told = zip(asked, reply.head["outcomes"], reply.head["seconds"], strict=True)
        return {name: Told(_listed(name, outcome, reply), seconds) for name, outcome, seconds in told}

    async def close(self) -> None:
        """End it."""
        await self.process.close()

    def _opened(self, frame: Frame) -> None:
        self._names = frame.head["channels"]


def _listed(name: str, outcome: str, reply: Frame) -> Listed | Exception:
    if outcome == "ok":
        return Listed(items=reply.arrays[f"items {name}"], scores=reply.arrays[f"scores {name}"])
    return _ERRORS[outcome](name)


_ERRORS: dict[str, type[Exception]] = {"timeout": TimeoutError, "shed": LaneShedError, "error": LaneFailedError}


class RemoteLane:
    """One channel of the process; see ``lanes.Lane``."""

    def __init__(self, name: str, process: ClassicProcess) -> None:
        self.name, self.process = name, process

    async def ask(self, asked: Asked) -> Listed:
        """See ``lanes.Lane``."""
        found = (await self.process.recall({self.name: asked}))[self.name].listed
        if isinstance(found, Exception):
            raise found
        return found

    async def close(self) -> None:
        """Its process is closed by whoever started it."""

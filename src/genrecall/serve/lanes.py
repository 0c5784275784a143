"""A lane asks one channel, without ever holding up another: classic channels in a thread each, batching what waits."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from genrecall.engine.host.request import LevelTrace
from genrecall.recall.channel import Channel, Query
from genrecall.telemetry import log


class LaneShedError(Exception):
    """The lane has too much to do to take this request."""


class LaneFailedError(Exception):
    """The channel failed; its message says how, for the log and never for the client."""


class LaneDiedError(LaneFailedError):
    """The channel's process ended while it had the request."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What a request asks of every channel.

    Attributes:
        query: who and what for.
        k: length of the list.
        beam: W, for the generative channel.
        trace: keep the beams of every level.
        budget_s: after this nobody waits any more.
        narrowest: what the beam may be cut to where the budget could not be kept otherwise; None: never.
        user: whose request it is, for channels that keep something of a user.
    """

    query: Query
    k: int
    beam: int = 0
    trace: bool = False
    budget_s: float = 1.0
    narrowest: int | None = None
    user: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed:
    """A channel's answer; all but items and scores where the channel has it.

    Attributes:
        items, scores: int32 and float32, best first.
        cold: the model was not asked, because nothing is known of this user that it could read.
        invalid: SIDs that the model wrote and no item owns.
        narrowed: the channel cut the beam below what was asked for.
        beam: W as it ran.
        levels: what survived each level.
    """

    items: np.ndarray
    scores: np.ndarray
    cold: bool = False
    invalid: int = 0
    narrowed: bool = False
    beam: int = 0
    levels: tuple[LevelTrace, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RankAsked:
    """What is asked of a ranker.

    Attributes:
        query: who and what for; its exclusions play no part.
        user_id: as features know the user; None: nobody is named.
        items: int32 (n,) candidates, best first.
        fused: float32 (n,) of the fusion; None where none ranked them.
        places: int32 (n,) by channel, 0 where it does not list an item.
        deltas: of the tables, oldest first.
        budget_s: after this nobody waits any more.
    """

    query: Query
    user_id: str | None
    items: np.ndarray
    fused: np.ndarray | None = None
    places: Mapping[str, np.ndarray] = field(default_factory=dict)
    deltas: Sequence[str] = ()
    budget_s: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class RankListed:
    """Logits and probabilities float32 (n,) of candidates, by this version of the tables."""

    logits: np.ndarray
    probabilities: np.ndarray
    version: int


class Lane(Protocol):
    """How the service asks a channel. Cancelling ``ask`` takes the request out of the lane."""

    @property
    def name(self) -> str:
        """Of the channel."""
        ...

    async def ask(self, asked: Asked) -> Listed:
        """The channel's list; raises LaneShedError or LaneFailedError."""
        ...

    async def close(self) -> None:
        """Stop; what waits fails."""
        ...


class RankLane(Protocol):
    """Who scores candidates."""

    async def rank(self, asked: RankAsked) -> RankListed:
        """Raises TimeoutError, LaneShedError or LaneFailedError."""
        ...


class ThreadLane:
    """A channel that answers from memory.

    Args:
        channel: any Channel; it is only ever called from this lane's thread.
        max_waiting: requests that may wait; more are shed.
        max_batch: requests that are answered by one call.
    """

    def __init__(self, channel: Channel, *, max_waiting: int = 256, max_batch: int = 32) -> None:
        self.name = channel.name
        self._channel, self._max_waiting, self._max_batch = channel, max_waiting, max_batch
        self._asked: queue.SimpleQueue[tuple[Asked, asyncio.Future[Listed], float] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name=f"channel {self.name}", daemon=True).start()

    async def ask(self, asked: Asked) -> Listed:
        """See :class:`Lane`."""
        return await self.begin(asked)

    def begin(self, asked: Asked) -> asyncio.Future[Listed]:
        """``ask``, without a task of its own."""
        future: asyncio.Future[Listed] = self._loop.create_future()
        if self._asked.qsize() < self._max_waiting:
            self._asked.put((asked, future, time.monotonic()))
        else:
            future.set_exception(LaneShedError(self.name))
        return future

    async def close(self) -> None:
        """See :class:`Lane`; a channel that hangs keeps its (daemon) thread."""
        self._asked.put(None)

    def _run(self) -> None:
        while True:
            batch = [self._asked.get()]
            while len(batch) < self._max_batch and not self._asked.empty():
                batch.append(self._asked.get())
            now = time.monotonic()
            awaited = [
                entry for entry in batch if entry and not entry[1].cancelled() and now - entry[2] < entry[0].budget_s
            ]
            outcome = self._recall(awaited) if awaited else []
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_settle, awaited, outcome)
            if None in batch:
                return

    def _recall(self, awaited: list[tuple[Asked, asyncio.Future[Listed], float]]) -> list[Listed] | LaneFailedError:
        try:
            found = self._channel.recall([asked.query for asked, _, _ in awaited], max(a.k for a, _, _ in awaited))
        except Exception as error:  # a channel's fault is this channel's outcome, shown in `coverage`, and no other's
            log(f"channel {self.name} failed: {type(error).__name__}: {error}")
            return LaneFailedError(f"{type(error).__name__}: {error}")
        listed = []
        for (asked, _, _), items, scores in zip(awaited, found.items, found.scores, strict=True):
            length = min(asked.k, int((items >= 0).sum()))
            listed.append(Listed(items=items[:length], scores=scores[:length]))
        return listed


def _settle(
    awaited: list[tuple[Asked, asyncio.Future[Listed], float]], outcome: list[Listed] | LaneFailedError
) -> None:
    for place, (_, future, _) in enumerate(awaited):
        if future.done():
            continue
        if isinstance(outcome, LaneFailedError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome[place])

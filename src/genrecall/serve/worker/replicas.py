"""Several workers of one bundle as one lane: sticky by user, least loaded by rows, one of them may die.

    of(user) = argmax_r hash(user, r),    unless rows(r) > C · mean rows + one request: then argmin_r rows(r)

Rendezvous hashing (Thaler & Ravishankar 1998) keeps a user where the keys and values of their prompt lie, also when
others come and go; the bound is Mirrokni, Thorup & Zadimoghaddam's ("Consistent hashing with bounded loads", 2018).
Deviation: whom the bound turns away goes to the least loaded instead of the next in order. A request whose worker died
is asked once more, of another.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import replace
from pathlib import Path

from genrecall.errors import GenrecallError
from genrecall.serve.lanes import Asked, LaneDiedError, LaneFailedError, Listed, RankAsked, RankListed
from genrecall.serve.shared import Seat
from genrecall.serve.worker.config import WorkerConfig
from genrecall.serve.worker.lane import Facts, Suspects, WorkerLane

_BOUND = 1.25


class Replicas:
    """The generative channel of a bundle.

    Args:
        bundle: directory.
        config: settings.
        seat: of one of several gateways.

    Attributes:
        retried: requests that were asked of a second worker because the first had died.
    """

    name = "generative"

    def __init__(self, bundle: Path, config: WorkerConfig, seat: Seat | None = None) -> None:
        suspects = Suspects()
        self.config = config
        self.lanes = [WorkerLane(bundle, config, replica, suspects, seat) for replica in range(config.replicas)]
        self.retried = 0

    async def start(self) -> None:
        """Start all, one after the other where they share a machine's cores; see ``Supervisor.start``."""
        try:
            for lane in self.lanes:
                await lane.start()
        except (GenrecallError, LaneFailedError):
            await self.close()
            raise

    @property
    def state(self) -> str:
        """``ready`` while one is; else what the first is."""
        return "ready" if any(lane.is_ready for lane in self.lanes) else self.lanes[0].process.state

    @property
    def facts(self) -> Facts | None:
        """Of the first that was ever warm."""
        return next((lane.facts for lane in self.lanes if lane.facts is not None), None)

    @property
    def rows(self) -> int:
        """Beams of the requests on their way."""
        return sum(lane.rows for lane in self.lanes)

    @property
    def restarts(self) -> int:
        """Processes that were started after the first ones."""
        return sum(lane.process.restarts for lane in self.lanes)

    @property
    def silence_s(self) -> float:
        """Of the one that was quiet for longest."""
        return max(lane.process.silence_s for lane in self.lanes)

    def of(self, user: str | None, but: WorkerLane | None = None) -> WorkerLane | None:
        """The worker for this user; None where none is ready."""
        ready = [lane for lane in self.lanes if lane.is_ready and lane is not but]
        if len(ready) < 2:
            return ready[0] if ready else None
        least = min(ready, key=lambda lane: lane.rows)
        if user is None:
            return least
        own = max(ready, key=lambda lane: _weight(user, self.lanes.index(lane)))
        mean = sum(lane.rows for lane in ready) / len(ready)
        return own if own.rows <= _BOUND * mean else least

    async def ask(self, asked: Asked) -> Listed:
        """See ``lanes.Lane``."""
        begun = time.monotonic()
        first = self.of(asked.user)
        if first is None:
            raise LaneFailedError(f"the workers are {self.state}")
        try:
            return await first.ask(asked)
        except LaneDiedError:
            other = self.of(asked.user, but=first)
            left_s = asked.budget_s - (time.monotonic() - begun)
            if other is None or left_s <= 0:
                raise
        self.retried += 1
        return await other.ask(replace(asked, budget_s=left_s))

    async def rank(self, asked: RankAsked) -> RankListed:
        """Scores of candidates, by the worker that searched for this user."""
        lane = self.of(asked.user_id)
        if lane is None:
            raise LaneFailedError(f"the workers are {self.state}")
        return await lane.rank(asked)

    async def purge(self, user: str) -> None:
        """Forget what the engines keep of a user."""
        await asyncio.gather(*(lane.purge(user) for lane in self.lanes))

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(lane.close() for lane in self.lanes))


def _weight(user: str, replica: int) -> bytes:
    return hashlib.blake2b(f"{replica}\0{user}".encode(), digest_size=8).digest()

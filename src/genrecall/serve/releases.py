"""Which bundle answers whom: staged, canaried, activated, rolled back, without a failed request.

    staged ──canary p%──▶ candidate ──activate──▶ active ──activate another──▶ previous ──rollback──▶ active

A release is opened and warmed before it answers anybody; a request keeps the one that it began with, so no response
mixes two. The previous one stays warm for a rollback until the next is activated. A user is in the canary by a hash of
the user and the candidate's digest, so that the same users see it all the time, and others with the next bundle.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from genrecall.errors import GenrecallError
from genrecall.serve.config import ServeConfig
from genrecall.serve.deltas import DeltaStore, added
from genrecall.serve.gateways.layout import Layout, Placed
from genrecall.serve.lanes import LaneFailedError
from genrecall.serve.metrics import Metrics
from genrecall.serve.problems import Problem
from genrecall.serve.release import Release
from genrecall.serve.settle import settle
from genrecall.serve.state.state import State
from genrecall.telemetry import log

_RETIRE_S = 60.0
_TRAIL = 50


class Releases:
    """The bundles in service.

    Args:
        config: settings of every release.
        state: holds the delisted items.
        metrics: where changes are counted.

    Attributes:
        changed: awaited after each change, before what it replaced is retired; several gateways follow it there.
    """

    def __init__(self, config: ServeConfig, state: State, metrics: Metrics) -> None:
        self._config, self._state, self._metrics = config, state, metrics
        self.active: Release | None = None
        self.candidate: Release | None = None
        self.previous: Release | None = None
        self.percent = 0.0
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._delisted = state.delisted()
        self._trail: collections.deque[dict[str, Any]] = collections.deque(maxlen=_TRAIL)
        self._numbers = itertools.count()
        self._followed = -1
        self.changed: Callable[[], Awaitable[None]] = _nobody

    def pick(self, key: str) -> tuple[Release, str]:
        """The release that answers this user, and its role.

        Raises:
            Problem: none is active yet.
        """
        if self.candidate is not None and self.percent > 0:
            token = hashlib.blake2b(f"{self.candidate.digest}\0{key}".encode(), digest_size=8).digest()
            if int.from_bytes(token, "big") / 2**64 * 100 < self.percent:
                return self.candidate, "candidate"
        return self.named("active"), "active"

    def named(self, role: str) -> Release:
        """The release in this role.

        Raises:
            Problem: there is none.
        """
        found = self._roles()[role]
        if found is not None:
            return found
        if role == "active":
            raise Problem("not_ready", "no bundle is active yet", retry_after_s=2)
        raise Problem("conflict", f"there is no {role} bundle")

    def of(self, digest: str) -> Release:
        """The release of this bundle.

        Raises:
            Problem: it is no longer in service.
        """
        for release in self._all():
            if release.digest == digest:
                return release
        raise Problem("not_found", "the bundle that answered is no longer in service")

    async def start(self, path: Path) -> Release:
        """Open the first bundle and let it answer everybody.

        Raises:
            GenrecallError: it cannot be read.
            LaneFailedError: its worker does not start.
        """
        release = await self._open(path)
        self.active = release
        self._told("activated")
        await self.changed()
        return release

    async def stage(self, path: Path) -> str:
        """Open, check and warm a bundle beside the active one; its digest. The earlier candidate goes."""
        async with self._changing:
            begun = time.monotonic()
            try:
                release = await self._open(path)
            except (GenrecallError, LaneFailedError) as error:
                self._metrics.reload.labels("refused").inc()
                log(f"bundle refused: {error}")
                parts = error if isinstance(error, GenrecallError) else None
                told = "the bundle cannot be served; the service's log says why"
                raise Problem("conflict", told, error=parts) from error
            before = self.candidate
            self.candidate, self.percent = release, 0.0
            self._told("staged")
            await self.changed()
            self._retire(before)
            log(f"staged {release.digest} in {time.monotonic() - begun:.1f} s")
            return release.digest

    async def canary(self, percent: float) -> str:
        """Let the candidate answer so many percent of the users."""
        async with self._changing:
            if self.candidate is None:
                raise Problem("conflict", "no bundle is staged")
            if not 0 <= percent <= 100:
                raise Problem("invalid", "percent must be 0 to 100")
            self.percent = percent
            self._told("canaried")
            await self.changed()
            return self.candidate.digest

    async def activate(self) -> str:
        """The candidate answers everybody; the active one is kept for a rollback."""
        async with self._changing:
            if self.candidate is None:
                raise Problem("conflict", "no bundle is staged")
            before = self.previous
            self.previous, self.active, self.candidate, self.percent = self.active, self.candidate, None, 0.0
            self._told("activated")
            await self.changed()
            self._retire(before)
            return self.active.digest

    async def rollback(self) -> str:
        """Back to what answered before: the staged candidate goes, or the previous bundle becomes active again."""
        async with self._changing:
            if self.candidate is not None and self.active is not None:
                before: Release | None = self.candidate
                self.candidate, self.percent = None, 0.0
            elif self.previous is not None:
                before = self.active
                self.active, self.previous = self.previous, None
            else:
                raise Problem("conflict", "there is nothing to roll back to")
            assert self.active is not None
            self._told("rolled_back")
            await self.changed()
            self._retire(before)
            return self.active.digest

    async def delist(self, item_ids: list[str], *, delisted: bool) -> int:
        """Take items out of all answers from now on, or back in; how many are out. On disk when it returns."""
        self._state.delist(item_ids, delisted=delisted)
        self._delisted = self._delisted | set(item_ids) if delisted else self._delisted - set(item_ids)
        for release in self._all():
            release.set_delisted(self._delisted)
        await self.changed()
        return len(self._delisted)

    def unknown(self, item_ids: Iterable[str]) -> list[str]:
        """Those that no bundle in service has: mistyped, or of a bundle that is yet to come."""
        known = [release.contents.items.index for release in self._all()]
        return [item for item in item_ids if not any(item in index for index in known)]

    async def apply_delta(self, path: Path) -> int:
        """Let the active bundle's ranker take in the next delta of its tables; the version then. On disk, and in force
        for every request after it, when it returns.

        Raises:
            Problem: it is not the ranker's next delta.
        """
        async with self._changing:
            active = self.active
            if active is None:
                raise Problem("not_ready", "no bundle is active yet", retry_after_s=2)
            active.deltas = await asyncio.to_thread(added, DeltaStore(self._config.state), active.contents.ranker, path)
            await self.changed()
            return len(active.deltas)

    def layout(self) -> Layout:
        """What is in service, for other gateways to follow; every call has a higher number."""
        placed = [
            Placed(role=role, path=str(release.contents.path), directory=str(release.seat.directory))
            for role, release in self._roles().items()
            if release is not None and release.seat is not None
        ]
        return Layout(number=next(self._numbers), placed=placed, percent=self.percent, trail=list(self._trail))

    async def follow(self, layout: Layout) -> None:
        """Serve what the keeper's layout says, and nothing else; an older layout than the last changes nothing.

        Raises:
            GenrecallError, LaneFailedError: a bundle cannot be opened here.
        """
        async with self._changing:
            if layout.number < self._followed:
                return
            before = {release.seat.directory: release for release in self._all() if release.seat is not None}
            found: dict[str, Release] = {}
            for placed in layout.placed:
                directory = Path(placed.directory)
                known = directory in before
                found[placed.role] = before.pop(directory) if known else await self._open(Path(placed.path), directory)
            self._delisted = await asyncio.to_thread(self._state.delisted)
            for release in found.values():
                release.set_delisted(self._delisted)
                if release.contents.ranker is not None:
                    release.deltas = DeltaStore(self._config.state).of(release.contents.ranker)
            self.active, self.candidate = found.get("active"), found.get("candidate")
            self.previous, self.percent, self._followed = found.get("previous"), layout.percent, layout.number
            self._trail = collections.deque(layout.trail, maxlen=_TRAIL)
            self._shown()
            for release in before.values():
                self._retire(release)

    def status(self) -> dict[str, Any]:
        """What is in which role."""
        return {role: None if release is None else _facts(release) for role, release in self._roles().items()} | {
            "canary_percent": self.percent,
            "delisted": len(self._delisted),
            "trail": list(self._trail)[::-1],
        }

    async def purge(self, user_id: str) -> None:
        """Forget what the engines of all releases keep of a user."""
        workers = [release.worker for release in self._all() if release.worker is not None]
        await asyncio.gather(*(worker.purge(user_id) for worker in workers))

    async def close(self) -> None:
        """Stop all of them."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*(release.close() for release in self._all()), *self._retiring, return_exceptions=True)

    async def _open(self, path: Path, directory: Path | None = None) -> Release:
        """A release, warm; the keeper makes a directory for what is shared of it, the others are told which."""
        seat = self._config.seat
        if seat is not None:
            if directory is None:
                directory = Path(tempfile.mkdtemp(prefix="release-", dir=seat.directory))
            seat = replace(seat, directory=directory)
        release = await Release.open(path, self._config, seat)
        release.set_delisted(self._delisted)
        settle(at_once=self.active is not None)
        return release

    def _roles(self) -> dict[str, Release | None]:
        return {"active": self.active, "candidate": self.candidate, "previous": self.previous}

    def _all(self) -> list[Release]:
        return [release for release in self._roles().values() if release is not None]

    def _retire(self, release: Release | None) -> None:
        if release is not None:
            task = asyncio.create_task(_end(release))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _told(self, outcome: str) -> None:
        self._metrics.reload.labels(outcome).inc()
        about = self.candidate if outcome in ("staged", "canaried") else self.active
        digest = "" if about is None else about.digest
        self._trail.append({"time": time.time(), "what": outcome, "digest": digest, "percent": self.percent})
        self._shown()

    def _shown(self) -> None:
        self._metrics.bundle.clear()
        for role, release in self._roles().items():
            if release is not None:
                self._metrics.bundle.labels(release.digest, role).set(1)


async def _nobody() -> None:
    """Nobody follows."""


async def _end(release: Release) -> None:
    """Close a release when nobody is answered from it any more, or after a minute."""
    until = time.monotonic() + _RETIRE_S
    try:
        while release.inflight.total and time.monotonic() < until:
            await asyncio.sleep(0.05)
    finally:
        await release.close()


def _facts(release: Release) -> dict[str, Any]:
    worker = release.worker
    return {
        "digest": release.digest,
        "items": len(release.contents.items),
        "channels": list(release.lanes),
        "beam": release.beam,
        "ranker": None if release.contents.ranker is None else release.contents.ranker.digest,
        "tables": len(release.deltas),
        "worker": None if worker is None else worker.state,
        "restarts": 0 if worker is None else worker.restarts,
        "processes": {
            **({} if worker is None else {f"worker {n}": lane.process.pid for n, lane in enumerate(worker.lanes)}),
            **({} if release.classic is None else {"classic": release.classic.process.pid}),
        },
    }

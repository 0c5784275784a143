"""Keeps one child process alive and says how it is.

    starting (no bundle yet) → ready → stalled (no beat for STALLED_S) → killed after HUNG_S, or it ends by itself
    → starting, after a pause that doubles with each failure

The beat is that of the thread that computes (see ``engine.worker.record``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from genrecall.engine.worker.connection import WorkerDied
from genrecall.engine.worker.frames import Frame
from genrecall.errors import GenrecallError
from genrecall.serve.lanes import LaneFailedError
from genrecall.serve.shared import Seat
from genrecall.serve.worker.child import Child
from genrecall.telemetry import log

STALLED_S = 1.5
HUNG_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _CALM_S, _LOOK_S = 0.1, 10.0, 60.0, 0.5


class Supervisor:
    """One child after another.

    Args:
        what: for the log.
        start: starts a child.
        opened: told what a child says when it is ready.
        start_s: one that takes longer to get ready is given up.
        place: where a child that is ready is published for other processes.
        ended: called when a child has ended, before another is started.

    Attributes:
        restarts: children that were started after the first.
    """

    def __init__(
        self,
        what: str,
        start: Callable[[], Awaitable[Child]],
        opened: Callable[[Frame], None],
        start_s: float,
        place: Path | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._what, self._start, self._opened, self._start_s, self._place = what, start, opened, start_s, place
        self._ended = ended
        self.restarts = 0
        self._child: Child | None = None
        self._is_open = False
        self._ever = asyncio.Event()
        self._error: GenrecallError | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def child(self) -> Child | None:
        """The one that answers; None while none is ready."""
        return self._child if self._is_open else None

    @property
    def state(self) -> str:
        """``starting``, ``ready`` or ``stalled``."""
        if self.child is None:
            return "starting"
        return "stalled" if self.silence_s > STALLED_S else "ready"

    @property
    def silence_s(self) -> float:
        """Seconds since the thread that computes was last heard of."""
        return 0.0 if self.child is None else self.child.record.silence_s

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one that this process started."""
        return None if self._child is None or self._child.process is None else self._child.process.pid

    @property
    def begun(self) -> Child | None:
        """The child, also while it is not ready."""
        return self._child

    async def start(self) -> None:
        """Start, and wait until the first child is ready.

        Raises:
            GenrecallError: what it said was wrong.
            LaneFailedError: it did not get there, and did not say why.
        """
        self._task = asyncio.create_task(self._supervise())
        waiting = asyncio.create_task(self._ever.wait())
        await asyncio.wait((waiting, self._task), timeout=self._start_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._ever.is_set():
            await self.close()
            raise self._error or LaneFailedError(f"{self._what} did not start; its own words stand above")

    async def close(self) -> None:
        """End the child, and start no other."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                await self._live()
            except (OSError, GenrecallError, TimeoutError) as error:
                # A process that cannot be started, or that says what it must not: ended like one that died.
                log(f"{self._what}: {type(error).__name__}: {error}")
                self._error = error if isinstance(error, GenrecallError) else None
            if not self._ever.is_set():
                return  # it never worked: starting it again would not help
            pause = _FIRST_PAUSE_S if time.monotonic() - begun > _CALM_S else min(pause * 2, _LONGEST_PAUSE_S)
            log(f"{self._what} ended; another starts in {pause:.1f} s")
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _live(self) -> None:
        """One child, from its start to its end."""
        child = self._child = await self._start()
        try:
            async with asyncio.timeout(self._start_s):
                self._opened(await child.connection.ask("open", {}))
            if self._place is not None:
                child.publish(self._place)
            self._is_open = True
            self._ever.set()
            while not child.connection.lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await child.connection.lost.wait()
                if child.record.silence_s > HUNG_S:
                    log(f"{self._what} made no progress for {HUNG_S:.0f} s and is ended")
                    return
        except WorkerDied as error:
            log(f"{self._what}: {error}")
        finally:
            self._is_open, self._child = False, None
            await child.end()
            self._ended()


def supervised(
    what: str,
    main: Callable[..., None],
    arguments: Sequence[object],
    opened: Callable[[Frame], None],
    start_s: float,
    place: Path | None = None,
    seat: Seat | None = None,
) -> Supervisor:
    """A child of this process; or, where another process of ours keeps it, the way to it, made again when it is lost.

    Args:
        what, opened, start_s: see :class:`Supervisor`.
        main, arguments: see ``Child.start``.
        place: where it is published; None where this process is alone.
        seat: of this process.
    """
    if place is not None and seat is not None and not seat.keeps:
        return Supervisor(f"gateway {seat.name}'s way to {what}", lambda: Child.join(place), opened, start_s)
    return Supervisor(what, lambda: Child.start(main, *arguments), opened, start_s, place)

"""The gateway's side of the worker: asks it, watches it, starts it again.

A second process stands by with everything imported, so that a lost worker is replaced in the time of opening a bundle.
States: ``starting`` (no bundle yet) → ``ready`` → ``stalled`` (no beat for STALLED_S) → killed after HUNG_S, or the
process ends by itself → ``starting`` after a pause that doubles with each failure. A request that was being computed
twice when a worker died is refused for ten minutes: it may be what kills workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrecall.serve.lanes import Asked, LaneFailedError, LaneShedError, Listed
from genrecall.serve.worker import frames
from genrecall.serve.worker.cost import BatchCost
from genrecall.serve.worker.messages import Ask, Beat, Cancel, Failed, Found, Opened, decode_outward, encode
from genrecall.telemetry import log

STALLED_S = 1.5
HUNG_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _CALM_S = 0.2, 10.0, 60.0
_QUARANTINE_AFTER, _QUARANTINE_S, _MAX_SUSPECTS = 2, 600.0, 10_000


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How a worker runs; None stands for automatic.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, …
        threads: of torch.
        batch_rows: beams of one batch.
        beam: W; the bundle's unless given.
        spare: keep a second process with its imports done.
        ranks: devices that the model is spread over.
        start_s: a bundle that takes longer to open and warm is given up.
    """

    device: str = "auto"
    threads: int | None = None
    batch_rows: int | None = None
    beam: int | None = None
    spare: bool = True
    ranks: int = 1
    start_s: float = 600.0


@dataclass(eq=False)
class _Asked:
    """One request on its way."""

    ask: Ask
    future: asyncio.Future[Listed]
    fingerprint: bytes
    running: bool = False


@dataclass(eq=False)
class _Connection:
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerLane:
    """The generative channel of one bundle, as a lane.

    Args:
        bundle: directory.
        config: settings.

    Attributes:
        cost: what batches take.
        restarts: processes that were started after the first.
    """

    name = "generative"

    def __init__(self, bundle: Path, config: WorkerConfig | None = None) -> None:
        self.bundle, self.config = bundle, config or WorkerConfig()
        self.cost = BatchCost()
        self.restarts = 0
        self.facts: Opened | None = None
        self._connection: _Connection | None = None
        self._spare: _Connection | None = None
        self._pending: dict[int, _Asked] = {}
        self._number = self._rows = 0
        self._last_beat = time.monotonic()
        self._suspects: dict[bytes, tuple[int, float]] = {}
        self._task: asyncio.Task[None] | None = None
        self._warm = asyncio.Event()

    @property
    def state(self) -> str:
        """``starting``, ``ready`` or ``stalled``."""
        if self._connection is None or not self._connection.opened.is_set():
            return "starting"
        return "stalled" if self.silence_s > STALLED_S else "ready"

    @property
    def silence_s(self) -> float:
        """Seconds since the thread that computes was last heard of."""
        return time.monotonic() - self._last_beat

    @property
    def pid(self) -> int | None:
        """Of the worker process, while there is one."""
        return None if self._connection is None else self._connection.process.pid

    @property
    def rows(self) -> int:
        """Beams of the requests on their way."""
        return self._rows

    async def start(self) -> None:
        """Start the supervisor, and wait until the first worker is warm.

        Raises:
            LaneFailedError: it did not get there.
        """
        self._task = asyncio.create_task(self._supervise())
        waiting = asyncio.create_task(self._warm.wait())
        await asyncio.wait((waiting, self._task), timeout=self.config.start_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._warm.is_set():
            waiting.cancel()
            await self.close()
            raise LaneFailedError(f"the worker of {self.bundle} did not start; its own words stand above")

    async def ask(self, asked: Asked) -> Listed:
        """See ``lanes.Lane``."""
        if self._connection is None or self.state != "ready":
            raise LaneFailedError(f"the worker is {self.state}")
        query = asked.query
        self._number += 1
        ask = Ask(
            self._number,
            query.history.astype("<i4").tobytes(),
            None if query.times is None else query.times.astype("<i8").tobytes(),
            query.exclude.astype("<i4").tobytes(),
            dict(query.profile),
            query.text,
            asked.k,
            asked.beam,
            asked.trace,
            asked.budget_s,
        )
        fingerprint = hashlib.blake2b(ask.history + repr((ask.profile, ask.text)).encode(), digest_size=16).digest()
        if self._is_quarantined(fingerprint):
            raise LaneShedError("quarantined: workers died over this request")
        entry = _Asked(ask, asyncio.get_running_loop().create_future(), fingerprint)
        self._pending[ask.number] = entry
        self._rows += ask.beam
        try:
            self._connection.writer.write(frames.packed(encode(ask)))
            return await entry.future
        except asyncio.CancelledError:
            if self._connection is not None:
                self._connection.writer.write(frames.packed(encode(Cancel(ask.number))))
            raise
        finally:
            self._pending.pop(ask.number, None)
            self._rows -= ask.beam

    async def close(self) -> None:
        """Stop supervisor and worker."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._spare is not None:
            await _end(self._spare)

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                await self._live()
            except (OSError, frames.FrameError) as error:
                # A process that cannot be started, or that says what it must not: ended like one that died.
                log(f"the worker of {self.bundle}: {type(error).__name__}: {error}")
            if not self._warm.is_set():
                return  # it never worked: starting it again would not help
            pause = _FIRST_PAUSE_S if time.monotonic() - begun > _CALM_S else min(pause * 2, _LONGEST_PAUSE_S)
            log(f"the worker of {self.bundle} ended; another starts in {pause:.1f} s")
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _spawn(self, *, spare: bool) -> _Connection:
        ours, theirs = socket.socketpair()
        config = self.config
        arguments = [
            str(theirs.fileno()), str(self.bundle), config.device, str(config.threads or 0),
            str(config.batch_rows or 0), str(config.beam or 0), str(int(spare)), str(config.ranks),
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "genrecall.serve.worker.process", *arguments,
            pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        return _Connection(process, writer, reader)

    async def _stand_by(self) -> None:
        """Have a spare, once the worker itself is warm."""
        await self._warm.wait()
        if self.config.spare and (self._spare is None or self._spare.process.returncode is not None):
            self._spare = await self._spawn(spare=True)

    async def _next(self) -> _Connection:
        """The spare, told to go on, or a new process."""
        spare, self._spare = self._spare, None
        if spare is None or spare.process.returncode is not None:
            return await self._spawn(spare=False)
        spare.writer.write(frames.packed(b""))
        return spare

    async def _live(self) -> None:
        """One worker, from its start to its end."""
        connection = self._connection = await self._next()
        standing_by = asyncio.create_task(self._stand_by())
        self._last_beat = time.monotonic()
        watcher = asyncio.create_task(self._watch(connection))
        try:
            while (body := await frames.read(connection.reader)) is not None:
                self._hear(decode_outward(body), connection)
        finally:
            self._connection = None
            watcher.cancel()
            standing_by.cancel()
            await _end(connection)
            self._bury()

    def _hear(self, message: Opened | Found | Failed | Beat, connection: _Connection) -> None:
        self._last_beat = time.monotonic()
        if isinstance(message, Opened):
            self.facts, self.cost = message, BatchCost(message.base_s, message.row_s)
            connection.opened.set()
            self._warm.set()
        elif isinstance(message, Beat):
            for number in message.running:
                if (entry := self._pending.get(number)) is not None:
                    entry.running = True
        elif (entry := self._pending.get(message.number)) is not None and not entry.future.done():
            if isinstance(message, Found):
                if message.rows:
                    self.cost.see(message.rows, message.ran_s)
                entry.future.set_result(_listed(message))
            elif message.code == "deadline":
                entry.future.set_exception(TimeoutError())
            else:
                entry.future.set_exception(LaneFailedError(message.what))

    async def _watch(self, connection: _Connection) -> None:
        """End a worker that does not get on."""
        while True:
            await asyncio.sleep(0.5)
            allowed = HUNG_S if connection.opened.is_set() else self.config.start_s
            if self.silence_s > allowed:
                log(f"the worker of {self.bundle} made no progress for {allowed:.0f} s and is ended")
                connection.process.send_signal(signal.SIGKILL)

    def _is_quarantined(self, fingerprint: bytes) -> bool:
        deaths, last = self._suspects.get(fingerprint, (0, 0.0))
        return deaths >= _QUARANTINE_AFTER and time.monotonic() - last < _QUARANTINE_S

    def _bury(self) -> None:
        """Fail what a dead worker left, and remember what it was computing."""
        for entry in list(self._pending.values()):
            if entry.running:
                deaths, _ = self._suspects.pop(entry.fingerprint, (0, 0.0))
                self._suspects[entry.fingerprint] = deaths + 1, time.monotonic()
            if not entry.future.done():
                entry.future.set_exception(LaneFailedError("the worker ended"))
        while len(self._suspects) > _MAX_SUSPECTS:
            self._suspects.pop(next(iter(self._suspects)))


async def _end(connection: _Connection) -> None:
    connection.writer.close()
    if connection.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            connection.process.send_signal(signal.SIGKILL)
    await connection.process.wait()


def _listed(message: Found) -> Listed:
    return Listed(
        items=np.frombuffer(message.items, "<i4"),
        scores=np.frombuffer(message.scores, "<f4"),
        waited_s=message.waited_s,
        ran_s=message.ran_s,
        cold=message.cold,
        levels=message.levels,
    )

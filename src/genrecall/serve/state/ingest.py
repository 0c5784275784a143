"""Events on their way to disk: what waits is committed together, and every batch is acknowledged after the flush."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from genrecall.serve.schema import Event
from genrecall.serve.state.state import State
from genrecall.serve.state.store import Committed
from genrecall.telemetry import log

_BATCHES_A_COMMIT = 256


class StorageError(Exception):
    """The events could not be stored; nothing of the batch is."""


class IngestFullError(Exception):
    """So many batches wait for the disk that no more are taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    events: Sequence[Event]
    done: asyncio.Future[Committed]


class Ingest:
    """The one thread that writes events.

    Args:
        state: where to.
        max_waiting: batches that may wait for the disk.
    """

    def __init__(self, state: State, *, max_waiting: int = 1024) -> None:
        self._state, self._max_waiting = state, max_waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Batches that wait."""
        return self._jobs.qsize()

    async def store(self, events: Sequence[Event]) -> Committed:
        """Store one batch; returns when it is on disk.

        A caller that is cancelled does not undo it: events may then be stored without an acknowledgement.
        """
        if self.waiting >= self._max_waiting:
            raise IngestFullError
        done: asyncio.Future[Committed] = self._loop.create_future()
        self._jobs.put(_Job(events=events, done=done))
        return await done

    async def close(self) -> None:
        """Finish what waits, then stop."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            while len(jobs) < _BATCHES_A_COMMIT and not self._jobs.empty():
                jobs.append(self._jobs.get())
            known = [job for job in jobs if job is not None]
            if known:
                self._finish(known, self._try([job.events for job in known]))
            if None in jobs:
                return

    def _try(self, batches: list[Sequence[Event]]) -> list[Committed] | StorageError:
        try:
            return self._state.commit(batches)
        except Exception as error:  # a full or failing disk: these batches are refused, the thread must live on
            log(f"events could not be stored: {type(error).__name__}: {error}")
            return StorageError(str(error))

    def _finish(self, jobs: list[_Job], outcome: list[Committed] | StorageError) -> None:
        self._loop.call_soon_threadsafe(_settle, [job.done for job in jobs], outcome)


def _settle(futures: list[asyncio.Future[Committed]], outcome: list[Committed] | StorageError) -> None:
    for place, future in enumerate(futures):
        if future.done():
            continue
        if isinstance(outcome, StorageError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome[place])

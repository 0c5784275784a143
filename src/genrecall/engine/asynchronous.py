"""Engines on a thread of their own, awaited from any event loop.

What is asked goes through an inbox that the thread empties between two moves of an engine, and between two levels of a
batch where these are launched one by one, so that nobody who asks ever waits for a lock that an engine holds. Engines
of one bundle share a thread and take turns: they share a device, too.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from genrecall.engine.engine import Engine, answer_of, scores_of
from genrecall.engine.host.request import Answer, Request, Scores, Sid
from genrecall.engine.loop import Outcome
from genrecall.errors import GenrecallError
from genrecall.index.trie import Trie

_LOOK_S = 0.25
_ENDED = GenrecallError(
    "the engine has ended before it answered",
    seen="its thread has stopped",
    allowed="an engine that runs",
    fix="read the log for the reason, and open it again",
)


class Observer(Protocol):
    """Who is told how engines get on, on the thread that drives them."""

    def moved(self, tags: Sequence[int], rows: tuple[int, int]) -> None:
        """These requests are being computed; beams that run, and that wait."""
        ...

    def busy(self, seconds: float) -> None:
        """From now on, until the device should have done what it was given."""
        ...

    def begin(self, beams: int) -> None:
        """So many beams of tagged requests wait for no batch any more; told on any thread, one at a time."""
        ...

    def landed(self, rows: int, seconds: float) -> None:
        """A batch of so many beams was done."""
        ...


class Begun:
    """Beams of tagged requests that wait for no batch any more: those run, or their answers are on their way.

    An engine ends a whole batch at once, and an event loop takes up one answer after the other.

    Args:
        tell: is told how many they are, on any thread.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._lock = tell, threading.Lock()
        self._beams: dict[int, int] = {}  # by tag, of those whose reply has not left
        self._total = 0

    @contextmanager
    def replying(self, tag: int) -> Iterator[None]:
        """From a request's arrival until it has its reply."""
        with self._lock:
            self._beams[tag] = 0
        try:
            yield
        finally:
            with self._lock:
                self._total -= self._beams.pop(tag)
                self._tell(self._total)

    def launched(self, requests: Sequence[Request]) -> None:
        """A batch of these; who has left meanwhile does not count."""
        with self._lock:
            for request in requests:
                if request.tag in self._beams:
                    self._beams[request.tag] += request.beams
                    self._total += request.beams
            self._tell(self._total)


class AsyncEngine:
    """Owns engines until it is closed.

    Args:
        engines: at least one; nobody else drives them meanwhile.
        observer: told how they get on, also a few times a second while they have nothing to do.

    Attributes:
        rows: beams that run and beams that wait, as of the last move.
    """

    def __init__(self, *engines: Engine, observer: Observer | None = None) -> None:
        self.engines, self.engine = engines, engines[0]
        self.rows = (0, 0)
        self._closing, self._observer = False, observer
        self.begun = Begun(observer.begin if observer is not None else lambda beams: None)
        for engine in engines:
            engine.loop.meanwhile, engine.loop.moved = self._take, self._moved
            engine.loop.launched = self.begun.launched
            if observer is not None:
                engine.loop.landed = observer.landed
        self._inbox: queue.SimpleQueue[tuple[Future[Any], Callable[[], object]] | None] = queue.SimpleQueue()
        self._ended, self._putting = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, request: Request, member: int = 0) -> Answer:
        """One answer of one of the engines. Cancelling the task gives the request up.

        Raises:
            GenrecallError: the request cannot be answered, or the model computes nonsense.
            TimeoutError: its timeout could not be kept.
            RuntimeError: the engine was closed, or died.
        """
        engine = self.engines[member]
        return answer_of(await self._ask(engine, lambda deliver: engine.submit(request, deliver)))

    async def score(self, request: Request, sids: Sequence[Sid] | np.ndarray, member: int = 0) -> np.ndarray:
        """Scores of given SIDs, as ``Engine.score``; at most as many as one batch holds."""
        engine = self.engines[member]
        return scores_of(await self._ask(engine, lambda deliver: engine.submit_scoring(request, sids, deliver)))

    async def read(self, request: Request, sids: Sequence[Sid] | np.ndarray, member: int = 0) -> Scores:
        """Scores of given SIDs and the state, as ``Engine.read``; at most as many as one batch holds, less one."""
        engine = self.engines[member]
        told = replace(request, state=True)
        outcome = await self._ask(engine, lambda deliver: engine.submit_scoring(told, engine.beside(sids), deliver))
        scores = scores_of(outcome)
        assert isinstance(outcome, Scores), "who asks for the state is told it"
        return replace(outcome, scores=scores[:-1])

    async def swap(self, trie: Trie) -> None:
        """See ``Engine.swap``; what takes long is done on another thread."""
        await asyncio.to_thread(self.engine.prepare, trie)
        await self._call(lambda: self.engine.swap(trie))

    async def purge(self, user: str) -> None:
        """See ``Engine.purge``; of all engines."""
        for engine in self.engines:
            await self._call(partial(engine.purge, user))

    def close(self) -> None:
        """Answer what was asked, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    async def _ask(self, engine: Engine, submit: Callable[[Callable[[Outcome], None]], int]) -> Outcome:
        future: Future[Outcome] = Future()
        number: list[int] = []
        self._put(future, lambda: number.append(submit(future.set_result)))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._put(Future(), lambda: [engine.cancel(one) for one in number])
            raise

    async def _call(self, function: Callable[[], None]) -> None:
        future: Future[None] = Future()

        def run() -> None:
            function()
            future.set_result(None)

        self._put(future, run)
        await asyncio.wrap_future(future)

    def _put(self, future: Future[Any], run: Callable[[], object]) -> None:
        with self._putting:  # nothing is put where nobody looks any more
            if self._ended.is_set():
                raise RuntimeError("the engine's thread has ended: it was closed, or its device failed")
            self._inbox.put((future, run))

    def _drive(self) -> None:
        try:
            while not (self._closing and self._idle):
                self._take(wait_s=_LOOK_S if self._idle else 0.0)
                if self._idle:
                    self._moved()
                for engine in self.engines:
                    if not engine.loop.idle:
                        engine.advance()
        finally:  # whatever ended this thread, nobody waits forever
            with self._putting:
                self._ended.set()
            for engine in self.engines:
                engine.loop.fail(_ENDED)
            while not self._inbox.empty():
                item = self._inbox.get()
                if item is not None and item[0].set_running_or_notify_cancel():
                    item[0].set_exception(_ENDED)

    def _moved(self) -> None:
        loops = [engine.loop for engine in self.engines]
        rows = [loop.scheduler.rows() for loop in loops]
        self.rows = sum(run for run, _ in rows), sum(wait for _, wait in rows)
        if self._observer is not None:
            self._observer.moved([tag for loop in loops for tag in loop.tags], self.rows)
            self._observer.busy(sum(loop.busy_s for loop in loops))  # they share a device

    @property
    def _idle(self) -> bool:
        return all(engine.loop.idle for engine in self.engines)

    def _take(self, wait_s: float = 0.0) -> None:
        """Do what is in the inbox, waiting so long for the first."""
        while True:
            try:
                item = self._inbox.get(timeout=wait_s) if wait_s else self._inbox.get_nowait()
            except queue.Empty:
                return
            wait_s = 0.0
            if item is None:
                self._closing = True
            # Once it runs it cannot be cancelled any more, so that its result can always be set.
            elif item[0].set_running_or_notify_cancel():
                try:
                    item[1]()
                except GenrecallError as error:
                    item[0].set_exception(error)
                except BaseException as error:  # our fault, and the end of this thread: but who asked is told
                    item[0].set_exception(error)
                    raise

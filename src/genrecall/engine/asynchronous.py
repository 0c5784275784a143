"""An engine on a thread of its own, awaited from any event loop.

What is asked goes through an inbox that the thread empties between two moves of the engine, so that nobody who asks
ever waits for a lock that the engine holds.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from genrecall.engine.engine import Engine, answer_of, scores_of
from genrecall.engine.host.request import Answer, Request, Sid
from genrecall.engine.loop import Outcome
from genrecall.errors import GenrecallError
from genrecall.index.trie import Trie

_ENDED = GenrecallError(
    "the engine has ended before it answered",
    seen="its thread has stopped",
    allowed="an engine that runs",
    fix="read the log for the reason, and open it again",
)


class AsyncEngine:
    """Owns an engine until it is closed.

    Args:
        engine: nobody else drives it meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._inbox: queue.SimpleQueue[tuple[Future[Any], Callable[[], object]] | None] = queue.SimpleQueue()
        self._ended, self._putting = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, request: Request) -> Answer:
        """One answer. Cancelling the task gives the request up.

        Raises:
            GenrecallError: the request cannot be answered, or the model computes nonsense.
            TimeoutError: its timeout could not be kept.
            RuntimeError: the engine was closed, or died.
        """
        return answer_of(await self._ask(lambda deliver: self.engine.submit(request, deliver)))

    async def score(self, request: Request, sids: Sequence[Sid] | np.ndarray) -> np.ndarray:
        """Scores of given SIDs, as ``Engine.score``; at most as many as one batch holds."""
        return scores_of(await self._ask(lambda deliver: self.engine.submit_scoring(request, sids, deliver)))

    async def swap(self, trie: Trie) -> None:
        """See ``Engine.swap``; what takes long is done on another thread."""
        await asyncio.to_thread(self.engine.prepare, trie)
        await self._call(lambda: self.engine.swap(trie))

    async def purge(self, user: str) -> None:
        """See ``Engine.purge``."""
        await self._call(lambda: self.engine.purge(user))

    def close(self) -> None:
        """Answer what was asked, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    async def _ask(self, submit: Callable[[Callable[[Outcome], None]], int]) -> Outcome:
        future: Future[Outcome] = Future()
        number: list[int] = []
        self._put(future, lambda: number.append(submit(future.set_result)))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._put(Future(), lambda: [self.engine.cancel(one) for one in number])
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
            closing = False
            while not (closing and self.engine.loop.idle):
                closing |= self._take()
                if not self.engine.loop.idle:
                    self.engine.advance()
        finally:  # whatever ended this thread, nobody waits forever
            with self._putting:
                self._ended.set()
            self.engine.loop.fail(_ENDED)
            while not self._inbox.empty():
                item = self._inbox.get()
                if item is not None and item[0].set_running_or_notify_cancel():
                    item[0].set_exception(_ENDED)

    def _take(self) -> bool:
        """Do what is in the inbox, waiting for something where the engine is idle; whether it is to close."""
        closing, wait = False, self.engine.loop.idle
        while True:
            try:
                item = self._inbox.get(timeout=1.0) if wait else self._inbox.get_nowait()
            except queue.Empty:
                return closing
            wait = False
            if item is None:
                closing = True
            # Once it runs it cannot be cancelled any more, so that its result can always be set.
            elif item[0].set_running_or_notify_cancel():
                try:
                    item[1]()
                except GenrecallError as error:
                    item[0].set_exception(error)

"""A few in each turn of the event loop, in the order in which they came.

Answers of one process come back together, and what is left to do for each takes a good part of what a turn of the loop
may: all at once they would keep whoever asks next waiting for as many times that, and those that are refused as well.
"""

from __future__ import annotations

import asyncio
import collections

_A_TURN = 2


class Turns:
    """Lets a few tasks through in each turn of the running loop, the first come first."""

    def __init__(self) -> None:
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._through = 0

    async def take(self) -> None:
        """Wait for a turn; at once where this one has room."""
        loop = asyncio.get_running_loop()
        if self._through < _A_TURN:
            if self._through == 0:
                loop.call_soon(self._next)
            self._through += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """The next turn of the loop."""
        self._through = 0
        while self._waiting and self._through < _A_TURN:
            turn = self._waiting.popleft()
            if not turn.done():  # else its task was cancelled meanwhile
                turn.set_result(None)
                self._through += 1
        if self._through:
            asyncio.get_running_loop().call_soon(self._next)

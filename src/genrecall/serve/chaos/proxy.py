"""A TCP proxy that behaves like a bad network, in user space, so that no privilege is needed.

Delays every piece by a fixed time, holds a share of them for a retransmission's time more (that is what a lost packet
looks like above TCP), and can be cut: then nothing passes and new connections are dropped, until it is mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator

_RETRANSMITTED_S = 0.2


class Proxy:
    """In front of one port of this machine.

    Args:
        port: that is asked.
        delay_s: of every piece, each way.
        lost: share of pieces that arrive only when they were sent again.
        seed: of which.
    """

    def __init__(self, port: int, *, delay_s: float, lost: float, seed: int = 0) -> None:
        self._target, self._delay_s, self._lost = port, delay_s, lost
        self._rng = random.Random(seed)
        self._cut = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    def cut(self) -> None:
        """Drop what is open, and what comes."""
        self._cut.set()
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        """Let everything pass again."""
        self._cut.clear()

    async def serve(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut.is_set():
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except asyncio.CancelledError:
            pass  # the proxy ends; its loop would report every connection that was open
        finally:
            self._open -= {writer, back}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(16384):
                await asyncio.sleep(self._delay_s + (_RETRANSMITTED_S if self._rng.random() < self._lost else 0.0))
                writer.write(piece)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def between(port: int, *, delay_s: float, lost: float) -> Iterator[tuple[Proxy, asyncio.AbstractEventLoop]]:
    """A proxy on a thread of its own; its loop, too, for ``call_soon_threadsafe``."""
    loop, ready, made = asyncio.new_event_loop(), threading.Event(), list[Proxy]()

    async def start() -> None:
        made.append(Proxy(port, delay_s=delay_s, lost=lost))
        await made[0].serve()
        ready.set()

    def live() -> None:
        asyncio.set_event_loop(loop)
        starting = loop.create_task(start())
        loop.run_forever()
        tasks = asyncio.all_tasks(loop) | {starting}
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield made[0], loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)

"""The worker's side: frames in, engine asked, frames out; every request of every connection on its own.

generate · score · cancel · purge · ping    →    answer · scores · error · done · pong
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.engine.asynchronous import AsyncEngine
from genrecall.engine.host.request import Request
from genrecall.engine.worker.frames import Frame, encode, read
from genrecall.errors import DataError, GenrecallError


class Server:
    """Serves one engine on one socket.

    Args:
        engine: asked.
        socket: path of the Unix socket, made by ``run``; readable for this user alone.
    """

    def __init__(self, engine: AsyncEngine, socket: Path) -> None:
        self._engine, self._socket = engine, socket

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until cancelled."""
        server = await asyncio.start_unix_server(self._serve, self._socket)
        self._socket.chmod(0o600)
        ready()
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests run beside each other; what its client leaves behind is cancelled."""
        running: dict[int, asyncio.Task[None]] = {}
        try:
            while (frame := await read(reader)) is not None:
                number = frame.head["id"]
                if frame.head["kind"] == "cancel":
                    if number in running:
                        running[number].cancel()
                    continue
                running[number] = task = asyncio.create_task(self._answer(frame, writer))
                task.add_done_callback(partial(_forget, running, number))
        except (DataError, KeyError, ConnectionError) as error:
            # This client speaks another language; the others and the engine go on.
            writer.write(encode(Frame(head={"kind": "error", "id": -1, **_told(error)})))
        finally:
            for task in running.values():
                task.cancel()
            writer.close()

    async def _answer(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        number = frame.head["id"]
        try:
            reply = await _HANDLERS[frame.head["kind"]](self._engine, frame)
        except (GenrecallError, TimeoutError, KeyError, TypeError) as error:
            reply = Frame(head={"kind": "error", **_told(error)})
        writer.write(encode(Frame(head={**reply.head, "id": number}, arrays=reply.arrays)))
        await writer.drain()


def _forget(running: dict[int, asyncio.Task[None]], number: int, task: asyncio.Task[None]) -> None:
    running.pop(number, None)


def request_of(frame: Frame) -> Request:
    """A request as ``Client`` writes it."""
    head, allowed = frame.head, frame.arrays.get("allowed")
    beam = head["beam"]
    return Request(
        tokens=tuple(frame.arrays["tokens"].tolist()),
        beam=tuple(beam) if isinstance(beam, list) else beam,
        allowed=None if allowed is None else np.unpackbits(allowed, count=head["items"]).astype(bool),
        user=head["user"],
        timeout_s=head["timeout_s"],
        narrowest=head["narrowest"],
        seed=head["seed"],
        most_a_code=head["most_a_code"],
    )


async def _generate(engine: AsyncEngine, frame: Frame) -> Frame:
    answer = await engine.generate(request_of(frame))
    levels = engine.engine.trie.space.levels
    arrays = {
        "sids": np.array(answer.sids, dtype=np.int32).reshape(-1, levels),
        "scores": np.array(answer.scores, dtype=np.float32),
    }
    return Frame(head={"kind": "answer", "short": answer.short, "narrowed": answer.narrowed}, arrays=arrays)


async def _score(engine: AsyncEngine, frame: Frame) -> Frame:
    scores = await engine.score(request_of(frame), frame.arrays["sids"])
    return Frame(head={"kind": "scores"}, arrays={"scores": scores})


async def _purge(engine: AsyncEngine, frame: Frame) -> Frame:
    await engine.purge(frame.head["user"])
    return Frame(head={"kind": "done"})


async def _ping(engine: AsyncEngine, frame: Frame) -> Frame:
    return Frame(head={"kind": "pong", "waiting": engine.engine.loop.scheduler.waiting})


_HANDLERS: dict[str, Callable[[AsyncEngine, Frame], Awaitable[Frame]]] = {
    "generate": _generate, "score": _score, "purge": _purge, "ping": _ping,
}  # fmt: skip


def _told(error: Exception) -> dict[str, Any]:
    """An error's name and parts; the client makes the same one of them."""
    told: dict[str, Any] = {"error": type(error).__name__, "what": str(error)}
    if isinstance(error, GenrecallError):
        told |= {"what": error.what, "seen": error.seen, "allowed": error.allowed, "fix": error.fix}
    return told

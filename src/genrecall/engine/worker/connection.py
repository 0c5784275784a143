"""The asking side of a worker's socket: many requests at a time, each answered on its own.

A request whose task is cancelled is cancelled in the worker, too. Whoever waits when the worker ends is told so;
nothing is retried here, because only the caller knows whether there is still time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrecall import errors
from genrecall.engine.worker.frames import Frame, encode, read
from genrecall.errors import ConfigError, GenrecallError

_LOST = "the engine's worker ended before it answered"


class WorkerDied(ConnectionError):
    """The worker ended before it answered."""


class Connection:
    """One connection.

    Args:
        reader, writer: of the socket.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._listening = asyncio.create_task(self._listen(reader))
        self.lost = asyncio.Event()

    @classmethod
    async def open(cls, socket: Path) -> Connection:
        """Connect to a worker that listens there."""
        return cls(*await asyncio.open_unix_connection(socket))

    async def ask(self, kind: str, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> Frame:
        """One request and its reply.

        Raises:
            WorkerDied: the worker ended, before or meanwhile.
            TimeoutError, GenrecallError: what the worker raised.
        """
        if self.lost.is_set():
            raise WorkerDied(_LOST)
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(encode(Frame(head={"kind": kind, "id": number, **head}, arrays=arrays or {})))
            await self._writer.drain()
            reply = await future
        except asyncio.CancelledError:
            if not self.lost.is_set():
                self._writer.write(encode(Frame(head={"kind": "cancel", "id": number})))
            raise
        except WorkerDied:
            raise
        except ConnectionError as error:
            raise WorkerDied(_LOST) from error
        finally:
            self._waiting.pop(number, None)
        if reply.head["kind"] == "error":
            raise _error(reply.head)
        return reply

    def close(self) -> None:
        """Whoever waits is told."""
        self._listening.cancel()
        self._lose()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while (frame := await read(reader)) is not None:
                future = self._waiting.get(frame.head["id"])
                if future is not None and not future.done():
                    future.set_result(frame)
        except (GenrecallError, ConnectionError):
            pass  # half a frame: the worker died while it wrote
        self._lose()

    def _lose(self) -> None:
        self.lost.set()
        self._writer.close()
        for number, future in self._waiting.items():
            if not future.done():
                future.set_exception(WorkerDied(f"{_LOST} (request {number})"))


def _error(head: Mapping[str, Any]) -> Exception:
    kind = head["error"]
    if kind == "TimeoutError":
        return TimeoutError(head["what"])
    known = {
        name: made
        for name, made in vars(errors).items()
        if isinstance(made, type) and made.__module__ == errors.__name__
    }
    if kind in known and "seen" in head:
        made = known[kind] if kind != "DependencyError" else GenrecallError
        return made(head["what"], seen=head["seen"], allowed=head["allowed"], fix=head["fix"])
    return ConfigError(
        "the worker failed at a message", seen=f"{kind}: {head['what']}", allowed="messages of this version",
        fix="let both sides run the same version; the worker's log says where it failed",
    )  # fmt: skip

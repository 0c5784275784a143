"""The other side of the socket: the real engine on a thread, or a peer that misbehaves as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from genrecall.bundle.engine import open_engine
from genrecall.engine.asynchronous import AsyncEngine
from genrecall.engine.worker.frames import Frame, encode, read
from genrecall.engine.worker.server import Server, handlers_of


class _Threaded:
    """An event loop on a thread, serving until the block ends."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        self.socket.unlink(missing_ok=True)

    def _run(self) -> None:
        self._task = self._loop.create_task(self._serve())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        if left := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(left, timeout=0.5))

    async def _serve(self) -> None:
        raise NotImplementedError


class EnginePeer(_Threaded):
    """A bundle's engine."""

    def __init__(self, bundle: Path, socket: Path) -> None:
        super().__init__(socket)
        opened, self.digest = open_engine(bundle, device="cpu")
        self.engine = AsyncEngine(opened)

    async def _serve(self) -> None:
        try:
            await Server(handlers_of(self.engine), self.socket, self.digest).run(self._ready.set)
        finally:
            self.engine.close()


Behaviour = Callable[["FakePeer", Frame, asyncio.StreamWriter], Any]


class FakePeer(_Threaded):
    """Does with each question what ``behaviour`` says.

    Attributes:
        asked, cancelled: heads of questions, ids that were given up.
    """

    def __init__(self, socket: Path, behaviour: Behaviour) -> None:
        super().__init__(socket)
        self._behaviour = behaviour
        self.asked: list[dict[str, Any]] = []
        self.cancelled: list[int] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connection, self.socket)
        self._ready.set()
        try:
            async with server:
                await server.serve_forever()
        finally:
            for writer in self._writers:
                writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while (frame := await read(reader)) is not None:
                if frame.head["kind"] == "cancel":
                    self.cancelled.append(frame.head["id"])
                else:
                    self.asked.append(dict(frame.head))
                    self._behaviour(self, frame, writer)
        writer.close()


def answer(sids: list[tuple[int, ...]], state: list[float] | None = None) -> Behaviour:
    """Answers these SIDs, the first one best, and a state where one is asked for."""

    def behave(peer: FakePeer, frame: Frame, writer: asyncio.StreamWriter) -> None:
        arrays = {
            "sids": np.array(sids, np.int32).reshape(len(sids), -1),
            "scores": -np.arange(len(sids), dtype=np.float32),
        }
        if state is not None and frame.head.get("state"):
            arrays["state"] = np.array(state, np.float32)
        head = {"kind": "answer", "short": False, "narrowed": False, "id": frame.head["id"]}
        writer.write(encode(Frame(head=head, arrays=arrays)))

    return behave


def silence(peer: FakePeer, frame: Frame, writer: asyncio.StreamWriter) -> None:
    """Answers nothing."""


def death(peer: FakePeer, frame: Frame, writer: asyncio.StreamWriter) -> None:
    """Closes the connection, as the kernel does for a process that dies."""
    writer.transport.abort()


def garbage(peer: FakePeer, frame: Frame, writer: asyncio.StreamWriter) -> None:
    """Writes what is no frame."""
    writer.write(b'\x10\x00\x00\x00\x08\x00\x00\x00{"kind"!garbage!')


def refusal(peer: FakePeer, frame: Frame, writer: asyncio.StreamWriter) -> None:
    """Answers as an engine whose time was over."""
    head = {"kind": "error", "id": frame.head["id"], "error": "TimeoutError", "what": "late"}
    writer.write(encode(Frame(head=head)))

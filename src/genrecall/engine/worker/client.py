"""The other side: a worker process that is started, watched and started again, and asked as if it were an engine here.

Crash isolation after Candea & Fox 2003 ("Crash-only software"): a worker that dies takes its requests with it, each of
which is told so, and the next request finds a new one. We deviate: nothing is retried here, because only the caller
knows whether there is still time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrecall import errors
from genrecall.engine.host.request import Answer, Request, Sid
from genrecall.engine.worker.frames import Frame, encode, read
from genrecall.errors import ConfigError, GenrecallError

_READY = b"ready\n"


class WorkerDied(ConnectionError):
    """The worker ended before it answered."""


class Client:
    """A worker and the connection to it.

    Args:
        factory: ``package.module:function`` that opens an engine in the worker.
        arguments: keyword arguments for it, as JSON.
        socket: path of the Unix socket; 100 bytes at most.
        start_timeout_s: how long opening may take.
    """

    def __init__(
        self, factory: str, arguments: Mapping[str, Any], socket: Path, *, start_timeout_s: float = 600.0
    ) -> None:
        self._factory, self._arguments, self._socket = factory, dict(arguments), socket
        self._start_timeout_s = start_timeout_s
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the worker that runs now."""
        return self._process.pid if self._process is not None and self._writer is not None else None

    async def generate(self, request: Request) -> Answer:
        """As ``AsyncEngine.generate``; traces stay in the worker.

        Raises:
            WorkerDied: it ended before it answered.
        """
        frame = await self._ask("generate", _head(request), _arrays(request))
        sids = list(map(tuple, frame.arrays["sids"].tolist()))
        return Answer(
            sids=sids,
            scores=frame.arrays["scores"].tolist(),
            short=frame.head["short"],
            narrowed=frame.head["narrowed"],
        )

    async def score(self, request: Request, sids: Sequence[Sid] | np.ndarray) -> np.ndarray:
        """As ``AsyncEngine.score``."""
        arrays = {**_arrays(request), "sids": np.asarray(sids, dtype=np.int32)}
        return (await self._ask("score", _head(request), arrays)).arrays["scores"]

    async def purge(self, user: str) -> None:
        """As ``Engine.purge``."""
        await self._ask("purge", {"user": user}, {})

    async def ping(self) -> int:
        """How many requests wait in the worker."""
        return int((await self._ask("ping", {}, {})).head["waiting"])

    async def close(self) -> None:
        """End the worker."""
        if self._listening is not None:
            self._listening.cancel()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        self._lose()

    async def _ask(self, kind: str, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Frame:
        await self._start()
        assert self._writer is not None, "a started worker is connected"
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(encode(Frame(head={"kind": kind, "id": number, **head}, arrays=arrays)))
            await self._writer.drain()
            reply = await future
        except asyncio.CancelledError:
            if self._writer is not None:
                self._writer.write(encode(Frame(head={"kind": "cancel", "id": number})))
            raise
        except ConnectionError as error:
            raise WorkerDied("the engine's worker ended before it answered") from error
        finally:
            self._waiting.pop(number, None)
        if reply.head["kind"] == "error":
            raise _error(reply.head)
        return reply

    async def _start(self) -> None:
        async with self._starting:
            if self._writer is not None:
                return
            with contextlib.suppress(FileNotFoundError):
                self._socket.unlink()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "genrecall.engine.worker", str(self._socket), self._factory,
                json.dumps(self._arguments), stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert self._process.stdout is not None
            line = await asyncio.wait_for(self._process.stdout.readline(), self._start_timeout_s)
            if line != _READY:
                await self._process.wait()
                raise ConfigError(
                    "the engine's worker did not start",
                    seen=f"exit status {self._process.returncode}",
                    allowed="a worker that opens its engine",
                    fix="read what it wrote to standard error",
                )
            reader, self._writer = await asyncio.open_unix_connection(self._socket)
            self.starts += 1
            self._listening = asyncio.create_task(self._listen(reader))

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
        """The worker is gone: whoever waits is told, and the next request starts another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerDied("the engine's worker ended before it answered"))


def _head(request: Request) -> dict[str, Any]:
    return {
        "beam": list(request.beam) if isinstance(request.beam, tuple) else request.beam,
        "user": request.user,
        "timeout_s": request.timeout_s,
        "narrowest": request.narrowest,
        "seed": request.seed,
        "most_a_code": request.most_a_code,
        "items": None if request.allowed is None else len(request.allowed),
    }


def _arrays(request: Request) -> dict[str, np.ndarray]:
    arrays = {"tokens": np.array(request.tokens, dtype=np.int32)}
    return arrays if request.allowed is None else {**arrays, "allowed": np.packbits(request.allowed)}


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
        "the engine's worker did not understand a message", seen=head["what"], allowed="messages of this version",
        fix="let both sides run the same version",
    )  # fmt: skip

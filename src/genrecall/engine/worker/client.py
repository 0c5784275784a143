"""The other side: a worker process that is started, watched and started again, and asked as if it were an engine here.

Crash isolation after Candea & Fox 2003 ("Crash-only software"): a worker that dies takes its requests with it, each of
which is told so, and the next request finds a new one. We deviate: nothing is retried here, because only the caller
knows whether there is still time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.engine.host.request import Answer, Request, Sid
from genrecall.engine.worker.connection import Connection, WorkerDied
from genrecall.engine.worker.frames import Frame
from genrecall.errors import ConfigError

__all__ = ["Client", "WorkerDied"]
_READY = b"ready\n"


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
        self._process: asyncio.subprocess.Process | None = None
        self._connection: Connection | None = None
        self._starting = asyncio.Lock()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the worker that runs now."""
        alive = self._process is not None and self._connection is not None and not self._connection.lost.is_set()
        return self._process.pid if alive and self._process is not None else None

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
            beam=frame.head["beam"],
            state=frame.arrays.get("state"),
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
        if self._connection is not None:
            self._connection.close()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _ask(self, kind: str, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Frame:
        return await (await self._connected()).ask(kind, head, arrays)

    async def _connected(self) -> Connection:
        async with self._starting:
            if self._connection is not None and not self._connection.lost.is_set():
                return self._connection
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
            self._connection = await Connection.open(self._socket)
            self.starts += 1
            return self._connection


def _head(request: Request) -> dict[str, Any]:
    return {
        "beam": list(request.beam) if isinstance(request.beam, tuple) else request.beam,
        "user": request.user,
        "timeout_s": request.timeout_s,
        "narrowest": request.narrowest,
        "seed": request.seed,
        "most_a_code": request.most_a_code,
        "state": request.state,
        "tag": request.tag,
        "items": None if request.allowed is None else len(request.allowed),
    }


def _arrays(request: Request) -> dict[str, np.ndarray]:
    arrays = {"tokens": np.array(request.tokens, dtype=np.int32)}
    return arrays if request.allowed is None else {**arrays, "allowed": np.packbits(request.allowed)}

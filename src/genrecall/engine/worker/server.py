"""The worker's side: frames in, answers asked for, frames out; every request of every connection on its own.

| kind | head, arrays | reply |
|---|---|---|
| generate | beam, user, timeout_s, narrowest, seed, items, most_a_code, state; tokens int32 (T,), allowed
  uint8 (packed bits of I items) | answer: short, narrowed, beam; sids int32 (n, L), scores float32 (n,), state float32
  (E,) where it was asked for |
| score | as generate; sids int32 (n, L) | scores: scores float32 (n,) |
| purge | user | done |
| ping | | pong: waiting, running and waiting_rows |
| cancel | (the id of the request that is given up) | none; the request's own reply is an error or none |

Everything that cannot be answered is replied to by ``error``: error (a name), what, and for our own errors seen,
allowed, fix. A service adds kinds of its own (``serve.worker``). A head may bear ``tag``: see ``record``.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrecall.engine.host.request import Request
from genrecall.engine.worker.frames import Frame, encode, read
from genrecall.errors import ConfigError, DataError, GenrecallError

if TYPE_CHECKING:
    from genrecall.engine.asynchronous import AsyncEngine  # torch: not for those that only answer on a socket

Handler = Callable[[Frame], Awaitable[Frame]]


class Server:
    """Serves kinds of requests on one socket.

    Args:
        handlers: by kind.
        socket: path of the Unix socket, made by ``run``; readable for this user alone.
        bundle: digest of what the engine serves. A request that names another is refused.
    """

    def __init__(self, handlers: Mapping[str, Handler], socket: Path, bundle: str = "") -> None:
        self._handlers, self._socket, self._bundle = handlers, socket, bundle
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until cancelled; connections end with it (``serve_forever`` waits for clients to hang up, in Python 3.12)."""
        server = await asyncio.start_unix_server(self._connected, self._socket)
        self._socket.chmod(0o600)
        ready()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests run beside each other; what its client leaves behind is cancelled."""
        running: dict[int, asyncio.Task[None]] = {}
        try:
            while (frame := await read(reader)) is not None:
                number = frame.head["id"]
                if not isinstance(number, int):
                    raise KeyError("id")
                if frame.head["kind"] == "cancel":
                    if number in running:
                        running[number].cancel()
                    continue
                running[number] = task = asyncio.create_task(self._answer(frame, writer))
                task.add_done_callback(partial(_forget, running, number))
        except ConnectionError:
            pass  # killed before it read all replies: there is nobody to tell
        except (DataError, KeyError) as error:
            # This client speaks another language; the others and the engine go on.
            writer.write(encode(Frame(head={"kind": "error", "id": -1, **_told(error)})))
        finally:
            for task in running.values():
                task.cancel()
            writer.close()

    async def _answer(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        number = frame.head["id"]
        try:
            self._require_bundle(frame.head.get("bundle"))
            reply = await self._handlers[frame.head["kind"]](frame)
        except (GenrecallError, TimeoutError, KeyError, TypeError) as error:
            reply = Frame(head={"kind": "error", **_told(error)})
        except Exception as error:  # this request's fault is this request's reply; the log has where it came from
            traceback.print_exc()
            reply = Frame(head={"kind": "error", **_told(error)})
        writer.write(encode(Frame(head={**reply.head, "id": number}, arrays=reply.arrays)))
        await writer.drain()

    def _require_bundle(self, wanted: str | None) -> None:
        if wanted is not None and wanted != self._bundle:
            raise ConfigError(
                "this engine serves another bundle",
                seen=wanted,
                allowed=self._bundle or "requests that name no bundle",
                fix="start an engine with the bundle that the request was made for, or build the graph again",
            )


def handlers_of(engine: AsyncEngine) -> dict[str, Handler]:
    """The kinds that an engine answers by itself."""

    async def generate(frame: Frame) -> Frame:
        answer = await engine.generate(request_of(frame))
        levels = engine.engine.trie.space.levels
        arrays = {
            "sids": np.array(answer.sids, dtype=np.int32).reshape(-1, levels),
            "scores": np.array(answer.scores, dtype=np.float32),
        }
        if answer.state is not None:
            arrays["state"] = answer.state
        told = {"short": answer.short, "narrowed": answer.narrowed, "beam": answer.beam}
        return Frame(head={"kind": "answer", **told}, arrays=arrays)

    async def score(frame: Frame) -> Frame:
        scores = await engine.score(request_of(frame), frame.arrays["sids"])
        return Frame(head={"kind": "scores"}, arrays={"scores": scores})

    async def purge(frame: Frame) -> Frame:
        await engine.purge(frame.head["user"])
        return Frame(head={"kind": "done"})

    async def ping(frame: Frame) -> Frame:
        jobs = sum(one.loop.scheduler.waiting for one in engine.engines)
        running, waiting = engine.rows
        return Frame(head={"kind": "pong", "waiting": jobs, "running_rows": running, "waiting_rows": waiting})

    return {"generate": generate, "score": score, "purge": purge, "ping": ping}


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
        tag=head.get("tag"),
        state=head.get("state", False),
        most_a_code=head.get("most_a_code"),
    )


def _forget(running: dict[int, asyncio.Task[None]], number: int, task: asyncio.Task[None]) -> None:
    running.pop(number, None)


def _told(error: Exception) -> dict[str, Any]:
    """An error's name and parts; the client makes the same one of them."""
    told: dict[str, Any] = {"error": type(error).__name__, "what": str(error)}
    if isinstance(error, GenrecallError):
        told |= error.parts
    return told

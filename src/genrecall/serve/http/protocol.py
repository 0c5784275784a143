"""Uvicorn's HTTP/1.1 on a connection, where a busy machine needs less of it.

An answer's head and body leave in one write: two wake the client twice, and where cores are scarce it takes ours
from us in between. What the gate refuses is answered as soon as its head is read: a task of its own would stand in line
behind those of all requests that were let in, and cost more than the refusal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from genrecall.serve.http.gate import Gate, lines

if TYPE_CHECKING:
    from starlette.types import Scope

_HEAD, _END = b"HTTP/1.1 ", b"\r\n\r\n"


class GatedProtocol(HttpToolsProtocol):
    """One connection to an application behind its gate."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        gate = self.config.app
        assert isinstance(gate, Gate)
        # Where more wait on this connection, each answer begins the next one: tasks keep that from nesting.
        try:
            told = None if self.pipeline else gate.refusal(cast("Scope", cycle.scope))
        except Exception:  # uvicorn would call it a malformed request; its task meets it again and answers 500
            told = None
        if told is None:
            super()._start_asgi_task(cycle, app)
            return
        cycle.response_started = cycle.response_complete = True
        parts = [STATUS_LINE[told.status], lines(cycle.default_headers), told.head]
        parts += [b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"]
        self.transport.write(b"".join(parts if cycle.scope["method"] == "HEAD" else [*parts, told.body]))
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()


class OneWrite:
    """A transport that holds back an answer's head until its body is there, at most until the loop's next turn.

    Args:
        transport: of a connection.
        loop: that it is used on.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._head = transport, loop, b""
        self.get_extra_info, self.is_closing = transport.get_extra_info, transport.is_closing
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        """See ``asyncio.WriteTransport``."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and data.endswith(_END):
            self._head = data
            self._loop.call_soon(self._flush)  # an answer without a body writes nothing more
            return
        self._transport.write(data)

    def close(self) -> None:
        """See ``asyncio.BaseTransport``."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")

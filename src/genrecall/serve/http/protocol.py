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
_BUSY = STATUS_LINE[503]


class GatedProtocol(HttpToolsProtocol):
    """One connection to an application behind its gate."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``asyncio.Protocol``."""
        assert isinstance(self.config.app, Gate)
        self._gate, self._fresh, self._inside, self._heard = self.config.app, b"", False, 0.0
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        rests = not self._inside and not self.pipeline and (self.cycle is None or self.cycle.response_complete)
        if rests and (told := self._gate.repeats.refused(data)) is not None:
            self._heard = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._expect(self.timeout_keep_alive)
            self.transport.write(_BUSY + lines(self.server_state.default_headers) + told)
            return
        self._fresh = data if rests else b""
        super().data_received(data)

    def on_message_begin(self) -> None:
        """See ``httptools``."""
        self._inside = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """See ``httptools``."""
        self._inside, self._fresh = False, b""
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Refusals of repeats leave the timer as it is: another for each would cost more than they do."""
        left_s = self._heard + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._expect(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _expect(self, within_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(within_s, self.timeout_keep_alive_handler)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope = cast("Scope", cycle.scope)
        # Where more wait on this connection, each answer begins the next one: tasks keep that from nesting.
        try:
            refusal = None if self.pipeline else self._gate.refusal(scope)
        except Exception:  # uvicorn would call it a malformed request; its task meets it again and answers 500
            refusal = None
        if refusal is None:
            super()._start_asgi_task(cycle, app)
            return
        cycle.response_started = cycle.response_complete = True
        told = refusal.head + (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        told += b"" if scope["method"] == "HEAD" else refusal.body
        if refusal.code == "overloaded" and cycle.keep_alive and self._fresh:
            self._gate.repeats.learn(self._fresh, scope, told)
        self.transport.write(STATUS_LINE[refusal.status] + lines(cycle.default_headers) + told)
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

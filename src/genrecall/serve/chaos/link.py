"""One keep-alive connection of the load generator: a request at a time, and when its answer arrived."""

from __future__ import annotations

import asyncio
import collections
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

_STAMPS = 35 if sys.platform == "linux" else None  # SO_TIMESTAMPNS, which Python does not name
_STAMP = struct.Struct("@ll")
_ROOM = 1 << 16


class Arrived(NamedTuple):
    """An answer's head, in lower case, and body, and when (perf_counter) it arrived."""

    head: bytes
    body: bytes
    came: float


Told = Callable[[float, Arrived | None], None]


class Link:
    """One connection.

    Args:
        sock: connected.
        free: where it stands while it is asked nothing.
        arrivals: tells when there is something to read; its data is to be called then.

    Attributes:
        lost: it is closed.
        sent: when (perf_counter) what it is asked now was sent.
    """

    def __init__(self, sock: socket.socket, free: collections.deque[Link], arrivals: selectors.BaseSelector) -> None:
        self._sock, self._free, self._arrivals = sock, free, arrivals
        self._begun = b""  # of an answer that came in parts
        self._told: Told | None = None
        self.lost, self.sent = False, 0.0
        arrivals.register(sock, selectors.EVENT_READ, self._readable)

    @classmethod
    async def open(cls, host: str, port: int, free: collections.deque[Link], arrivals: selectors.BaseSelector) -> Link:
        """Connect."""
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _STAMPS is not None:
                sock.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock, free, arrivals)

    @property
    def busy(self) -> bool:
        """Whether it is asked something now."""
        return self._told is not None

    def ask(self, request: bytes, told: Told) -> None:
        """Send; ``told`` is given when that was and the answer, or None where the connection is lost before."""
        self._told, self.sent = told, time.perf_counter()
        try:
            whole = self._sock.send(request) == len(request)
        except OSError:
            whole = False
        if not whole:  # requests are small: a buffer that has no room for one belongs to somebody who does not read
            self.close()

    def close(self) -> None:
        """Hang up; once is enough."""
        if self.lost:
            return
        self.lost = True
        self._arrivals.unregister(self._sock)
        self._sock.close()
        self._tell(None)

    def _tell(self, arrived: Arrived | None) -> None:
        told, self._told = self._told, None
        if arrived is not None:
            self._free.append(self)
        if told is not None:
            told(self.sent, arrived)

    def _readable(self) -> None:
        try:
            data, notes, _, _ = self._sock.recvmsg(_ROOM, 64)
        except BlockingIOError:
            return
        except OSError:
            data, notes = b"", []
        came = time.perf_counter()
        for _, kind, stamp in notes:
            if kind == _STAMPS:
                seconds, nanoseconds = _STAMP.unpack(stamp)
                came -= max(time.time() - seconds - nanoseconds / 1e9, 0.0)
        if not data:
            self.close()
            return
        data = self._begun + data if self._begun else data
        end = data.find(b"\r\n\r\n") + 2
        head = data[:end].lower()
        length = head.find(b"content-length:") + 15
        if end < 2 or len(data) - end - 2 < (0 if length < 15 else int(head[length : head.find(b"\r", length)])):
            self._begun = data
            return
        self._begun = b""
        self._tell(Arrived(head, data[end + 2 :], came))

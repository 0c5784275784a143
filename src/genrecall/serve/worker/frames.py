"""Length-prefixed frames between our own processes: four bytes of little-endian length, then so many bytes."""

from __future__ import annotations

import asyncio
import socket
import struct

HEADER = struct.Struct("<I")
MAX_BYTES = 64 * 1024 * 1024


class FrameError(Exception):
    """The other side sent what cannot be a frame; the connection is of no more use."""


def packed(body: bytes) -> bytes:
    """One frame."""
    if len(body) > MAX_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes; at most {MAX_BYTES} are allowed")
    return HEADER.pack(len(body)) + body


def length_of(header: bytes) -> int:
    """Bytes that follow this header."""
    (length,) = HEADER.unpack(header)
    if length > MAX_BYTES:
        raise FrameError(f"a frame of {length} bytes is announced; at most {MAX_BYTES} are allowed")
    return int(length)


async def read(stream: asyncio.StreamReader) -> bytes | None:
    """The next frame's body; None at the end of the stream, also in the middle of a frame."""
    try:
        return await stream.readexactly(length_of(await stream.readexactly(HEADER.size)))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


def receive(connection: socket.socket) -> bytes | None:
    """``read`` for a thread that may wait."""
    header = _exactly(connection, HEADER.size)
    return None if header is None else _exactly(connection, length_of(header))


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = connection.recv(min(count - len(parts), 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)

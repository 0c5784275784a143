"""Requests that are refused in the words of one before.

Most of a refusal is reading what it refuses: a parser's callbacks, an ASGI scope, a document. But clients say the same
again and again, so a head that was read and refused for want of room is known by its bytes, and so is the answer, all
but its id and date. Whatever is not the same byte for byte, or would now be let in or refused for another reason, is
read as usual.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from starlette.types import Scope

    from genrecall.serve.http.gate import Gate

_END = b"\r\n\r\n"
_MOST, _LONGEST = 256, 2048
_UNLIKE = {b"transfer-encoding", b"expect", b"upgrade", b"x-request-id"}  # no body of a known length; an id of its own


class _Known(NamedTuple):
    """A head: of how long a body, and who asks; what was told, but for status and the server's headers, by which id."""

    length: int
    authorization: str
    told: bytes
    request_id: bytes


class Repeats:
    """What was refused lately.

    Args:
        gate: whose refusals they are.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._known: dict[bytes, _Known] = {}

    def learn(self, data: bytes, scope: Scope, told: bytes) -> None:
        """``told`` was answered, for want of room, to what ``data`` begins with, on a connection that lasts."""
        head, lines, headers = data.partition(_END)[0], len(scope["headers"]), dict(scope["headers"])
        as_read = head.startswith(scope["method"].encode()) and head.count(b"\n") == head.count(b"\r\n") == lines
        if not as_read or len(head) > _LONGEST or scope["method"] == "HEAD" or headers.keys() & _UNLIKE:
            return
        if len(self._known) == _MOST:
            self._known.clear()
        length, authorization = headers.get(b"content-length", b"0"), headers.get(b"authorization", b"")
        request_id = scope["state"]["request_id"].encode()
        self._known[head] = _Known(int(length), authorization.decode("latin-1"), told, request_id)

    def refused(self, data: bytes) -> bytes | None:
        """What is told, but for status and the server's headers; None: it is no whole request, or must be read."""
        if not self._gate.is_full:
            return None
        begun = time.perf_counter()
        head, _, body = data.partition(_END)
        known = self._known.get(head)
        if known is None or len(body) != known.length or not self._gate.refuses_again(known.authorization, begun):
            return None
        # Nothing is ever asked by the id of a refusal, so it need not be hard to guess.
        return known.told.replace(known.request_id, b"%016x" % random.getrandbits(64))

"""What rank 0 tells the others, through a pipe to each: batches, and frames with sizes and catalogs.

    | u32 number | u32 0 |, and when it is packed, int32 of the batch | candidates, if any |

All ranks wait for a batch to be read, after a pause in which their processors forgot all. So it is announced before it
is packed: whoever knows by the number what it is like has all ready that does not depend on it, and reads its integers
to where they travel on to the device. A frame's second integer is never 0. Bytes come from our own process.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from genrecall.engine.worker.frames import Frame, decode
from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
_HEAD = struct.Struct("<II")


def announced(number: int) -> bytes:
    """A batch is about to come, like others of this number."""
    return _HEAD.pack(number, 0)


class Inbox:
    """The end of a pipe that messages come out of, unbuffered."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._poll = pipe, select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._head = memoryview(bytearray(_HEAD.size))

    def watch(self, seconds: float) -> None:
        """Look out for a message for a while, awake: a processor that sleeps takes its time to wake up and to be quick
        again.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._poll.poll(0):
            pass

    def receive(self) -> Frame | int | None:
        """The next message, of a batch its number; None where the other end has closed, in the midst of one too."""
        if not self._fill(self._head):
            return None
        first, head = _HEAD.unpack(self._head)
        if not head:
            return first
        payload = bytearray(first - 4)  # kept by whoever takes it: a catalog may be large
        return decode(payload, head) if self._fill(memoryview(payload)) else None

    def read(self, out: np.ndarray) -> bool:
        """Fill int32 with what follows of a batch; False where the other end has closed."""
        return self._fill(out.data.cast("B"))

    def _fill(self, left: memoryview) -> bool:
        """Whether so many bytes came."""
        while left:
            got = self._pipe.readinto(left)  # type: ignore[attr-defined]  # of unbuffered files
            if not got:
                return False
            left = left[got:]
        return True


def told(sizes: DataclassInstance) -> dict[str, Any]:
    """A dataclass of numbers and tuples of numbers, for a frame's head."""
    return {field.name: vars(sizes)[field.name] for field in fields(sizes)}


def sizes_of(kind: type[T], head: Mapping[str, Any]) -> T:
    """The dataclass of which ``told`` made this."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in head.items()})


def trie_arrays(trie: Trie) -> dict[str, np.ndarray]:
    """All of a trie but its space.

    Raises:
        CapacityError: 2^31 items or more.
    """
    if trie.num_items >= 2**31:
        raise CapacityError(
            "a catalog is too large to be told", seen=trie.num_items, allowed=f"{2**31 - 1}", fix="split it"
        )
    return {field.name: vars(trie)[field.name].astype(np.int32) for field in fields(trie) if field.name != "space"}


def trie_of(frame: Frame) -> Trie:
    """The trie of a frame with ``trie_arrays`` and the space's ``codes``."""
    names = [field.name for field in fields(Trie) if field.name != "space"]
    wide = {name: frame.arrays[name].astype(np.int64) for name in names}
    narrow = {name: frame.arrays[name] for name in ("child_code", "item_order")}
    return Trie(space=SidSpace(tuple(frame.head["codes"])), **(wide | narrow))

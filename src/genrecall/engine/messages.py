"""What rank 0 tells the others, through a pipe to each: packed batches, and frames with sizes and catalogs.

    | u32 bytes after this | u32 0 | u32 engine | u32 number | u32 integers of the batch | batch | candidates, if any |

All ranks wait for a batch to be read, after a pause in which their processors forgot all: it takes 0.12 ms less than a
frame, whose second integer is never 0. Bytes come from our own process.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from genrecall.engine.worker.frames import Frame, decode
from genrecall.errors import CapacityError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
_SIZES, _PACKED = struct.Struct("<II"), struct.Struct("<III")
_USUAL_BYTES = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A batch: of which engine, the number of what it is like, int32 of itself and of its candidates.

    Where it was received, the integers are there until the next message is.
    """

    engine: int
    number: int
    batch: np.ndarray
    candidates: np.ndarray | None = None

    def encode(self) -> bytes:
        """As ``Inbox`` reads it."""
        body = self.batch.tobytes() + (b"" if self.candidates is None else self.candidates.tobytes())
        head = _PACKED.pack(self.engine, self.number, len(self.batch))
        return _SIZES.pack(4 + len(head) + len(body), 0) + head + body


class Inbox:
    """The end of a pipe that messages come out of, unbuffered."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._poll = pipe, select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._bytes = memoryview(bytearray(_USUAL_BYTES))

    def watch(self, seconds: float) -> None:
        """Look out for a message for a while, awake: a processor that sleeps takes its time to wake up and to be quick
        again.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._poll.poll(0):
            pass

    def receive(self) -> Frame | Packed | None:
        """The next message; None where the other end has closed, in the midst of one too."""
        if not self._fill(self._bytes[: _SIZES.size]):
            return None
        total, head = _SIZES.unpack_from(self._bytes)
        count = total - 4
        if head:  # kept by whoever takes it: a catalog may be large
            payload = bytearray(count)
            return decode(payload, head) if self._fill(memoryview(payload)) else None
        if count > len(self._bytes):
            self._bytes = memoryview(bytearray(2 * count))
        if not self._fill(self._bytes[:count]):
            return None
        engine, number, size = _PACKED.unpack_from(self._bytes)
        numbers = np.frombuffer(self._bytes[_PACKED.size : count], np.int32)
        return Packed(engine, number, numbers[:size], numbers[size:] if len(numbers) > size else None)

    def wipe(self) -> None:
        """Overwrite what is left of earlier batches: prompts are in them."""
        self._bytes[:] = bytes(len(self._bytes))

    def _fill(self, place: memoryview) -> bool:
        """Whether so many bytes came."""
        at = 0
        while at < len(place):
            got = self._pipe.readinto(place[at:])  # type: ignore[attr-defined]  # of unbuffered files
            if not got:
                return False
            at += got
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

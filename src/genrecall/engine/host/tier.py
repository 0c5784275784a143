"""Slots of host memory for pages that the device had to give up, and the copies between the two.

    device page  --offload-->  slot  --onboard-->  device page

A second tier as in LMCache and recsys-examples' asynchronous KV manager. We deviate: pages are immutable and belong to
one user, so that a slot is written once, and nobody has to be asked before it is dropped: a page that came back keeps
its slot for as long as nobody else needs one, and is given up again without a copy. A copy touches no page that a batch
in flight reads or writes: pages are given up only when no request holds them, and taken only when they are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Way(Enum):
    """Of a copy."""

    OFFLOAD, ONBOARD = "to the host", "to the device"


@dataclass(frozen=True)
class Move:
    """One page to be copied, in the order in which they were decided.

    Attributes:
        way: whither.
        page: of the device.
        slot: of the host.
    """

    way: Way
    page: int
    slot: int


class Slots:
    """Which slots are free, and whose bytes stand in those that are.

    Args:
        count: of slots; 0: there is no such tier.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._last: dict[int, str] = {}
        self._wipe: list[int] = []
        self._moves: list[Move] = []

    @property
    def available(self) -> int:
        """Free slots."""
        return len(self._free)

    def offload(self, page: int, user: str) -> int:
        """A slot for a user's page."""
        slot = self._free.pop()
        self._last[slot] = user
        self._moves.append(Move(Way.OFFLOAD, page, slot))
        return slot

    def onboard(self, slot: int, page: int) -> None:
        """Copy a slot back; it may be released at once, because copies are done in order."""
        self._moves.append(Move(Way.ONBOARD, page, slot))

    def release(self, slot: int) -> None:
        """Nobody needs it any more; its bytes stay until they are overwritten or purged."""
        self._free.append(slot)

    def purge(self, user: str) -> None:
        """Wipe what is left of a user in free slots."""
        gone = [slot for slot in self._free if self._last.get(slot) == user]
        for slot in gone:
            del self._last[slot]
        self._wipe.extend(gone)

    def moves(self) -> list[Move]:
        """To be done now, before anything else is planned; each is told once."""
        told, self._moves = self._moves, []
        return told

    def wipeable(self) -> list[int]:
        """Slots to be zeroed after these moves; each is told once."""
        told, self._wipe = self._wipe, []
        return told

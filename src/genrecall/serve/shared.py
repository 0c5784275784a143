"""What several gateway processes share without asking each other: places on a file system, numbers in mapped memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

HUB = "hub"
_TALLY = ".tally"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One process's place among several that serve together.

    Attributes:
        directory: what they share lies here, and the keeper's socket ``HUB``.
        number: this one's; the last is the keeper's, which starts the processes that the others connect to.
        gateways: how many answer requests.
    """

    directory: Path
    number: int
    gateways: int

    @property
    def keeps(self) -> bool:
        """Whether this is the keeper."""
        return self.number == self.gateways

    @property
    def name(self) -> str:
        """For logs and labels."""
        return "keeper" if self.keeps else str(self.number)


class Tally:
    """A sum of which every process writes its own part, and all read the whole; never locked, never half written.

    Args:
        place: of the file, without its ending; made if it is missing. What stood in this process's part is forgotten.
            None: nobody shares it.
        seat: whose part.
    """

    def __init__(self, place: Path | None = None, seat: Seat | None = None) -> None:
        self._own = 0
        self._parts = np.zeros(1, np.int64)
        if place is not None and seat is not None:
            file, count, self._own = place.with_suffix(_TALLY), seat.gateways + 1, seat.number
            with file.open("a+b") as opened:
                opened.truncate(count * 8)
                self._parts = np.frombuffer(mmap.mmap(opened.fileno(), count * 8), np.int64)
            self._parts[self._own] = 0

    def add(self, amount: int) -> None:
        """To this process's part."""
        self._parts[self._own] += amount

    @property
    def total(self) -> int:
        """Of all processes."""
        return int(self._parts.sum())


def forget(seat: Seat, number: int) -> None:
    """Take a process that has ended out of all tallies below the seat's directory: it cannot do so itself."""
    for file in seat.directory.rglob(f"*{_TALLY}"):
        Tally(file, replace(seat, number=number))


class Relay(Protocol):
    """Asks all other processes of the service at once; what those tell that answer in time, by name."""

    async def __call__(self, kind: str, head: Mapping[str, Any]) -> dict[str, bytes]:
        """Ask; ``gateways.fellows`` lists the kinds."""
        ...

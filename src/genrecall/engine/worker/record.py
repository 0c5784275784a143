"""What a worker is doing, in memory that outlives it: its starter reads there whether it gets on, and what it died of.

    | beat, ns | batches | rows that run | rows that wait | rows of the last batch | its ns | n | busy until, ns
    | beams begun | tags, n of them |

As an aircraft's flight recorder: written before the deed, read after the end, and nobody is asked for it. Numbers are
of 64 bits, aligned, and each is written by one thread at a time, so that none is ever seen half written; ``beat`` is of
the machine's monotonic clock, which all processes share, and is the computing thread's own: it proves progress and not
only life.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_NUMBERS = 2048
_TAGS = 9


class Record:
    """A mapped file.

    Args:
        path: is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_NUMBERS * 8)
            self._numbers = np.frombuffer(mmap.mmap(file.fileno(), _NUMBERS * 8), np.int64)

    def moved(self, tags: Sequence[int], rows: tuple[int, int]) -> None:
        """See ``asynchronous.Observer``."""
        numbers, kept = self._numbers, tags[: _NUMBERS - _TAGS]
        numbers[6] = 0
        numbers[_TAGS : _TAGS + len(kept)] = kept
        numbers[6] = len(kept)
        numbers[2:4] = rows
        numbers[0] = time.monotonic_ns()

    def busy(self, seconds: float) -> None:
        """See ``asynchronous.Observer``."""
        self._numbers[7] = time.monotonic_ns() + int(seconds * 1e9)

    def begin(self, beams: int) -> None:
        """See ``asynchronous.Observer``."""
        self._numbers[8] = beams

    def landed(self, rows: int, seconds: float) -> None:
        """See ``asynchronous.Observer``."""
        self._numbers[4], self._numbers[5] = rows, int(seconds * 1e9)
        self._numbers[1] += 1

    @property
    def silence_s(self) -> float:
        """Since the last beat; since the machine's start where there was none yet."""
        return (time.monotonic_ns() - int(self._numbers[0])) / 1e9

    @property
    def rows(self) -> tuple[int, int]:
        """Beams that run, and that wait."""
        return int(self._numbers[2]), int(self._numbers[3])

    @property
    def busy_s(self) -> float:
        """Until the device should have done what it was given."""
        return max((int(self._numbers[7]) - time.monotonic_ns()) / 1e9, 0.0)

    @property
    def begun(self) -> int:
        """Beams that were asked for and wait no more: they run, or their answers are on their way."""
        return int(self._numbers[8])

    @property
    def batches(self) -> int:
        """That were done."""
        return int(self._numbers[1])

    @property
    def last(self) -> tuple[int, float]:
        """Beams and seconds of the last batch."""
        return int(self._numbers[4]), int(self._numbers[5]) / 1e9

    @property
    def tags(self) -> frozenset[int]:
        """Of what is being computed, or was when the process died."""
        return frozenset(self._numbers[_TAGS : _TAGS + int(self._numbers[6])].tolist())

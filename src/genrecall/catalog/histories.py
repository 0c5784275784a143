"""Users' behaviours in order, as one ragged array.

Order of a user's events: ``argsort_stable(time, h)`` with ``h = splitmix64(seed, user, time, item)``. Events that share
a time (all lines of one invoice) have no order; the order of rows in the source often leaks what was entered together,
so that ties are shuffled: by a hash, after Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014 (the finaliser of SplitMix64). We deviate from shuffling with a generator: a hash makes a user's order
independent of the order of rows in the file and of all other users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """Item sequences of U users (or of N cases), oldest first.

    Attributes:
        offsets: int64 (U+1,); row ``u`` is ``items[offsets[u]:offsets[u + 1]]``.
        items: int32 (E,) item indices.
        times: int64 (E,) UTC seconds, or order numbers where ``timed`` is False; non-decreasing in each row.
        timed: whether times are real and can be compared between users.
    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    timed: bool

    def __post_init__(self) -> None:
        assert len(self.items) == len(self.times) == self.offsets[-1]

    @classmethod
    def from_lists(
        cls, rows: Sequence[Sequence[int]], times: Sequence[Sequence[int]] | None = None, timed: bool | None = None
    ) -> Histories:
        """Build from Python lists; without times, an event's time is its place in the row."""
        stamps: Sequence[Sequence[int]] = times if times is not None else [range(len(row)) for row in rows]
        return cls(
            offsets=offsets_of(np.fromiter((len(row) for row in rows), np.int64, len(rows))),
            items=np.fromiter((item for row in rows for item in row), np.int32),
            times=np.fromiter((time for row in stamps for time in row), np.int64),
            timed=timed if timed is not None else times is not None,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (U,) events a row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """int32 (E,) the row of each event."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of rows, items and times: what was learnt from, in a manifest."""
        total = hashlib.sha256()
        for array in (self.offsets, self.items, self.times):
            total.update(np.ascontiguousarray(array).tobytes())
        return f"sha256:{total.hexdigest()}"

    def followed_by(self, other: Histories) -> Histories:
        """These rows, then the other's."""
        return Histories(
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            items=np.concatenate([self.items, other.items]),
            times=np.concatenate([self.times, other.times]),
            timed=self.timed,
        )

    def of(self, user: int) -> np.ndarray:
        """int32 items of one row, oldest first (a view)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def times_of(self, user: int) -> np.ndarray:
        """int64 times of one row (a view)."""
        return self.times[self.offsets[user] : self.offsets[user + 1]]

    def slices(self, begin: np.ndarray, end: np.ndarray) -> Histories:
        """New rows out of stretches of the event arrays: row ``i`` is ``[begin[i], end[i])``."""
        lengths = np.maximum(end - begin, 0)
        offsets = offsets_of(lengths)
        where = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Histories(offsets=offsets, items=self.items[where], times=self.times[where], timed=self.timed)

    def take(self, rows: np.ndarray) -> Histories:
        """These rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return self.slices(self.offsets[rows], self.offsets[rows + 1])

    def last(self, n: int) -> Histories:
        """Each row's last ``n`` events."""
        return self.slices(np.maximum(self.offsets[1:] - n, self.offsets[:-1]), self.offsets[1:])

    def select(self, mask: np.ndarray) -> Histories:
        """The events where ``mask`` (bool (E,)) holds; rows stay, and may become empty."""
        kept = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))[self.offsets]
        return Histories(offsets=kept, items=self.items[mask], times=self.times[mask], timed=self.timed)

    def item_counts(self, num_items: int) -> np.ndarray:
        """int64 (I,) events an item."""
        return np.bincount(self.items, minlength=num_items).astype(np.int64)

    def shuffle_ties(self, seed: int) -> Histories:
        """Shuffle events that share row and time, by a hash of (seed, row, time, item)."""
        if not self.timed:
            return self
        rows = self.rows
        order = tie_order(rows, rows.astype(np.uint64), self.items, self.times, seed)
        return Histories(offsets=self.offsets, items=self.items[order], times=self.times, timed=True)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """int64 (U+1,) row borders from int (U,) row lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def tie_order(rows: np.ndarray, keys: np.ndarray, items: np.ndarray, times: np.ndarray, seed: int) -> np.ndarray:
    """int64 (E,) permutation that shuffles events within equal (row, time) and moves nothing else.

    Args:
        rows: int (E,) row of each event; (rows, times) must be sorted.
        keys: uint64 (E,) what stands for the row's user in the hash.
        items: int (E,).
        times: int64 (E,).
        seed: any integer.
    """
    order = np.arange(len(rows), dtype=np.int64)
    if len(rows) < 2:
        return order
    same = (rows[1:] == rows[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.concatenate((same, [False])) | np.concatenate(([False], same)))
    group = np.cumsum(np.concatenate(([True], ~same)))[tied]
    hashed = _mix(keys[tied] + np.uint64(seed % 2**64))
    hashed = _mix(hashed ^ times[tied].astype(np.uint64))
    hashed = _mix(hashed ^ items[tied].astype(np.uint64))
    order[tied] = tied[np.lexsort((items[tied], hashed, group))]
    return order


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's step and finaliser on uint64 (wraps around)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""Which SIDs are taken: the trie of owners that collision handling asks and updates.

The SIDs taken at the start lie in one sorted array; what is taken later is noted under its last prefix. What is free
under a prefix is worked out when somebody asks, and of the last prefixes, which are as many as the items, only the
latest answers are kept: a million items cost a sort, and time and memory go to the colliding ones alone.
"""

from __future__ import annotations

from math import prod

import numpy as np

from genrecall.sid.space import SidSpace

Prefix = tuple[int, ...]
_KEPT_CELLS = 32_000_000


class Occupancy:
    """Distinct SIDs taken so far, with what is still free under each prefix."""

    def __init__(self, space: SidSpace, sids: np.ndarray) -> None:
        self.space = space
        distinct = np.unique(sids.reshape(-1, space.levels), axis=0)  # rows in lexicographic order
        self._columns = np.ascontiguousarray(distinct.T)
        self._last = space.levels - 1
        self._added: dict[Prefix, list[int]] = {}
        self._counts: dict[Prefix, np.ndarray] = {}
        self._free: dict[Prefix, np.ndarray] = {}
        self._kept = max(_KEPT_CELLS // space.codes[-1], 2)

    def open_children(self, prefix: Prefix) -> np.ndarray:
        """bool (C,): the codes after ``prefix`` under which at least one SID is free; not to be written to."""
        if len(prefix) < self._last:
            return self._taken_below(prefix) < prod(self.space.codes[len(prefix) + 1 :])
        free = self._free.get(prefix)
        if free is None:
            free = np.ones(self.space.codes[self._last], bool)
            low, high = self._range(prefix)
            free[self._columns[self._last, low:high]] = False
            free[self._added.get(prefix, [])] = False
            if len(self._free) >= self._kept:
                del self._free[next(iter(self._free))]
            self._free[prefix] = free
        return free

    def take(self, sid: Prefix) -> None:
        """Note that a free SID is free no more."""
        prefix = sid[:-1]
        self._added.setdefault(prefix, []).append(sid[-1])
        if prefix in self._free:
            self._free[prefix][sid[-1]] = False
        if self._counts:
            for level in range(self._last):
                counts = self._counts.get(sid[:level])
                if counts is not None:
                    counts[sid[level]] += 1

    def holds(self, sid: Prefix) -> bool:
        """Whether somebody has this SID."""
        return not self.open_children(sid[:-1])[sid[-1]]

    def _taken_below(self, prefix: Prefix) -> np.ndarray:
        """int64 (C,): taken SIDs under each code after a prefix that is not the last."""
        counts = self._counts.get(prefix)
        if counts is None:
            level, size = len(prefix), self.space.codes[len(prefix)]
            low, high = self._range(prefix)
            counts = np.bincount(self._columns[level, low:high], minlength=size)
            for other, codes in self._added.items():
                if other[:level] == prefix:
                    counts[other[level]] += len(codes)
            self._counts[prefix] = counts
        return counts

    def _range(self, prefix: Prefix) -> tuple[int, int]:
        """Where the SIDs that begin with ``prefix`` stand in the sorted array."""
        low, high = 0, self._columns.shape[1]
        for column, code in zip(self._columns, prefix, strict=False):
            # Of the column's own type: for any other NumPy would first convert the whole stretch.
            borders = np.array((code, code + 1), column.dtype)
            low, high = (low + int(at) for at in np.searchsorted(column[low:high], borders))
        return low, high

"""Which SIDs are taken: the trie of owners that collision handling asks and updates.

The SIDs taken at the start lie in one sorted array; only prefixes that somebody asks about get a count a child. So a
million items cost a sort, and time goes to the colliding ones alone.
"""

from __future__ import annotations

from math import prod

import numpy as np

from genrecall.sid.space import SidSpace

Prefix = tuple[int, ...]


class Occupancy:
    """Distinct SIDs taken so far, with what is still free under each prefix."""

    def __init__(self, space: SidSpace, sids: np.ndarray) -> None:
        self.space = space
        distinct = np.unique(sids.reshape(-1, space.levels), axis=0)  # rows in lexicographic order
        self._columns = np.ascontiguousarray(distinct.T)
        self._counts: dict[Prefix, np.ndarray] = {}

    def open_children(self, prefix: Prefix) -> np.ndarray:
        """bool (C,): the codes after ``prefix`` under which at least one SID is free."""
        below = min(prod(self.space.codes[len(prefix) + 1 :]), 2**31 - 1)
        return self._children(prefix) < below

    def take(self, sid: Prefix) -> None:
        """Note that a free SID is free no more."""
        for level in range(self.space.levels):
            self._children(sid[:level])[sid[level]] += 1

    def holds(self, sid: Prefix) -> bool:
        """Whether somebody has this SID."""
        return bool(self._children(sid[:-1])[sid[-1]])

    def _children(self, prefix: Prefix) -> np.ndarray:
        """int32 (C,): taken SIDs under each code after ``prefix``. ``take`` asks for its whole path, so a count that
        is made later starts from the sorted array and has missed nothing."""
        counts = self._counts.get(prefix)
        if counts is None:
            low, high = 0, self._columns.shape[1]
            for column, code in zip(self._columns, prefix, strict=False):
                low, high = low + np.searchsorted(column[low:high], [code, code + 1])
            level = len(prefix)
            counts = np.bincount(self._columns[level, low:high], minlength=self.space.codes[level]).astype(np.int32)
            self._counts[prefix] = counts
        return counts

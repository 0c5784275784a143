"""What happened: clicks, carts, orders, exposures and queries as flat integer columns."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from genrecall.catalog.histories import Histories, offsets_of, tie_order

KINDS = ("click", "cart", "order", "exposure", "query")
"""Kinds of event; ``Events.kind`` holds positions in this tuple."""

SPLITS = ("train", "valid", "test")
"""Parts of a source's own split."""

POSITIVE = ("click", "cart", "order")
"""What counts as history: an exposure is no sign of interest, a query has no item."""

NO_ITEM = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """E events sorted by (user, time); the source's order is kept on ties.

    Attributes:
        user: int32 (E,) positions in ``user_ids``.
        item: int32 (E,) item indices; −1 for a query without item.
        time: int64 (E,) UTC seconds, or the source's order numbers where ``timed`` is False.
        kind: uint8 (E,) positions in ``KINDS``.
        user_ids: U ids; users without events may stand at the end.
        timed: whether times are real and can be compared between users.
        session: int32 (E,) session numbers, −1 where unknown; None if the source has no sessions.
        split: uint8 (E,) positions in ``SPLITS``; None if the source has no split of its own.
        query: int32 (E,) positions in ``query_texts``, −1 where none; None if the source has no queries.
        query_texts: the distinct search texts of the events.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    user_ids: list[str]
    timed: bool
    session: np.ndarray | None = None
    split: np.ndarray | None = None
    query: np.ndarray | None = None
    query_texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for column in (self.item, self.time, self.kind, self.session, self.split, self.query):
            assert column is None or len(column) == len(self.user)
        step = np.diff(self.user)
        assert not len(step) or (step.min() >= 0 and not np.any((step == 0) & (np.diff(self.time) < 0))), "unsorted"

    @classmethod
    def of(
        cls,
        user: Sequence[int] | np.ndarray,
        item: Sequence[int] | np.ndarray,
        time: Sequence[int] | np.ndarray,
        *,
        user_ids: Sequence[str] | None = None,
        kind: Sequence[int] | np.ndarray | None = None,
        timed: bool = True,
        session: Sequence[int] | np.ndarray | None = None,
        split: Sequence[int] | np.ndarray | None = None,
    ) -> Events:
        """Build in memory from unsorted columns; users without names are called ``u0``, ``u1``, …"""
        users = np.asarray(user, dtype=np.int32)
        order = np.lexsort((np.asarray(time, dtype=np.int64), users))
        kinds = np.zeros(len(users), np.uint8) if kind is None else np.asarray(kind, np.uint8)
        count = int(users.max(initial=-1)) + 1
        return cls(
            user=users[order],
            item=np.asarray(item, np.int32)[order],
            time=np.asarray(time, np.int64)[order],
            kind=kinds[order],
            user_ids=list(user_ids) if user_ids is not None else [f"u{number}" for number in range(count)],
            timed=timed,
            session=None if session is None else np.asarray(session, np.int32)[order],
            split=None if split is None else np.asarray(split, np.uint8)[order],
        )

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_users(self) -> int:
        """U: users with and without events."""
        return len(self.user_ids)

    @cached_property
    def user_keys(self) -> np.ndarray:
        """uint64 (U,) a hash of each user's id, the same in every catalog that knows the user."""
        return np.fromiter((zlib.crc32(name.encode()) for name in self.user_ids), np.uint64, self.num_users)

    def order(
        self,
        repeats: Literal["keep", "first"] = "keep",
        tie_seed: int | None = 0,
        kinds: Sequence[str] = POSITIVE,
    ) -> np.ndarray:
        """int64 (E',) the events that make up histories, in the order of the histories.

        Args:
            repeats: ``keep`` all events, or only the ``first`` event of each user with each item.
            tie_seed: shuffles events that share user and time; None keeps the source's order. Without real
                timestamps there are no ties to shuffle.
            kinds: names out of ``KINDS``.
        """
        codes = [KINDS.index(name) for name in kinds]
        chosen = np.flatnonzero(np.isin(self.kind, codes) & (self.item >= 0))
        if self.timed and tie_seed is not None:
            users, items, times = self.user[chosen], self.item[chosen], self.time[chosen]
            chosen = chosen[tie_order(users, self.user_keys[users], items, times, tie_seed)]
        if repeats == "first":
            items = self.item[chosen].astype(np.int64)
            pairs = self.user[chosen].astype(np.int64) * (int(items.max(initial=0)) + 1) + items
            chosen = chosen[np.sort(np.unique(pairs, return_index=True)[1])]
        return chosen

    def histories(
        self,
        repeats: Literal["keep", "first"] = "keep",
        tie_seed: int | None = 0,
        kinds: Sequence[str] = POSITIVE,
    ) -> Histories:
        """Item sequences of all U users (arguments: see ``order``); exposures never count unless asked for."""
        return self.gather(self.order(repeats, tie_seed, kinds))

    def gather(self, order: np.ndarray) -> Histories:
        """Histories of these events (int64 positions, grouped by ascending user)."""
        lengths = np.bincount(self.user[order], minlength=self.num_users)
        return Histories(offsets=offsets_of(lengths), items=self.item[order], times=self.time[order], timed=self.timed)

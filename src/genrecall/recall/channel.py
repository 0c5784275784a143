"""Anything that returns candidates: one protocol for evaluation, fusion and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

_NOTHING = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Barred:
    """Items that come back to nobody under one rule, such as a filter of a service; all queries under it share this.

    Attributes:
        available: bool (I,), False for those items.
    """

    available: np.ndarray

    @cached_property
    def items(self) -> np.ndarray:
        """int32 those items, ascending."""
        return np.flatnonzero(~self.available).astype(np.int32)

    @cached_property
    def packed(self) -> np.ndarray:
        """uint8 a bit for every item of the catalog, 1 for those."""
        return np.packbits(~self.available)


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """What a channel may know of one request.

    Attributes:
        history: int32 item indices, oldest first.
        times: int64 seconds (or order numbers) of the history's events; None where unknown.
        exclude: int32 item indices that must not be returned (seen, blocked, out of stock).
        barred: further ones, of a rule.
        profile: profile columns by name.
        text: search text.
    """

    history: np.ndarray = field(default_factory=lambda: _NOTHING)
    times: np.ndarray | None = None
    exclude: np.ndarray = field(default_factory=lambda: _NOTHING)
    barred: Barred | None = None
    profile: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None

    @property
    def excluded(self) -> np.ndarray:
        """int32 all item indices that must not be returned: where a rule bars much, its mask is quicker."""
        return self.exclude if self.barred is None else np.concatenate((self.barred.items, self.exclude))

    @property
    def available(self) -> np.ndarray | None:
        """bool (I,), False for what its rule bars; None without one."""
        return None if self.barred is None else self.barred.available


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Ranked answers for R requests.

    Attributes:
        items: int32 (R, k) item indices, best first, padded with -1 where fewer exist; never repeated in a row.
        scores: float32 (R, k), non-increasing; -inf where padded. Comparable only within one channel.
    """

    items: np.ndarray
    scores: np.ndarray


class Channel(Protocol):
    """Popularity, item-CF, SASRec and the generative model are all channels."""

    @property
    def name(self) -> str:
        """Short name, used in reports and fusion."""
        ...

    def recall(self, queries: Sequence[Query], k: int) -> Candidates:
        """The best ``k`` items for each query, none of them in its ``excluded``."""
        ...

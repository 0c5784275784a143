"""Anything that returns candidates: one protocol for evaluation, fusion and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

_NOTHING = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """What a channel may know of one request.

    Attributes:
        history: int32 item indices, oldest first.
        times: int64 seconds (or order numbers) of the history's events; None where unknown.
        exclude: int32 item indices that must not be returned (seen, blocked, out of stock).
        profile: profile columns by name.
        text: search text.
    """

    history: np.ndarray = field(default_factory=lambda: _NOTHING)
    times: np.ndarray | None = None
    exclude: np.ndarray = field(default_factory=lambda: _NOTHING)
    profile: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None


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
        """The best ``k`` items for each query, none of them in its ``exclude``."""
        ...

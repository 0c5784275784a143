"""Rows that take turns: what was made up to be learnt from beside the users' histories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.catalog.histories import Histories
from genrecall.train.sequence.soft import SoftTargets


@dataclass(frozen=True, kw_only=True, eq=False)
class TurnRows:
    """Q rows of prompt tokens.

    Attributes:
        rows: tokens in place of items.
        context: int64 (Q,) how many events at each row's beginning, 1 at least, are never targets; all others are.
        users: int64 (Q,) whose profile stands before a row; -1: nobody's.
        share: of all targets of an epoch that come from here.
        soft: a teacher's items and weights, a row for each target.
        word_vectors: float32 (rows of the prompt's words without pieces, D) to start them from, where rows have words.
    """

    rows: Histories
    context: np.ndarray
    users: np.ndarray
    share: float
    soft: SoftTargets | None = None
    word_vectors: np.ndarray | None = None

    def drawn(self, targets: int) -> int:
        """How many rows an epoch takes, beside so many other targets."""
        mean = max(float((self.rows.lengths - self.context).mean()), 1e-9) if len(self.rows) else 1.0
        return min(len(self.rows), round(targets * self.share / (1 - self.share) / mean))

    @property
    def targets(self) -> np.ndarray:
        """int64: places of the targets among the rows' events, ascending."""
        place = np.arange(len(self.rows.items)) - self.rows.offsets[self.rows.rows]
        return np.flatnonzero(place >= self.context[self.rows.rows])

"""Soft targets from counts: what the whole log says comes next, beside the one item that came.

    A_t[i] = Σ_{j<t} decay^(t−1−j) · s_tj · M[x_j, i],  P_t ∝ (A_t / max A_t)^γ over items not yet seen,
    q_l(c) = P_t(items below child c) / P_t(items below the true prefix),  loss = (1 − α) · CE(s) + α · CE(q)

Knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv 1503.02531) whose teacher is an item-to-item matrix of
counts. We deviate: the teacher is cheap enough to be asked at every position of every row, its distribution over items
becomes one over the children of the true prefix by a cumulative sum in trie order, it is sharpened by the power γ, as
counts alone are nearly uniform and teach little, and it is silent (α = 0) where the item that came had been seen
before: a teacher that gives no mass to seen items has no say there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genrecall.errors import CapacityError, ConfigError
from genrecall.index.trie import Trie

_LEAST_MASS = 1e-5
_MOST_BYTES = 4 << 30
_COPIES = 3  # the sparse counts, the dense matrix, and the same in trie order
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """How much is learnt from a teacher.

    Attributes:
        weight: α, the teacher's share of the loss.
        sharpness: γ.
    """

    weight: float = 0.8
    sharpness: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1 or self.sharpness <= 0:
            raise ConfigError(
                "a teacher cannot be used like this",
                seen=f"weight={self.weight}, sharpness={self.sharpness}",
                allowed="0 < weight <= 1 and sharpness > 0",
                fix="use for example 0.8 and 4",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """A teacher: how an item-to-item matrix is read.

    Attributes:
        matrix: float32 (I, I), row = item of the history, column = item to come; values ≥ 0.
        decay: weight of a history item one step older.
        last: newest history items that are read; None reads all of the row's.
        session_weight: weight of history items of an earlier time than the newest.
    """

    matrix: np.ndarray
    decay: float
    last: int | None = None
    session_weight: float = 1.0

    @staticmethod
    def require_room(items: int) -> None:
        """Refuse a catalog whose dense matrix would not fit; to be asked before it is made."""
        needed = _COPIES * 4 * items * items
        if needed > _MOST_BYTES:
            raise CapacityError(
                "the catalog is too large for a teacher of counts, which is a dense matrix",
                seen=f"{items:,} items, {needed / 2**30:.1f} GiB",
                allowed=f"at most {int((_MOST_BYTES / 4 / _COPIES) ** 0.5):,} items, {_MOST_BYTES / 2**30:.0f} GiB",
                fix="train without a teacher",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """What a batch's targets follow: B rows of at most T events, of which the last are targets.

    Attributes:
        items: B arrays of events, oldest first.
        times: of the events; None makes a row one session.
        targets: how many of each row's last events are targets.
    """

    items: Sequence[np.ndarray]
    times: Sequence[np.ndarray | None]
    targets: Sequence[int]


class Teacher:
    """Counts, asked in the order of the trie.

    Args:
        counts: the matrix and how it is read.
        trie: whose item order the columns take.
        config: weight and sharpness.
    """

    def __init__(self, counts: Counts, trie: Trie, config: DistilConfig) -> None:
        self.counts, self.trie, self.config = counts, trie, config
        # Column 0 makes the cumulative sum start at 0; the last column takes what must be thrown away.
        matrix = np.zeros((trie.num_items, trie.num_items + 2), dtype=np.float32)
        for begin in range(0, trie.num_items, _ROWS_AT_ONCE):  # in parts: a whole copy would be as large again
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            matrix[rows, 1:-1] = counts.matrix[rows][:, trie.item_order]
        self._matrix = torch.from_numpy(matrix)
        place = np.empty(trie.num_items, dtype=np.int64)
        place[trie.item_order] = np.arange(1, trie.num_items + 1)
        self._place = torch.from_numpy(place)

    @torch.no_grad()
    def mass(self, contexts: Contexts, device: torch.device) -> torch.Tensor:
        """Cumulative P over items in trie order for all M targets, float32 (M, I + 1), from 0 to 1.

        All 0 where the teacher has no idea: nothing came before, or the target itself did.
        """
        self._matrix, self._place = self._matrix.to(device), self._place.to(device)
        lengths = [len(row) for row in contexts.items]
        wide = max(lengths)
        items = np.zeros((len(lengths), wide), dtype=np.int64)
        session = np.full((len(lengths), wide), -1, dtype=np.int64)
        asked = np.zeros((len(lengths), wide), dtype=bool)
        for row, (own, times, targets) in enumerate(zip(contexts.items, contexts.times, contexts.targets, strict=True)):
            items[row, : len(own)] = own
            session[row, : len(own)] = 0
            if times is not None:
                session[row, 1 : len(own)] = np.cumsum(np.diff(times) != 0)
            asked[row, len(own) - targets : len(own)] = True
        asks = torch.from_numpy(asked).to(device)
        scores = self._scores(torch.from_numpy(items).to(device), torch.from_numpy(session).to(device))
        scores = scores[asks][:, :-1].mul_(torch.from_numpy(_first_time(items)).to(device)[asks][:, None])
        # In place from here on: these are M x I numbers, by far the largest of a batch.
        scores.div_(scores.amax(1, keepdim=True).clamp_(min=1e-20)).pow_(self.config.sharpness).cumsum_(1)
        return scores.div_(scores[:, -1:].clamp(min=1e-20))

    def _scores(self, items: torch.Tensor, session: torch.Tensor) -> torch.Tensor:
        """A_t of every position, float32 (B, T, I + 2); seen items 0."""
        place = torch.arange(items.shape[1], device=items.device)
        age = place[:, None] - 1 - place[None, :]
        past = age >= 0
        read = past if self.counts.last is None else past & (age < self.counts.last)
        weights = self.counts.decay ** age.clamp(min=0).float() * read
        newest = torch.nn.functional.pad(session, (1, 0), value=-1)[:, :-1]
        same = newest[:, :, None] == session[:, None, :]
        weights = weights * torch.where(same, 1.0, self.counts.session_weight)
        scores = torch.bmm(weights, self._matrix[items])
        seen = torch.where(past, self._place[items][:, None, :], scores.shape[2] - 1)
        return scores.scatter_(2, seen, 0.0)

    def soft(
        self, mass: torch.Tensor, targets: torch.Tensor, nodes: np.ndarray, prefix: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft targets of one level.

        Args:
            mass: of all targets of the batch.
            targets: int64 (M',) which of them this level asks.
            nodes: int64 (P,) distinct nodes of depth ``level``.
            prefix: int64 (M',) which of them each target has gone through.
            level: of the codes to be written.

        Returns:
            float32 (M', C) probabilities over the codes, and float32 (M',) how far they are to be trusted: α, or 0
            where the teacher has nothing to say below the prefix.
        """
        row, edge = self.trie.edges(nodes)
        begin = np.zeros((len(nodes), self.trie.space.codes[level]), dtype=np.int64)
        end = begin.copy()
        code = self.trie.child_code[edge]
        begin[row, code], end[row, code] = self.trie.item_begin[edge + 1], self.trie.item_end[edge + 1]
        low, high = (torch.from_numpy(border).to(mass.device)[prefix] for border in (begin, end))
        own = mass[targets]
        found = (own.gather(1, high) - own.gather(1, low)).clamp_(min=0)
        total = found.sum(1, keepdim=True)
        trust = self.config.weight * (total[:, 0] > _LEAST_MASS).float()
        return found / total.clamp(min=1e-20), trust


def _first_time(items: np.ndarray) -> np.ndarray:
    """bool (B, T): whether an event's item stands nowhere before it in its row."""
    before = np.tri(items.shape[1], k=-1, dtype=bool)
    return ~((items[:, :, None] == items[:, None, :]) & before).any(2)

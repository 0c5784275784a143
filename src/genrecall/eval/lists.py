"""What lists look like beside being right: how much of the catalog they show, how unevenly, how unlike, how new.

    novelty = mean −log₂ p(i),  p(i) = (n_i + 1) / (Σ n + I)        diversity of a list = mean over its pairs of d(i, j)

Castells, Hurley & Vargas, "Novelty and diversity in recommender systems" (Recommender Systems Handbook, 2022); n_i are
training events, d is 1 − cos(v_i, v_j) of item vectors, or [group_i ≠ group_j] (Ziegler et al., WWW 2005). Deviation:
counts are smoothed by one, so that an item without events is new and not infinitely so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrecall.eval.metrics import coverage, exposures, gini


class ListFigures:
    """Adds up the lists of one channel.

    Args:
        ks: cut-offs of coverage and Gini.
        cut: length of the lists whose novelty and diversity are told.
        train_counts: int (I,) training events by item.
        vectors: float (I, D) item vectors of any length; diversity is their mean cosine distance.
        groups: int (I,) a category or SID prefix by item; diversity is the share of pairs of different groups. Read
            where there are no vectors; without either there is no diversity.
    """

    def __init__(
        self,
        ks: Sequence[int],
        cut: int,
        train_counts: np.ndarray,
        vectors: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.cut = cut
        self._shown = {k: np.zeros(len(train_counts), np.int64) for k in ks}
        self._bits = -np.log2((train_counts + 1) / (train_counts.sum() + len(train_counts)))
        self._groups = groups
        self._vectors = None
        if vectors is not None:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
        self._surprise = self._spread = 0.0
        self._items = self._lists = 0

    def add(self, items: np.ndarray) -> None:
        """Lists int (R, ≥ cut), −1 is padding."""
        for k, total in self._shown.items():
            total += exposures(items, len(total), k)
        shown = items[:, : self.cut]
        real = shown >= 0
        self._surprise += float(self._bits[shown[real]].sum())
        self._items += int(real.sum())
        spread = self._distances(shown, real)
        if spread is not None:
            several = real.sum(1) > 1  # one item alone is neither like nor unlike
            self._spread += float(spread[several].sum())
            self._lists += int(several.sum())

    def figures(self) -> dict[str, float]:
        """``coverage@k``, ``gini@k``, ``novelty@cut`` in bits and, where it can be told, ``diversity@cut``."""
        found = {f"coverage@{k}": coverage(total) for k, total in self._shown.items()}
        found |= {f"gini@{k}": gini(total) for k, total in self._shown.items()}
        found[f"novelty@{self.cut}"] = self._surprise / max(self._items, 1)
        if self._vectors is not None or self._groups is not None:
            found[f"diversity@{self.cut}"] = self._spread / max(self._lists, 1)
        return found

    def _distances(self, items: np.ndarray, real: np.ndarray) -> np.ndarray | None:
        """float (R,) mean distance of each list's pairs."""
        size = real.sum(1)
        pairs = np.maximum(size * (size - 1), 1)
        if self._vectors is not None:
            total = (self._vectors[items] * real[..., None]).sum(1)
            return np.asarray(1 - ((total**2).sum(1) - size) / pairs)
        if self._groups is not None:
            of_item = np.where(real, self._groups[items], -1 - np.arange(items.shape[1]))
            same = (of_item[:, :, None] == of_item[:, None, :]).sum((1, 2)) - items.shape[1]
            return np.asarray(1 - same / pairs)
        return None

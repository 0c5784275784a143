"""What network channels are chosen by while they train.

``NDCG@K = (1/N) Σ_n [r_n ≤ K] / log2(1 + r_n)``, r the target's place in the list (Järvelin & Kekäläinen, TOIS 2002).
We deviate in cost alone: places are counted on the device, and no list is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genrecall.catalog.split import Cases
from genrecall.recall.neural import NeuralChannel


class Validation:
    """NDCG at a cut-off on validation cases, for ``fit(validate=...)``; the lists are exact, nothing is sampled.

    Args:
        cases: validation cases.
        cutoff: length of the lists.
        removed: whether lists leave out the history's items.
        sample: use so many cases, drawn with a fixed seed; None uses all.
    """

    def __init__(self, cases: Cases, *, cutoff: int = 10, removed: bool = True, sample: int | None = None) -> None:
        assert cases.part == "validation", "nothing is chosen by test cases"
        if sample is not None and sample < len(cases):
            cases = cases.subset(np.sort(np.random.default_rng(0).permutation(len(cases))[:sample]))
        self.cases, self.cutoff, self.removed = cases, cutoff, removed

    def __call__(self, channel: NeuralChannel[Any]) -> float:
        """The mean gain."""
        ranks = channel.ranks(self.cases, removed=self.removed)
        hit = (ranks > 0) & (ranks <= self.cutoff)
        return float(np.where(hit, 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0).mean())

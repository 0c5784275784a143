"""What a teacher puts in place of one right answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTargets:
    """What a teacher expects in place of each of E training events.

    Attributes:
        items: int32 (E, K) items.
        weights: float16 (E, K) the share of the loss that goes to each; a row's sum is the trust in the teacher.
        digest: of what they were made from.
    """

    items: np.ndarray
    weights: np.ndarray
    digest: str = ""

    def rows(self, chosen: slice | np.ndarray) -> SoftTargets:
        """Those of some events."""
        return SoftTargets(items=self.items[chosen], weights=self.weights[chosen], digest=self.digest)

    def beside(self) -> dict[str, np.ndarray]:
        """For ``SequenceData.beside_targets``."""
        return {SOFT_ITEMS: self.items, SOFT_WEIGHTS: self.weights}

"""What a batch takes, learned while serving.

    seconds(batch) ≈ base + row · rows,    least squares with forgetting λ

Recursive least squares (Ljung & Söderström, "Theory and practice of recursive identification", 1983) on two
parameters. Deviation: both are held at or above a small positive number, because a time is one.
"""

from __future__ import annotations

import numpy as np

_FORGET = 0.98
_LEAST_S = 1e-7


class BatchCost:
    """The line through batch times; starts from two measured batches."""

    def __init__(self, base_s: float = 0.0, row_s: float = 1e-4) -> None:
        self._theta = np.array([max(base_s, _LEAST_S), max(row_s, _LEAST_S)])
        self._spread = np.diag([1e-2, 1e-6])

    def see(self, rows: int, seconds: float) -> None:
        """One batch was measured."""
        known = np.array([1.0, rows])
        gain = self._spread @ known / (_FORGET + known @ self._spread @ known)
        self._theta = np.maximum(self._theta + gain * (seconds - known @ self._theta), _LEAST_S)
        self._spread = (self._spread - np.outer(gain, known @ self._spread)) / _FORGET
        # Batches of one size say nothing of the other parameter: what is not seen must not grow without bound.
        self._spread = np.clip(self._spread, -1e-2, 1e-2)

    @property
    def base_s(self) -> float:
        """Of a batch without rows."""
        return float(self._theta[0])

    @property
    def row_s(self) -> float:
        """Of each row."""
        return float(self._theta[1])

    def seconds(self, rows: int, batch_rows: int) -> float:
        """Expected time of ``rows`` in batches of at most ``batch_rows``."""
        batches = -(-rows // batch_rows) if rows else 0
        return batches * self.base_s + rows * self.row_s

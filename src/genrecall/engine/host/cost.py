"""How long a batch takes, learnt from batches that ran.

``seconds ≈ a + b·tokens + c·rows + d·pairs + e·requests`` with non-negative coefficients, least squares over the latest
batches (Lawson & Hanson 1974 give the exact method). We deviate: a negative coefficient is set to nought and the others
are fitted again, which is exact wherever no dropped one would come back.
"""

from __future__ import annotations

from collections import deque
from operator import mul

import numpy as np

from genrecall.engine.host.step import Load

_REMEMBERED, _REFIT_EVERY, _ENOUGH = 256, 16, 8


class CostModel:
    """Predicts seconds; silent until it has seen enough batches."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, ...]] = deque(maxlen=_REMEMBERED)
        self._since = 0
        self._weights: tuple[float, ...] | None = None

    @property
    def ready(self) -> bool:
        """Whether it predicts."""
        return self._weights is not None

    def observe(self, load: Load, seconds: float) -> None:
        """Learn from one batch."""
        self._seen.append((*_features(load), seconds))
        self._since += 1
        due = _REFIT_EVERY if self.ready else _ENOUGH
        if self._since >= due and len(self._seen) >= _ENOUGH:
            self._since = 0
            table = np.array(self._seen)
            self._weights = tuple(_non_negative(table[:, :-1], table[:, -1]).tolist())

    def seconds(self, load: Load) -> float:
        """Of a batch; 0 while nothing is known."""
        if self._weights is None:
            return 0.0
        return sum(map(mul, self._weights, _features(load)))


def _features(load: Load) -> tuple[float, ...]:
    return (1.0, float(load.tokens), float(load.rows), float(load.pairs), float(load.requests))


def _non_negative(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.abs(x).max(axis=0), 1e-12)
    kept = np.arange(x.shape[1])
    while True:
        found = np.linalg.lstsq(x[:, kept] / scale[kept], y, rcond=1e-6)[0]
        if (found >= 0).all():
            break
        kept = kept[found >= 0]
    weights = np.zeros(x.shape[1])
    weights[kept] = found / scale[kept]
    return weights

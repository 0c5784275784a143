"""What a batch takes, learned while serving.

    seconds(batch) ≈ base + row · rows,    least squares over batches of weight λ^age
    a batch holds what takes max(TARGET_S, 2 · seconds(its first request)), as the engine's scheduler fills it
    wait(rows) ≈ excess + rest of what runs + seconds of these batches
    excess ← excess + τ± · (waited − said − excess)

Weighted least squares with exponential forgetting (Ljung & Söderström, "Theory and practice of recursive
identification", 1983), on sums. Deviation: batches of one size cannot tell base from row, so then both are scaled; a
time is never negative. Excess is an expectile (Newey & Powell, "Asymmetric least squares", 1987) by stochastic steps,
quick upwards and slow downwards: most requests wait no longer than is said. It holds what neither the record of a
worker nor a line through batches sees: sockets, batches that are not full, and cores that others want.
"""

from __future__ import annotations

import numpy as np

TARGET_S = 0.05
_FORGET = 0.95
_LEAST_S = 1e-7
_SURPRISE = 3.0
_UP, _DOWN, _MOST = 0.1, 0.02, 20.0
_ALIKE = 0.1  # sizes that spread less than this share of their mean are one size


class BatchCost:
    """The line through batch times; starts from what was measured before.

    Attributes:
        excess_s: what requests wait beyond what was said.
    """

    def __init__(self, base_s: float = 0.0, row_s: float = 1e-4) -> None:
        self.excess_s = 0.0
        self.base_s, self.row_s = max(base_s, _LEAST_S), max(row_s, _LEAST_S)
        self._sums = np.zeros(5)  # of weight, rows, seconds, rows², rows · seconds

    def see(self, rows: int, seconds: float) -> None:
        """One batch was measured; one that took far longer than thought may have waited for something else."""
        seconds = min(seconds, _SURPRISE * (self.base_s + self.row_s * rows))
        self._sums = self._sums * _FORGET + np.array([1.0, rows, seconds, rows * rows, rows * seconds])
        mean_rows, mean_s, mean_square, mean_product = self._sums[1:] / self._sums[0]
        spread = mean_square - mean_rows**2
        if spread > (_ALIKE * mean_rows) ** 2:
            row_s = float((mean_product - mean_rows * mean_s) / spread)
            self.row_s = max(min(row_s, float(mean_s / mean_rows)), _LEAST_S)
            self.base_s = max(float(mean_s - self.row_s * mean_rows), _LEAST_S)
        else:
            factor = float(mean_s / (self.base_s + self.row_s * mean_rows))
            self.base_s, self.row_s = max(self.base_s * factor, _LEAST_S), max(self.row_s * factor, _LEAST_S)

    def waited(self, expected_s: float, seconds: float, *, answered: bool) -> None:
        """A request that was expected to take ``expected_s`` waited so long, and in vain if not answered."""
        excess_s = min(seconds, _MOST * expected_s) - expected_s
        if excess_s > self.excess_s:
            self.excess_s += _UP * (excess_s - self.excess_s)
        elif answered:
            self.excess_s = max(self.excess_s + _DOWN * (excess_s - self.excess_s), 0.0)

    def batch_rows(self, beam: int) -> int:
        """Rows that one batch of requests with this beam holds."""
        most_s = max(TARGET_S, 2 * (self.base_s + self.row_s * beam))
        return max(beam, int((most_s - self.base_s) / self.row_s))

    def seconds(self, rows: int, beam: int) -> float:
        """Expected time of ``rows`` in batches of requests with this beam."""
        batches = -(-rows // self.batch_rows(beam)) if rows else 0
        return batches * self.base_s + rows * self.row_s

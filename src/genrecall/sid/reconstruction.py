"""How much of the vectors their codes do not say.

    error = Σ|x − x̂|² / Σ|x|²   of normalised vectors x   (0: exact, 1: no better than the mean)

Source: the distortion of quantisation theory (Gray and Neuhoff 1998), as a share of the variance. No deviation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genrecall.sid.normaliser import CHUNK
from genrecall.sid.quantizer import Quantizer


def reconstruction_error(quantizer: Quantizer, vectors: np.ndarray, codes: np.ndarray) -> float:
    """Unexplained share of the variance of vectors (I, D) by codes (I, ≤ L)."""
    normaliser = quantizer.normaliser
    wrong = total = 0.0
    for low in range(0, len(vectors), CHUNK):
        rows = normaliser.rows(vectors[low : low + CHUNK])
        wrong += float((rows - normaliser.rows(quantizer.decode(codes[low : low + CHUNK]))).square().sum())
        total += float(rows.square().sum())
    return wrong / total if total > 0 else 0.0


class Reconstruction:
    """``reconstruction_error`` of all levels together, of vectors that come by in steps.

    Attributes:
        first: float32 (I,) squared distances to what the first codes stand for, of the items seen so far.
    """

    def __init__(self, quantizer: Quantizer, codes: np.ndarray, sids: np.ndarray) -> None:
        """``codes``: int32 (I, L) before collisions were dealt with; ``sids``: after, without an extra level."""
        self._quantizer, self._codes, self._sids = quantizer, codes, sids
        self._seen, self._total, self._before = 0, 0.0, 0.0
        self._after = np.zeros(quantizer.levels)
        self.first = np.empty(len(sids), np.float32)

    def see(self, rows: torch.Tensor) -> None:
        """The next of all vectors, normalised (n, D)."""
        here = slice(self._seen, self._seen + len(rows))
        codes, sids = self._codes[here], self._sids[here]
        gap = rows.square().sum(1)
        self._total += _sum(gap)
        for level, near in enumerate(self._quantizer.prefixes(torch.as_tensor(sids, device=rows.device).long())):
            gap = (rows - near).square_().sum(1)
            self._after[level] += _sum(gap)
            if level == 0:
                self.first[here] = gap.cpu().numpy()
        # Where no code changed the error did not either.
        moved = np.flatnonzero((codes != sids).any(1))
        own = self._quantizer.normaliser.rows(self._quantizer.decode(codes[moved]))
        gap[moved] = (rows[moved] - own).square_().sum(1)
        self._before += _sum(gap)
        self._seen += len(rows)

    def shares(self) -> dict[str, Any]:
        """Errors by the codes before, by the SIDs after, and by the SIDs' first one, two, … levels."""
        wrong = np.append(self._before, self._after)
        before, *after = (wrong / self._total if self._total > 0 else 0 * wrong).tolist()
        return {"before": before, "after": after[-1], "by_levels": after}


def _sum(gaps: torch.Tensor) -> float:
    return float(gaps.sum(dtype=torch.float64))

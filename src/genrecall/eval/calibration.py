"""Whether a channel knows when it is right: hits by the confidence of the list.

    ECE = Σ_b (n_b / N) · |mean confidence_b − share of hits_b|

Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (AAAI 2015), on bins of
equal size. Where scores are log-probabilities the confidence of a list is the probability mass of its first k items,
which should equal the share of hits among them; else it is the first item's score, which can only be read as an order:
more hits where it is higher. Deviation: mass that exclusions took away is not given to the rest, so that a channel may
look less sure than it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genrecall.recall.channel import Candidates

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Cases of like confidence.

    Attributes:
        cases: how many (a case counts once a seed).
        confidence: their mean confidence.
        hits: share of them whose target is in the list.
    """

    cases: int
    confidence: float
    hits: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Reliability of one channel.

    Attributes:
        cut: hits are counted among so many items.
        probability: whether confidences are probabilities, to be compared with the hits.
        bins: by ascending confidence.
        error: expected calibration error; None where confidences are no probabilities.
    """

    cut: int
    probability: bool
    bins: tuple[Bin, ...]
    error: float | None


def confidence(answer: Candidates, cut: int, *, log_scores: bool) -> np.ndarray:
    """float32 (R,) of each list: mass of the first ``cut`` items, or the first score; −inf for an empty list."""
    if log_scores:
        return np.exp(answer.scores[:, :cut].astype(np.float64)).sum(1).astype(np.float32)
    return answer.scores[:, 0].astype(np.float32)


def calibration(confidences: np.ndarray, hits: np.ndarray, cut: int, *, probability: bool) -> Calibration:
    """Bin cases by confidence.

    Args:
        confidences: float (N,); empty lists (not finite) are left out, they claim nothing.
        hits: float (N,) 1 where the target was among the first ``cut`` items.
        cut: see :class:`Calibration`.
        probability: whether confidences are probabilities.
    """
    known = np.isfinite(confidences)
    confidences, hits = confidences[known].astype(np.float64), hits[known].astype(np.float64)
    inner = np.quantile(confidences, np.linspace(0, 1, BINS + 1)[1:-1]) if len(confidences) else np.empty(0)
    place = np.searchsorted(np.unique(inner), confidences, side="left")
    bins = tuple(
        Bin(cases=int(mask.sum()), confidence=float(confidences[mask].mean()), hits=float(hits[mask].mean()))
        for mask in (place == number for number in np.unique(place))
    )
    error = sum(b.cases * abs(b.confidence - b.hits) for b in bins) / max(len(hits), 1) if probability else None
    return Calibration(cut=cut, probability=probability, bins=bins, error=error)

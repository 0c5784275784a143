"""How often a candidate goes with the newest items of a history, summed in a fixed order: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrices:
    """Several M (I, I) by rows, after each other.

    Attributes:
        offsets: int64 (K, I+1), places in ``items`` and ``values``.
        items: int32 (n,), ascending within a row, none twice.
        values: float32 (n,).
        longest: entries of the longest row.
    """

    offsets: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor
    longest: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """m ways to read histories.

    Attributes:
        matrix: int32 (m,), which M each reads.
        last: int32 (m,), newest items that it reads, at most A.
        weights: float64 (m, A), the newest item's last; 0 for older ones than it reads.
    """

    matrix: torch.Tensor
    last: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """Histories of R requests, oldest first.

    Attributes:
        items: int32 (N,).
        offsets: int64 (R+1,).
    """

    items: torch.Tensor
    offsets: torch.Tensor


def history_sums(
    matrices: Matrices, readings: Readings, past: Past, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """Σ_a weights[a] · M[h_a, candidate] over the newest items h of the pair's request, by every reading.

    Args:
        matrices: all M.
        readings: what is summed.
        past: histories.
        owner: int64 (P,), the request of each pair.
        candidates: int32 (P,).

    Returns:
        float64 (m, P), added up from the oldest to the newest item, each product rounded on its own: the same bits
        wherever it runs, and in any batch.
    """
    run = implementation(__name__, owner).history_sums
    found: torch.Tensor = run(matrices, readings, past, owner, candidates)
    return found

"""How often a candidate goes with the newest items of a history, summed in a fixed order: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """M (I, I) by rows.

    Attributes:
        offsets: int64 (I+1,).
        items: int32 (n,), ascending within a row, none twice.
        values: float32 (n,).
        longest: entries of the longest row.
    """

    offsets: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor
    longest: int


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
    matrix: Matrix, past: Past, weights: torch.Tensor, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """Σ_a weights[a] · M[h_a, candidate] over the newest items h of the pair's request.

    Args:
        matrix: M.
        past: histories.
        weights: float64 (A,), of the A newest items, the newest one's last.
        owner: int64 (P,), the request of each pair.
        candidates: int32 (P,).

    Returns:
        float64 (P,), added up from the oldest to the newest item, each product rounded on its own: the same bits
        wherever it runs, and in any batch.
    """
    run = implementation(__name__, owner).history_sums
    found: torch.Tensor = run(matrix, past, weights, owner, candidates)
    return found

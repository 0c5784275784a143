"""``r + Σ_n x_n`` in float32, in the order of the ranks, rounded once: what every rank computes.

All-reduce in one shot (every rank reads all parts; e.g. Thakur et al. 2005, "Optimization of collective communication
operations in MPICH", on why few bytes are better sent to all than passed around). We deviate by adding the residual.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sum_of_parts(parts: Sequence[torch.Tensor], residual: torch.Tensor) -> torch.Tensor:
    """Of the parts (M, E) of all ranks, which one process holds; returns a new tensor."""
    total = torch.zeros_like(residual, dtype=torch.float32)
    for part in parts:
        total += part.float()
    return (total + residual.float()).to(residual.dtype)

"""``r + Σ_n x_n`` in float32, the residual last, rounded once: what every rank computes.

All-reduce in one shot (every rank gets all parts; e.g. Thakur et al. 2005, "Optimization of collective communication
operations in MPICH", on why few bytes are better sent to all than passed around), without barriers: a number that is
not there yet is seen as such, as in NCCL's LL protocol. We deviate by adding the residual and by the norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genrecall.kernels.rms_norm.reference import rms_norm


def sum_of_parts(
    parts: Sequence[torch.Tensor], residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm and sum, both new tensors, of the parts (M, E) of all ranks, which one process holds."""
    total = torch.zeros_like(residual, dtype=torch.float32)
    for part in parts:
        total += part.float()
    total += residual.float()
    norm, _ = rms_norm(total, weight, epsilon, None)
    return norm.to(residual.dtype), total.to(residual.dtype)

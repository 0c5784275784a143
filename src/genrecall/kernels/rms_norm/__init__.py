"""RMSNorm, with the residual added before it and rows quantised after it where asked: contract and dispatch."""

from __future__ import annotations

import torch

from genrecall.kernels.dispatch import implementation
from genrecall.kernels.quantized_linear import Quantized


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm of ``x + residual``.

    Args:
        x: (M, E).
        weight: (E,).
        epsilon: added to the mean of squares.
        residual: (M, E) or None.

    Returns:
        The norm and the sum ``x + residual`` (``x`` itself where there is none), both (M, E) in x's dtype. The norm is
        taken of the sum before it is rounded.
    """
    run = implementation(__name__, x).rms_norm
    return run(x, weight, epsilon, residual)


def rms_norm_fp8(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None = None
) -> tuple[Quantized, torch.Tensor]:
    """As ``rms_norm``, with the norm in fp8 and one scale a row."""
    run = implementation(__name__, x).rms_norm_fp8
    values, scale, total = run(x, weight, epsilon, residual)
    return Quantized(values=values, scale=scale), total

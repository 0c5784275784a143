"""Gate and up projection with SwiGLU in one product: what lies between them is never written. Contract and dispatch."""

from __future__ import annotations

import torch

from genrecall.kernels.dispatch import implementation
from genrecall.kernels.quantized_linear import Quantized


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``silu(x Gᵀ + b_g) · (x Uᵀ + b_u)``.

    Args:
        x: (M, E).
        weight: (2F, E), G over U.
        bias: (2F,) or None.

    Returns:
        (M, F) in x's dtype, rounded once.
    """
    return implementation(__name__, x).gated_linear(x, weight, bias)


def gated_linear_fp8(
    x: Quantized, weight: Quantized, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """As ``gated_linear`` of fp8 operands with one scale a row and an output; (M, F) in ``dtype``."""
    run = implementation(__name__, x.values).gated_linear_fp8
    return run(x.values, x.scale, weight.values, weight.scale, bias, dtype)

"""``RMSNorm(x) = x / sqrt(mean(x²) + ε) · g`` (Zhang & Sennrich 2019, arXiv 1910.07467): plain torch.

We deviate: a residual is added first, and all arithmetic is float32 until the result is rounded once.
"""

from __future__ import annotations

import torch

from genrecall.kernels.quantized_linear.reference import quantize_rows


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``."""
    norm, total = _norm(x, weight, epsilon, residual)
    return norm.to(x.dtype), total


def rms_norm_fp8(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns values, scale, sum."""
    norm, total = _norm(x, weight, epsilon, residual)
    return *quantize_rows(norm), total


def _norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x.float() if residual is None else x.float() + residual.float()
    norm = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + epsilon) * weight.float()
    return norm, x if residual is None else total.to(x.dtype)

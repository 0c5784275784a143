"""Linear layers with fp8 operands (one scale a row and an output) or int8 weights: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation
from genrecall.kernels.quantized_linear import reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """A matrix as ``values · scale``.

    Attributes:
        values: (M, E), float8_e4m3fn or int8.
        scale: float32 (M, 1), one a row.
    """

    values: torch.Tensor
    scale: torch.Tensor


def quantize_fp8(x: torch.Tensor) -> Quantized:
    """Rows of (M, E) in fp8; for weights (out, in) that is one scale an output channel."""
    run = implementation(__name__, x).quantize_rows
    values, scale = run(x)
    return Quantized(values=values, scale=scale)


def quantize_int8(weight: torch.Tensor) -> Quantized:
    """Rows of (out, in) in int8, symmetric; done once at load, in torch on every device."""
    values, scale = reference.quantize_int8(weight)
    return Quantized(values=values, scale=scale)


def fp8_linear(
    x: Quantized, weight: Quantized, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """``x Wᵀ + b`` (M, out) in ``dtype``, of ``x`` (M, in) and ``weight`` (out, in); in and out are multiples of 16."""
    run = implementation(__name__, x.values).fp8_linear
    return run(x.values, x.scale, weight.values, weight.scale, bias, dtype)


def int8_linear(x: torch.Tensor, weight: Quantized, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x Wᵀ + b`` (M, out) in x's dtype, of ``x`` (M, in) and int8 ``weight`` (out, in)."""
    run = implementation(__name__, x).int8_linear
    return run(x, weight.values, weight.scale, bias)

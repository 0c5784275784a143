"""``y = silu(x Gᵀ + b_g) · (x Uᵀ + b_u)`` (Shazeer 2020, arXiv 2002.05202): plain torch; float32, rounded once."""

from __future__ import annotations

import torch

from genrecall.kernels.quantized_linear.reference import fp8_linear
from genrecall.kernels.swiglu.reference import swiglu


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """See the contract in ``__init__``."""
    stacked = x.float() @ weight.float().T
    return swiglu(stacked if bias is None else stacked + bias.float()).to(x.dtype)


def gated_linear_fp8(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    return swiglu(fp8_linear(x, x_scale, weight, weight_scale, bias, torch.float32)).to(dtype)

"""``y = (q_x s_x)(q_w s_w)ᵀ + b`` with ``s = max|row| / q_max``: plain torch.

FP8 E4M3 (Micikevicius et al. 2022, arXiv 2209.05433), row- and channel-wise; int8 weights symmetric by channel. We
deviate from tensor cores in that products are summed in full float32.
"""

from __future__ import annotations

import torch

FP8_MAX = 448.0
SMALLEST = 1e-12
"""A row of zeros is scaled by this over q_max instead of by nothing."""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn (M, E) and float32 (M, 1)."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / FP8_MAX
    return (x / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (out, in) and float32 (out, 1)."""
    weight = weight.float()
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / 127.0
    return torch.round(weight / scale).clamp(-127, 127).to(torch.int8), scale


def fp8_linear(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    out = (x.float() @ weight.float().T) * x_scale * weight_scale.T
    return (out if bias is None else out + bias.float()).to(dtype)


def int8_linear(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    out = (x.float() @ weight.float().T) * weight_scale.T
    return (out if bias is None else out + bias.float()).to(x.dtype)

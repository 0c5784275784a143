"""RMSNorm of one row a program, in registers: every element is read once and written once; see ``reference``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.quantized_linear.reference import FP8_MAX, SMALLEST


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``."""
    out = torch.empty_like(x)
    return out, _run(x, weight, epsilon, residual, out, None)


def rms_norm_fp8(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns values, scale, sum."""
    out = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    return out, scale, _run(x, weight, epsilon, residual, out, scale)


def _run(
    x: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    scale: torch.Tensor | None,
) -> torch.Tensor:
    rows, width = x.shape
    require_packed(weight)
    assert all(one is None or one.stride(1) == 1 for one in (x, residual)), "rows are contiguous"
    total = x if residual is None else torch.empty_like(out, dtype=x.dtype)
    block = triton.next_power_of_2(width)
    _norm[(rows,)](
        x, x.stride(0), weight, x if residual is None else residual, 0 if residual is None else residual.stride(0),
        total, out, x if scale is None else scale, width, epsilon,
        RESIDUAL=residual is not None, QUANTIZE=scale is not None, LARGEST=FP8_MAX, SMALLEST=SMALLEST, BLOCK=block,
        num_warps=max(1, min(16, block // 512)),
    )  # fmt: skip
    return total


@triton.jit
def _norm(
    x, x_stride, weight, residual, residual_stride, total, out, scale, width, epsilon,
    RESIDUAL: tl.constexpr, QUANTIZE: tl.constexpr, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    inside = e < width
    value = tl.load(x + row * x_stride + e, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        value += tl.load(residual + row * residual_stride + e, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + row * width + e, value.to(total.dtype.element_ty), mask=inside)
    gain = tl.load(weight + e, mask=inside, other=0.0).to(tl.float32)
    norm = value * tl.rsqrt(tl.sum(value * value, 0) / width + epsilon) * gain
    if QUANTIZE:
        step = tl.maximum(tl.max(tl.abs(norm), 0), SMALLEST) / LARGEST
        tl.store(scale + row, step)
        norm = tl.minimum(tl.maximum(norm / step, -LARGEST), LARGEST)
    tl.store(out + row * width + e, norm.to(out.dtype.element_ty), mask=inside)

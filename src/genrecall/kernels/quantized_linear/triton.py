"""fp8 by ``torch._scaled_mm``, few rows by a kernel of ours; int8 weights widened on their way to the tensor cores.

    y = (q_x s_x)(q_w s_w)ᵀ + b;   y = (x q_wᵀ) s_wᵀ + b

The library's fp8 product has tiles of 128 x 128 only, which leave most multiprocessors idle where rows or outputs are
few and weights are what is waited for.

The int8 product follows the weight-only scheme of Frantar et al. 2022 (arXiv 2210.17323). We deviate: one scale an
output, applied once after the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.quantized_linear.reference import FP8_MAX, SMALLEST


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn (M, E) and float32 (M, 1)."""
    rows, width = x.shape
    assert x.stride(1) == 1, "rows are contiguous"
    values = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = min(4096, triton.next_power_of_2(width))
    _quantize[(rows,)](
        x, x.stride(0), values, scale, width, LARGEST=FP8_MAX, SMALLEST=SMALLEST, BLOCK=block,
        num_warps=8 if block > 1024 else 4,
    )  # fmt: skip
    return values, scale


def fp8_linear(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    rows, width = x.shape
    outputs = len(weight)
    launch = _launch(rows, outputs, width, x.device)
    if launch is None:
        product = torch._scaled_mm(
            x, weight.T, scale_a=x_scale, scale_b=weight_scale.T, out_dtype=dtype, use_fast_accum=True
        )
        # The library has no product with a bias for some sizes, such as 8,960 x 1,536.
        return product if bias is None else product.add_(bias)
    assert x.stride(1) == weight.stride(1) == 1, "rows are contiguous"
    require_packed(x_scale, weight_scale, *(() if bias is None else (bias,)))
    out = torch.empty(rows, outputs, dtype=dtype, device=x.device)
    _few_rows[(triton.cdiv(outputs, launch.block_n), triton.cdiv(rows, launch.block_m))](
        x, x.stride(0), weight, weight.stride(0), x_scale, weight_scale, weight_scale if bias is None else bias, out,
        rows, outputs, width, BIAS=bias is not None, BLOCK_M=launch.block_m, BLOCK_N=launch.block_n,
        BLOCK_K=launch.block_k, EVEN=width % launch.block_k == 0, num_warps=4, num_stages=launch.stages,
    )  # fmt: skip
    return out


@dataclass(frozen=True, kw_only=True)
class _Launch:
    block_m: int
    block_n: int
    block_k: int
    stages: int


def _launch(rows: int, outputs: int, width: int, device: torch.device) -> _Launch | None:
    """What was fastest on an H100 for few rows or few tiles; None where the library is."""
    processors, memory = _device(device)
    if memory < _MOST_SHARED:
        return None
    wide = triton.cdiv(outputs, 64) >= processors
    block_k = 256 if width % 256 == 0 else 128
    if rows <= 16:
        return _Launch(block_m=16, block_n=64, block_k=block_k, stages=4)
    if rows <= 64:
        return _Launch(block_m=64, block_n=64 if wide else 32, block_k=128 if wide else block_k, stages=6)
    if triton.cdiv(rows, 64) * triton.cdiv(outputs, 64) <= 2 * processors:
        return _Launch(block_m=64, block_n=64, block_k=block_k, stages=6)
    return None


_MOST_SHARED = 6 * (64 + 64) * 256
"""Bytes of the largest launch; GPUs that have less of it a block leave all products to the library."""


@cache
def _device(device: torch.device) -> tuple[int, int]:
    found = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return found["multiprocessor_count"], found["max_shared_mem"]


def int8_linear(
    x: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    rows, width = x.shape
    outputs = len(weight)
    assert x.stride(1) == weight.stride(1) == 1, "rows are contiguous"
    require_packed(weight_scale, *(() if bias is None else (bias,)))
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    block_m = min(128, max(16, triton.next_power_of_2(rows)))
    block_n = 128 if block_m >= 64 else 64
    grid = (triton.cdiv(rows, block_m) * triton.cdiv(outputs, block_n),)
    _widen[grid](
        x, x.stride(0), weight, weight.stride(0), weight_scale, bias if bias is not None else weight_scale, out, rows,
        outputs, width, BIAS=bias is not None, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=64,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=8 if block_m == 128 else 4, num_stages=4,
    )  # fmt: skip
    return out


@triton.jit
def _quantize(x, stride, values, scale, width, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        e = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.abs(tl.load(x + row * stride + e, mask=e < width, other=0.0).to(tl.float32)))
    step = tl.maximum(tl.max(largest, 0), SMALLEST) / LARGEST
    tl.store(scale + row, step)
    for start in range(0, width, BLOCK):
        e = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * stride + e, mask=e < width, other=0.0).to(tl.float32) / step
        value = tl.minimum(tl.maximum(value, -LARGEST), LARGEST)
        tl.store(values + row * width + e, value.to(values.dtype.element_ty), mask=e < width)


@triton.jit(do_not_specialize=["rows"])
def _few_rows(
    x, x_stride, weight, weight_stride, x_scale, scale, bias, out, rows, outputs, width,
    BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    x += tl.minimum(m, rows - 1).to(tl.int64)[:, None] * x_stride + k[None, :]
    weight += tl.minimum(n, outputs - 1).to(tl.int64)[:, None] * weight_stride + k[None, :]
    # The tensor cores' long side holds outputs where rows are fewer.
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32) if BLOCK_M < 64 else tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, width, BLOCK_K):
        if EVEN:
            a, b = tl.load(x + start), tl.load(weight + start)
        else:
            inside = (start + k < width)[None, :]
            a, b = tl.load(x + start, mask=inside, other=0.0), tl.load(weight + start, mask=inside, other=0.0)
        acc = tl.dot(b, tl.trans(a), acc) if BLOCK_M < 64 else tl.dot(a, tl.trans(b), acc)
    if BLOCK_M < 64:
        acc = tl.trans(acc)
    acc *= tl.load(x_scale + m, mask=m < rows, other=0.0)[:, None]
    acc *= tl.load(scale + n, mask=n < outputs, other=0.0)[None, :]
    if BIAS:
        acc += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * outputs + n[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=(m < rows)[:, None] & (n < outputs)[None, :])


@triton.jit(do_not_specialize=["rows"])
def _widen(
    x, x_stride, weight, weight_stride, scale, bias, out, rows, outputs, width,
    BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Programs of one block of outputs are neighbours, so that its weights are read from memory once.
    blocks = tl.cdiv(rows, BLOCK_M)
    m = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) // blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    at_m, at_n = (
        tl.minimum(m, rows - 1).to(tl.int64) * x_stride,
        tl.minimum(n, outputs - 1).to(tl.int64) * weight_stride,
    )
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(x + at_m[:, None] + k[None, :], mask=(k < width)[None, :], other=0.0)
        b = tl.load(weight + at_n[:, None] + k[None, :], mask=(k < width)[None, :], other=0)
        acc = tl.dot(a, tl.trans(b.to(a.dtype)), acc, input_precision=PRECISION)
    acc *= tl.load(scale + n, mask=n < outputs, other=0.0)[None, :]
    if BIAS:
        acc += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
    at = m.to(tl.int64)[:, None] * outputs + n[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=(m < rows)[:, None] & (n < outputs)[None, :])

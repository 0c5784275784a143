"""SwiGLU; with quantisation a row is walked twice, the second time from cache; see ``reference``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.quantized_linear.reference import FP8_MAX, SMALLEST


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """See the contract in ``__init__``."""
    assert gate_up.stride(1) == 1, "rows are contiguous"
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    block = min(2048, triton.next_power_of_2(width))
    _product[(rows, triton.cdiv(width, block))](gate_up, gate_up.stride(0), out, width, BLOCK=block, num_warps=4)
    return out


def swiglu_fp8(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns values, scale."""
    assert gate_up.stride(1) == 1, "rows are contiguous"
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=torch.float8_e4m3fn, device=gate_up.device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=gate_up.device)
    block = min(4096, triton.next_power_of_2(width))
    _quantized_product[(rows,)](
        gate_up, gate_up.stride(0), out, scale, width, LARGEST=FP8_MAX, SMALLEST=SMALLEST, BLOCK=block,
        num_warps=8 if block > 1024 else 4,
    )  # fmt: skip
    return out, scale


@triton.jit
def _gated(row, f, width):
    gate = tl.load(row + f, mask=f < width, other=0.0).to(tl.float32)
    up = tl.load(row + width + f, mask=f < width, other=0.0).to(tl.float32)
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _product(gate_up, stride, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = _gated(gate_up + row * stride, f, width)
    tl.store(out + row * width + f, value.to(out.dtype.element_ty), mask=f < width)


@triton.jit
def _quantized_product(
    gate_up, stride, out, scale, width, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    gate_up += row * stride
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        largest = tl.maximum(largest, tl.abs(_gated(gate_up, start + tl.arange(0, BLOCK), width)))
    step = tl.maximum(tl.max(largest, 0), SMALLEST) / LARGEST
    tl.store(scale + row, step)
    for start in range(0, width, BLOCK):
        f = start + tl.arange(0, BLOCK)
        value = tl.minimum(tl.maximum(_gated(gate_up, f, width) / step, -LARGEST), LARGEST)
        tl.store(out + row * width + f, value.to(out.dtype.element_ty), mask=f < width)

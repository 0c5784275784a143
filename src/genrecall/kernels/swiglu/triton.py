"""SwiGLU; a row to be quantised is held in registers, as two powers of two that cover it; see ``reference``."""

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
    head = triton.next_power_of_2(width + 1) // 2  # the largest power of two that fits
    tail = triton.next_power_of_2(width - head) if width > head else 0
    _quantized_product[(rows,)](
        gate_up, gate_up.stride(0), out, scale, width, LARGEST=FP8_MAX, SMALLEST=SMALLEST, HEAD=head, TAIL=tail,
        num_warps=8 if head > 2048 else 4,
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
    gate_up, stride, out, scale, width, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    gate_up += row * stride
    out += row * width
    f = tl.arange(0, HEAD)
    head = _gated(gate_up, f, width)
    largest = tl.max(tl.abs(head), 0)
    if TAIL > 0:
        g = HEAD + tl.arange(0, TAIL)
        tail = _gated(gate_up, g, width)
        largest = tl.maximum(largest, tl.max(tl.abs(tail), 0))
    step = tl.maximum(largest, SMALLEST) / LARGEST
    tl.store(scale + row, step)
    inverse = 1.0 / step
    head = tl.minimum(tl.maximum(head * inverse, -LARGEST), LARGEST)
    tl.store(out + f, head.to(out.dtype.element_ty), mask=f < width)
    if TAIL > 0:
        tail = tl.minimum(tl.maximum(tail * inverse, -LARGEST), LARGEST)
        tl.store(out + g, tail.to(out.dtype.element_ty), mask=g < width)

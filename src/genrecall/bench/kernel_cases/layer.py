"""What a layer does beside attention: norms, rotation, SwiGLU, products, and the head of a level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from genrecall.bench.kernel_cases.case import Case, Rand, Workload
from genrecall.kernels import level_logits, quantized_linear, rms_norm, rotary_store, swiglu
from genrecall.kernels.level_logits import reference as level_logits_reference
from genrecall.kernels.quantized_linear import reference as quantized_linear_reference
from genrecall.kernels.rms_norm import reference as rms_norm_reference
from genrecall.kernels.rotary_store import reference as rotary_store_reference
from genrecall.kernels.swiglu import reference as swiglu_reference


def elementwise(work: Workload, rand: Rand, device: torch.device) -> Iterator[Case]:
    """Norms, rotation, SwiGLU."""
    count = work.requests * work.beam
    x, residual, weight = rand(count, work.width), rand(count, work.width), rand(work.width)
    size, shape = x.element_size(), f"{count} x {work.width}"
    yield Case(
        name="rms_norm",
        shape=f"{shape}, residual",
        run=lambda: rms_norm.rms_norm(x, weight, 1e-6, residual),
        reference=lambda: rms_norm_reference.rms_norm(x, weight, 1e-6, residual),
        bytes=4 * count * work.width * size,
    )
    yield Case(
        name="rms_norm_fp8",
        shape=f"{shape}, residual",
        run=lambda: _flat(rms_norm.rms_norm_fp8(x, weight, 1e-6, residual)),
        reference=lambda: rms_norm_reference.rms_norm_fp8(x, weight, 1e-6, residual),
        bytes=count * work.width * (3 * size + 1),
    )
    columns = (work.heads + 2 * work.kv_heads) * work.head_width
    qkv, bias, cos_sin = rand(count, columns), rand(columns), rand(2, 256, work.head_width // 2, kind=torch.float32)
    slot = torch.arange(count, device=device).int()
    key, value = torch.zeros(2, count, work.kv_heads, 1, work.head_width, dtype=x.dtype, device=device).unbind(0)
    arguments = qkv, bias, None, cos_sin, slot % 256, key, value, slot
    yield Case(
        name="rotary_store",
        shape=f"{count} x {work.heads}+2x{work.kv_heads} heads, bias",
        run=lambda: rotary_store.rotary_store(*arguments),
        reference=lambda: rotary_store_reference.rotary_store(*arguments),
        bytes=2 * count * columns * size,
    )
    gate_up = rand(count, 2 * work.hidden)
    yield Case(
        name="swiglu",
        shape=f"{count} x 2x{work.hidden}",
        run=lambda: swiglu.swiglu(gate_up),
        reference=lambda: swiglu_reference.swiglu(gate_up),
        bytes=3 * count * work.hidden * size,
    )
    yield Case(
        name="swiglu_fp8",
        shape=f"{count} x 2x{work.hidden}",
        run=lambda: _flat((swiglu.swiglu_fp8(gate_up),)),
        reference=lambda: swiglu_reference.swiglu_fp8(gate_up),
        bytes=count * work.hidden * (2 * size + 1),
    )


def _flat(result: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    quantised, *rest = result
    return (quantised.values, quantised.scale, *rest)


def products(work: Workload, rand: Rand) -> Iterator[Case]:
    """Of quantised weights, and the head."""
    count = work.requests * work.beam
    x, weight = rand(count, work.width), rand(2 * work.hidden, work.width)
    shape, flop = f"{count} x {work.width} x {2 * work.hidden}", 2 * count * work.width * 2 * work.hidden
    out_bytes = count * 2 * work.hidden * x.element_size()
    values, weights = quantized_linear.quantize_fp8(x), quantized_linear.quantize_fp8(weight)
    parts = values.values, values.scale, weights.values, weights.scale, None, x.dtype
    yield Case(
        name="fp8_linear",
        shape=shape,
        run=lambda: quantized_linear.fp8_linear(values, weights, None, x.dtype),
        reference=lambda: quantized_linear_reference.fp8_linear(*parts),
        bytes=values.values.numel() + weights.values.numel() + out_bytes,
        flop=flop,
        arithmetic="fp8",
    )
    packed = quantized_linear.quantize_int8(weight)
    yield Case(
        name="int8_linear",
        shape=shape,
        run=lambda: quantized_linear.int8_linear(x, packed),
        reference=lambda: quantized_linear_reference.int8_linear(x, packed.values, packed.scale, None),
        bytes=x.numel() * x.element_size() + packed.values.numel() + out_bytes,
        flop=flop,
    )
    head = rand(work.codes, work.width)
    yield Case(
        name="level_logits",
        shape=f"{count} x {work.width} x {work.codes}",
        run=lambda: level_logits.level_logits(x, head),
        reference=lambda: level_logits_reference.level_logits(x, head),
        bytes=(x.numel() + head.numel()) * x.element_size() + 4 * count * work.codes,
        flop=2 * count * work.width * work.codes,
    )

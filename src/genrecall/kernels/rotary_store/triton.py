"""One program a token: all heads of its projection are read once and go where they belong; see ``reference``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

if TYPE_CHECKING:
    from genrecall.kernels.rotary_store import HeadNorm


def rotary_store(
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    head_norm: HeadNorm | None,
    cos_sin: torch.Tensor,
    position: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slot: torch.Tensor,
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    rows = len(qkv)
    kv_heads, page, width = key.shape[1:]
    heads = qkv.shape[1] // width - 2 * kv_heads
    assert qkv.stride(1) == key.stride(3) == value.stride(3) == 1, "heads are contiguous"
    require_packed(cos_sin, *(one for one in (bias, head_norm.weight if head_norm else None) if one is not None))
    query = torch.empty(rows, heads, width, dtype=qkv.dtype, device=qkv.device)
    block = triton.next_power_of_2(heads + 2 * kv_heads)
    _rotate[(rows,)](
        qkv, qkv.stride(0), bias if bias is not None else qkv, head_norm.weight if head_norm else qkv,
        head_norm.epsilon if head_norm else 0.0, cos_sin, cos_sin[0].numel(), position, position.stride(0), key,
        *key.stride()[:3], value, *value.stride()[:3], slot, slot.stride(0), query,
        HEADS=heads, KV_HEADS=kv_heads, HALF=width // 2, PAGE=page, BIAS=bias is not None, NORM=head_norm is not None,
        BLOCK=block, num_warps=max(1, min(8, block * width // 1024)),
    )  # fmt: skip
    return query


@triton.jit
def _rotate(
    qkv, qkv_stride, bias, norm, epsilon, cos_sin, table, position, position_stride, key, key_page, key_head, key_token,
    value, value_page, value_head, value_token, slot, slot_stride, query,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr, BIAS: tl.constexpr,
    NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    half = tl.arange(0, HALF)[None, :]
    at = head * (2 * HALF) + half
    exists = (head < HEADS + 2 * KV_HEADS) & (half < HALF)
    left = tl.load(qkv + row * qkv_stride + at, mask=exists, other=0.0).to(tl.float32)
    right = tl.load(qkv + row * qkv_stride + at + HALF, mask=exists, other=0.0).to(tl.float32)
    if BIAS:
        left += tl.load(bias + at, mask=exists, other=0.0).to(tl.float32)
        right += tl.load(bias + at + HALF, mask=exists, other=0.0).to(tl.float32)
    turns = (head < HEADS + KV_HEADS) & (half < HALF)
    if NORM:
        square = (tl.sum(left * left, 1) + tl.sum(right * right, 1)) / (2 * HALF)
        gain = tl.where(head < HEADS + KV_HEADS, tl.rsqrt(square + epsilon)[:, None], 1.0)
        left *= gain * tl.load(norm + at, mask=turns, other=1.0).to(tl.float32)
        right *= gain * tl.load(norm + at + HALF, mask=turns, other=1.0).to(tl.float32)
    angle = tl.load(position + row * position_stride).to(tl.int64) * HALF + tl.arange(0, HALF)
    cos = tl.load(cos_sin + angle)[None, :]
    sin = tl.load(cos_sin + table + angle)[None, :]
    first = tl.where(turns, left * cos - right * sin, left)
    second = tl.where(turns, right * cos + left * sin, right)

    kind = query.dtype.element_ty
    at = row * (HEADS * 2 * HALF) + at
    first_half, second_half = first.to(kind), second.to(kind)  # rounded as the query is, then as the cache is
    tl.store(query + at, first_half, mask=head < HEADS)
    tl.store(query + at + HALF, second_half, mask=head < HEADS)
    place = tl.load(slot + row * slot_stride).to(tl.int64)
    if place >= 0:
        number, offset = place // PAGE, place % PAGE
        own = (head >= HEADS) & (head < HEADS + KV_HEADS)
        at = number * key_page + (head - HEADS) * key_head + offset * key_token + half
        tl.store(key + at, _narrow(first_half, key.dtype.element_ty), mask=own)
        tl.store(key + at + HALF, _narrow(second_half, key.dtype.element_ty), mask=own)
        own = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
        at = number * value_page + (head - HEADS - KV_HEADS) * value_head + offset * value_token + half
        tl.store(value + at, _narrow(first_half, value.dtype.element_ty), mask=own)
        tl.store(value + at + HALF, _narrow(second_half, value.dtype.element_ty), mask=own)


@triton.jit
def _narrow(x, kind: tl.constexpr):
    """To the cache's type; what fp8 cannot hold becomes its largest value instead of NaN."""
    if kind == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x.to(tl.float32), -448.0), 448.0)
    return x.to(kind)

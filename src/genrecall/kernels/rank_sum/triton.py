"""One launch a sum: write the own rows into every rank's memory, wait for theirs; see ``reference`` for the formula."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

_PROGRAMS = 2
"""A multiprocessor: as many as surely run at the same time, since they wait for those of other ranks."""
_REGISTERS = 64


def rank_sum(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    places: torch.Tensor,
    rank: int,
    most: int,
    half: int,
) -> torch.Tensor | None:
    """See the contract in ``__init__``; ``residual`` becomes the sum. Returns its norm."""
    require_packed(x, residual)
    rows, width = x.shape
    normed = None if weight is None else torch.empty_like(x)
    ranks, bits = len(places), 8 * x.element_size()
    part, block = most // x.element_size(), max(triton.next_power_of_2(width), 16)
    _rank_sum[(min(rows, _programs(x.device)),)](
        x, residual, residual if weight is None else weight, residual if normed is None else normed, places, rows,
        width, rank, half * ranks * part, part, epsilon, RANKS=ranks, PEERS=triton.next_power_of_2(ranks),
        NORM=weight is not None, BLOCK=block, BITS=tl.int16 if bits == 16 else tl.int32, EMPTY=-(2 ** (bits - 1)),
        num_warps=max(1, min(16, block // 256)), maxnreg=_REGISTERS,
    )  # fmt: skip
    return normed


@cache
def _programs(device: torch.device) -> int:
    if device.type != "cuda":  # interpreted, one after the other
        return 1
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit(do_not_specialize=["rank", "rows"])
def _rank_sum(
    x, residual, weight, normed, places, rows, width, rank, begin, part, epsilon,
    RANKS: tl.constexpr, PEERS: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
    EMPTY: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    number: tl.constexpr = x.dtype.element_ty
    e = tl.arange(0, BLOCK)
    inside = e < width
    for row in range(program, rows, programs):
        own = tl.load(x + row * width + e, mask=inside, other=0.0)
        own = tl.where(own == 0, 0.0, own).to(number)  # -0 means that nothing has come yet
        for peer in tl.static_range(RANKS):
            theirs = tl.multiple_of(tl.load(places + peer).to(tl.pointer_type(number)), 16) + begin + rank * part
            tl.store(theirs + row * width + e, own, mask=inside, cache_modifier=".wt")
    peers = tl.arange(0, PEERS)
    mine = tl.multiple_of(tl.load(places + rank).to(tl.pointer_type(BITS)), 16) + begin
    there = (peers < RANKS)[:, None] & inside[None, :]
    for row in range(program, rows, programs):
        total = tl.load(residual + row * width + e, mask=inside, other=0.0).to(tl.float32)
        parts = mine + peers[:, None] * part + row * width + e[None, :]
        found = tl.load(parts, mask=there, other=0, volatile=True)
        while tl.max(tl.max((found == EMPTY).to(tl.int32), 1), 0) > 0:
            found = tl.load(parts, mask=there, other=0, volatile=True)
        tl.store(parts, tl.full(parts.shape, EMPTY, BITS), mask=there)
        total += tl.sum(found.to(number, bitcast=True).to(tl.float32), 0)
        tl.store(residual + row * width + e, total.to(number), mask=inside)
        if NORM:
            gain = tl.load(weight + e, mask=inside, other=0.0).to(tl.float32)
            norm = total * tl.rsqrt(tl.sum(total * total, 0) / width + epsilon) * gain
            tl.store(normed + row * width + e, norm.to(number), mask=inside)

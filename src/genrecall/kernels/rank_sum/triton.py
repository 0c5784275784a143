"""One launch a sum: write the own rows into every rank's memory, wait for theirs; see ``reference`` for the formula."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

_FEW_RANKS, _REGISTERS = 4, 128
"""Programs wait for those of other ranks, so all of a launch must run at the same time: two of 512 threads for each
multiprocessor have 64 registers a thread, which the rows of four ranks fit into; more ranks take one with 128.
"""


def rank_sum(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    places: tuple[int, ...],
    rank: int,
    most: int,
    half: int,
) -> torch.Tensor | None:
    """See the contract in ``__init__``; ``residual`` becomes the sum. Returns its norm."""
    require_packed(x, residual)
    rows, width = x.shape
    normed = None if weight is None else torch.empty_like(x)
    ranks, bits = len(places), 8 * x.element_size()
    programs = 2 if ranks <= _FEW_RANKS else 1
    part, block = most // x.element_size(), max(triton.next_power_of_2(width), 16)
    _rank_sum[(min(rows, programs * _multiprocessors(x.device)),)](
        x, residual, residual if weight is None else weight, residual if normed is None else normed, places, rows,
        width, half * ranks * part, part, epsilon, RANK=rank, RANKS=ranks, PEERS=triton.next_power_of_2(ranks),
        NORM=weight is not None, BLOCK=block, BITS=tl.int16 if bits == 16 else tl.int32, EMPTY=-(2 ** (bits - 1)),
        num_warps=max(1, min(16, block // 256)), maxnreg=_REGISTERS // programs,
    )  # fmt: skip
    return normed


@cache
def _multiprocessors(device: torch.device) -> int:
    """1 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@triton.jit(do_not_specialize=["rows"])
def _rank_sum(
    x, residual, weight, normed, places, rows, width, begin, part, epsilon,
    RANK: tl.constexpr, RANKS: tl.constexpr, PEERS: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr,
    BITS: tl.constexpr, EMPTY: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    number: tl.constexpr = x.dtype.element_ty
    e = tl.arange(0, BLOCK)
    inside = e < width
    for row in range(program, rows, programs):
        own = tl.load(x + row * width + e, mask=inside, other=0.0)
        own = tl.where(own == 0, 0.0, own).to(number)  # -0 means that nothing has come yet
        for step in tl.static_range(1, RANKS + 1):  # nobody is sent to by all at once
            theirs = tl.multiple_of(places[(RANK + step) % RANKS].to(tl.pointer_type(number)), 16) + begin + RANK * part
            tl.store(theirs + row * width + e, own, mask=inside, cache_modifier=".wt")
    peers = tl.arange(0, PEERS)
    mine = tl.multiple_of(places[RANK].to(tl.pointer_type(BITS)), 16) + begin
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

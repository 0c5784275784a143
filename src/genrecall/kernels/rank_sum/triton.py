"""One launch a sum: write the own rows into every rank's memory, wait for theirs; see ``reference`` for the formula."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

_ONCE_BYTES = 1 << 19
"""Up to so many, what all ranks send to all takes less time than to wait twice (four H100s)."""
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
    # Every rank must sum a row: who hears nothing of a rank may write where that has not read yet.
    kernel = _rank_sum_twice if rows >= ranks > 2 and x.nbytes > _ONCE_BYTES else _rank_sum
    kernel[(min(rows, programs * _multiprocessors(x.device)),)](
        x, residual, residual if weight is None else weight, residual if normed is None else normed,
        (*places[rank + 1 :], *places[: rank + 1]), rank, rows, width, half * (ranks + 1) * part, part, epsilon,
        RANKS=ranks, PEERS=triton.next_power_of_2(ranks), NORM=weight is not None, BLOCK=block,
        BITS=tl.int16 if bits == 16 else tl.int32, EMPTY=-(2 ** (bits - 1)), num_warps=max(1, min(16, block // 256)),
        maxnreg=_REGISTERS // programs,
    )  # fmt: skip
    return normed


@cache
def _multiprocessors(device: torch.device) -> int:
    """1 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@triton.jit(do_not_specialize=["rank", "rows"])
def _rank_sum(
    x, residual, weight, normed, places, rank, rows, width, begin, part, epsilon,
    RANKS: tl.constexpr, PEERS: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
    EMPTY: tl.constexpr,
):  # fmt: skip
    """All rows to all ranks, the own one last, so that nobody is sent to by all at once."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    e = tl.arange(0, BLOCK)
    inside = e < width
    for row in range(program, rows, programs):
        own = tl.load(x + row * width + e, mask=inside, other=0.0)
        for step in tl.static_range(RANKS):
            _put(places[step], begin + rank * part + row * width + e, own, inside)
    for row in range(program, rows, programs):
        total = tl.load(residual + row * width + e, mask=inside, other=0.0).to(tl.float32)
        at = begin + row * width
        total += _take(places[RANKS - 1], at, x, part, e, inside, RANKS, PEERS, BITS, EMPTY)
        tl.store(residual + row * width + e, total.to(x.dtype.element_ty), mask=inside)
        if NORM:
            _norm(total, weight, normed + row * width, e, inside, width, epsilon)


@triton.jit(do_not_specialize=["rank", "rows"])
def _rank_sum_twice(
    x, residual, weight, normed, places, rank, rows, width, begin, part, epsilon,
    RANKS: tl.constexpr, PEERS: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr,
    EMPTY: tl.constexpr,
):  # fmt: skip
    """A row to one rank, by turns, which sends the sum to all: the norm is that of the rounded sum."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    number: tl.constexpr = x.dtype.element_ty
    e = tl.arange(0, BLOCK)
    inside = e < width
    for row in range(program, rows, programs):
        own = tl.load(x + row * width + e, mask=inside, other=0.0)
        for step in tl.static_range(RANKS):
            if row % RANKS == (rank + step + 1) % RANKS:
                _put(places[step], begin + rank * part + row * width + e, own, inside)
    for row in range(program, rows, programs):
        if row % RANKS == rank:
            total = tl.load(residual + row * width + e, mask=inside, other=0.0).to(tl.float32)
            total += _take(places[RANKS - 1], begin + row * width, x, part, e, inside, RANKS, PEERS, BITS, EMPTY)
            for step in tl.static_range(RANKS):
                _put(places[step], begin + RANKS * part + row * width + e, total.to(number), inside)
    for row in range(program, rows, programs):
        total = _take(places[RANKS - 1], begin + RANKS * part + row * width, x, part, e, inside, 1, 1, BITS, EMPTY)
        tl.store(residual + row * width + e, total.to(number), mask=inside)
        if NORM:
            _norm(total, weight, normed + row * width, e, inside, width, epsilon)


@triton.jit
def _put(place, at, row, inside):
    """Into a rank's memory, where -0 means that nothing has come yet."""
    there = tl.multiple_of(place.to(tl.pointer_type(row.dtype)), 16) + at
    tl.store(there, tl.where(row == 0, 0.0, row).to(row.dtype), mask=inside, cache_modifier=".wt")


@triton.jit
def _take(
    place, at, x, part, e, inside,
    RANKS: tl.constexpr, PEERS: tl.constexpr, BITS: tl.constexpr, EMPTY: tl.constexpr,
):  # fmt: skip
    """The sum of what ranks have put there, once all have; nothing is there any more."""
    peers = tl.arange(0, PEERS)
    parts = tl.multiple_of(place.to(tl.pointer_type(BITS)), 16) + at + peers[:, None] * part + e[None, :]
    there = (peers < RANKS)[:, None] & inside[None, :]
    found = tl.load(parts, mask=there, other=0, volatile=True)
    while tl.max(tl.max((found == EMPTY).to(tl.int32), 1), 0) > 0:
        found = tl.load(parts, mask=there, other=0, volatile=True)
    tl.store(parts, tl.full(parts.shape, EMPTY, BITS), mask=there)
    return tl.sum(found.to(x.dtype.element_ty, bitcast=True).to(tl.float32), 0)


@triton.jit
def _norm(total, weight, normed, e, inside, width, epsilon):
    gain = tl.load(weight + e, mask=inside, other=0.0).to(tl.float32)
    norm = total * tl.rsqrt(tl.sum(total * total, 0) / width + epsilon) * gain
    tl.store(normed + e, norm.to(normed.dtype.element_ty), mask=inside)

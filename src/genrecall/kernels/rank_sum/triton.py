"""One launch a sum: write the own part, meet the other ranks, read all parts; see ``reference`` for the formula."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.rank_sum import PROGRAMS

_BLOCK = 2048
"""Elements a program and step: 16 bytes a thread in bfloat16."""


def rank_sum(x: torch.Tensor, residual: torch.Tensor, places: torch.Tensor, rank: int, offset: int, flags: int) -> None:
    """See the contract in ``__init__``; parts lie ``offset`` bytes into the shared memory, flags ``flags``."""
    require_packed(x, residual)
    programs = min(triton.cdiv(x.numel(), _BLOCK), PROGRAMS)
    _rank_sum[(programs,)](
        x, residual, places, x.numel(), rank, offset // x.element_size(), flags // 4, RANKS=len(places), BLOCK=_BLOCK,
        num_warps=8,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rank"])
def _rank_sum(x, residual, places, elements, rank, offset, flags, RANKS: tl.constexpr, BLOCK: tl.constexpr):
    program, step = tl.program_id(0), tl.num_programs(0) * BLOCK
    i = tl.arange(0, BLOCK)
    own = tl.multiple_of(tl.load(places + rank).to(tl.pointer_type(x.dtype.element_ty)), 16) + offset
    for start in range(program * BLOCK, elements, step):
        inside = start + i < elements
        tl.store(own + start + i, tl.load(x + start + i, mask=inside), mask=inside)
    # A program needs only what the same program of another rank has written. A flag is raised by one rank, and lowered
    # by the one that waited for it: a graph that is replayed finds it as it was.
    tl.debug_barrier()
    for peer in tl.static_range(RANKS):
        theirs = tl.load(places + peer).to(tl.pointer_type(tl.int32)) + flags + program * RANKS + rank
        while tl.atomic_cas(theirs, 0, 1, sem="release", scope="sys") != 0:
            pass
    for peer in tl.static_range(RANKS):
        mine = tl.load(places + rank).to(tl.pointer_type(tl.int32)) + flags + program * RANKS + peer
        while tl.atomic_cas(mine, 1, 0, sem="acquire", scope="sys") != 1:
            pass
    tl.debug_barrier()
    for start in range(program * BLOCK, elements, step):
        inside = start + i < elements
        total = tl.zeros([BLOCK], tl.float32)
        for peer in tl.static_range(RANKS):
            part = tl.multiple_of(tl.load(places + peer).to(tl.pointer_type(x.dtype.element_ty)), 16)
            total += tl.load(part + offset + start + i, mask=inside).to(tl.float32)
        total += tl.load(residual + start + i, mask=inside).to(tl.float32)
        tl.store(residual + start + i, total.to(x.dtype.element_ty), mask=inside)

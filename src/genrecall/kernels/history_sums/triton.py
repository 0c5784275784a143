"""One launch; a lane bisects the rows of one candidate's history, oldest first. See ``reference`` for the formula."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.history_sums import Matrix, Past

_PAIRS = 128


def history_sums(
    matrix: Matrix, past: Past, weights: torch.Tensor, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    require_packed(matrix.offsets, matrix.items, matrix.values, past.items, past.offsets, weights, owner, candidates)
    out = torch.empty(len(owner), dtype=torch.float64, device=owner.device)
    if len(out):
        # Without fusion a product is rounded before it is added, as it is on a CPU.
        _sum[(triton.cdiv(len(out), _PAIRS),)](
            matrix.offsets, matrix.items, matrix.values, past.items, past.offsets, weights, owner, candidates, out,
            len(out), LAST=len(weights), STEPS=matrix.longest.bit_length(), BLOCK=_PAIRS, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["pairs"])
def _sum(
    offsets, items, values, past, past_offsets, weights, owner, candidates, out, pairs,
    LAST: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pairs
    request = tl.load(owner + i, mask=inside, other=0)
    wanted = tl.load(candidates + i, mask=inside, other=0)
    oldest = tl.load(past_offsets + request, mask=inside, other=0)
    place = tl.load(past_offsets + request + 1, mask=inside, other=0) - LAST
    total = tl.zeros([BLOCK], tl.float64)
    for age in range(LAST):
        there = inside & (place >= oldest)
        item = tl.load(past + place, mask=there, other=0)
        low = tl.load(offsets + item, mask=there, other=0)
        end = tl.load(offsets + item + 1, mask=there, other=0)
        high = end
        for _ in tl.static_range(STEPS):  # the first entry that is not below what is wanted
            middle = (low + high) // 2
            below = tl.load(items + middle, mask=low < high, other=0) < wanted
            more = (low < high) & below
            high = tl.where((low < high) & ~below, middle, high)
            low = tl.where(more, middle + 1, low)
        found = there & (low < end)
        found &= tl.load(items + low, mask=found, other=-1) == wanted
        share = tl.load(values + low, mask=found, other=0.0).to(tl.float64)
        total += tl.load(weights + age) * share
        place += 1
    tl.store(out + i, total, mask=inside)

"""One launch; a lane bisects the rows of one candidate's history, oldest first. See ``reference`` for the formula."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed
from genrecall.kernels.history_sums import Matrices, Past, Readings

_PAIRS = 128


def history_sums(
    matrices: Matrices, readings: Readings, past: Past, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    require_packed(matrices.offsets, matrices.items, matrices.values, readings.matrix, readings.last, readings.weights,
                   past.items, past.offsets, owner, candidates)  # fmt: skip
    many, pairs = len(readings.matrix), len(owner)
    out = torch.empty(many, pairs, dtype=torch.float64, device=owner.device)
    if out.numel():
        # Without fusion a product is rounded before it is added, as it is on a CPU.
        _sum[(triton.cdiv(pairs, _PAIRS), many)](
            matrices.offsets, matrices.items, matrices.values, readings.matrix, readings.last, readings.weights,
            past.items, past.offsets, owner, candidates, out, pairs, matrices.offsets.shape[1],
            LAST=readings.weights.shape[1], STEPS=matrices.longest.bit_length(), BLOCK=_PAIRS, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["pairs", "width"])
def _sum(
    offsets, items, values, matrix, lasts, weights, past, past_offsets, owner, candidates, out, pairs, width,
    LAST: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i, reading = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    inside = i < pairs
    rows = offsets + tl.load(matrix + reading).to(tl.int64) * width
    request = tl.load(owner + i, mask=inside, other=0)
    wanted = tl.load(candidates + i, mask=inside, other=0)
    oldest = tl.load(past_offsets + request, mask=inside, other=0)
    end_of_past = tl.load(past_offsets + request + 1, mask=inside, other=0)
    oldest = tl.maximum(oldest, end_of_past - tl.load(lasts + reading))
    place = end_of_past - LAST
    total = tl.zeros([BLOCK], tl.float64)
    for age in range(LAST):
        weight = tl.load(weights + reading * LAST + age)
        there = inside & (place >= oldest)
        item = tl.load(past + place, mask=there, other=0)
        low = tl.load(rows + item, mask=there, other=0)
        end = tl.load(rows + item + 1, mask=there, other=0)
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
        total += weight * share
        place += 1
    tl.store(out + reading * pairs + i, total, mask=inside)

"""One launch for all crosses, a block of pairs of one cross a program. See ``reference`` for formula and citation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.crossed_rows import Codes
from genrecall.kernels.dispatch import require_packed

_PAIRS = 256


def crossed_rows(
    requests: Codes, items: Codes, buckets: torch.Tensor, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    require_packed(requests.folded, requests.there, items.folded, items.there, buckets, owner, candidates)
    crosses, pairs = len(buckets), len(owner)
    out = torch.empty(crosses, pairs, dtype=torch.int64, device=owner.device)
    if out.numel() == 0:
        return out
    _cross[(triton.cdiv(pairs, _PAIRS), crosses)](
        requests.folded, requests.there, items.folded, items.there, buckets, owner, candidates, out,
        pairs, requests.folded.shape[1], items.folded.shape[1], BLOCK=_PAIRS, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def hashed(word, buckets):
    """Rows 1 … buckets of folded words, int64 as bits."""
    word = word.to(tl.uint64, bitcast=True)
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB
    word = word ^ (word >> 31)
    return 1 + (word % buckets.to(tl.uint64)).to(tl.int64)


@triton.jit(do_not_specialize=["pairs", "num_requests", "num_items"])
def _cross(
    of_request, request_there, of_item, item_there, buckets, owner, candidates, out,
    pairs, num_requests, num_items, BLOCK: tl.constexpr,
):  # fmt: skip
    cross = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < pairs
    request = cross * num_requests + tl.load(owner + i, mask=inside, other=0)
    item = cross * num_items + tl.load(candidates + i, mask=inside, other=0)
    word = tl.load(of_request + request, mask=inside, other=0) ^ tl.load(of_item + item, mask=inside, other=0)
    row = hashed(word, tl.load(buckets + cross))
    there = tl.load(request_there + request, mask=inside, other=0) & tl.load(item_there + item, mask=inside, other=0)
    tl.store(out + cross * pairs + i, tl.where(there != 0, row, 0), mask=inside)

"""Prefix sums over requests and rows, one launch each; see ``reference`` for the formulas and the citation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.dispatch import require_packed

_TILES = 64


def cut_rows(
    begin: torch.Tensor, count: torch.Tensor, size: int, tiles: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns request, first, count."""
    require_packed(begin, count)
    request, first, taken = torch.empty(3, tiles, dtype=torch.int32, device=begin.device).unbind(0)
    requests = len(count)
    _cut[(triton.cdiv(tiles, _TILES),)](
        begin, count, request, first, taken, requests, tiles, size, REQUESTS=triton.next_power_of_2(requests),
        TILES=_TILES, num_warps=4,
    )  # fmt: skip
    return request, first, taken


def compact_rows(
    runs: torch.Tensor, begin: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns source, place, begin, count."""
    require_packed(runs, begin, count)
    rows, requests = len(runs), len(count)
    source, place = torch.empty(2, rows, dtype=torch.int32, device=runs.device).unbind(0)
    packed = torch.empty(requests + 1, dtype=torch.int32, device=runs.device)
    kept = torch.empty(requests, dtype=torch.int32, device=runs.device)
    block = triton.next_power_of_2(requests)
    _count[(requests,)](runs, begin, count, kept, BLOCK=1024, num_warps=4)
    _compact[(requests + 1,)](
        runs, begin, count, kept, source, place, packed, requests, rows, REQUESTS=block, BLOCK=1024, num_warps=4
    )
    return source, place, packed, kept


@triton.jit(do_not_specialize=["requests", "tiles", "size"])
def _cut(
    begin, count, request, first, taken, requests, tiles, size, REQUESTS: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    r = tl.arange(0, REQUESTS)
    rows = tl.load(count + r, mask=r < requests, other=0)
    needed = (rows + size - 1) // size
    end = tl.cumsum(needed, 0)
    tile = tl.program_id(0) * TILES + tl.arange(0, TILES)
    passed = end[None, :] <= tile[:, None]
    owner = tl.sum(passed.to(tl.int32), 1)
    used = owner < requests
    owner = tl.minimum(owner, requests - 1)
    before = tl.sum(tl.where(passed, needed[None, :], 0), 1)
    offset = (tile - before) * size
    left = tl.load(count + owner) - offset
    inside = tile < tiles
    tl.store(request + tile, owner, mask=inside)
    tl.store(first + tile, tl.where(used, tl.load(begin + owner) + offset, 0), mask=inside)
    tl.store(taken + tile, tl.where(used, tl.minimum(left, size), 0), mask=inside)


@triton.jit
def _count(runs, begin, count, kept, BLOCK: tl.constexpr):
    request = tl.program_id(0)
    first, rows = tl.load(begin + request), tl.load(count + request)
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(runs + first + i, mask=i < rows, other=0).to(tl.int32)
    tl.store(kept + request, tl.sum(total, 0))


@triton.jit(do_not_specialize=["requests", "num_rows"])
def _compact(
    runs, begin, count, kept, source, place, packed, requests, num_rows, REQUESTS: tl.constexpr, BLOCK: tl.constexpr
):
    """One program a request; the one beyond the last fills what no compact row takes."""
    request = tl.program_id(0)
    r = tl.arange(0, REQUESTS)
    at = tl.sum(tl.load(kept + r, mask=r < tl.minimum(request, requests), other=0), 0)
    tl.store(packed + request, at)
    b = tl.arange(0, BLOCK)
    if request == requests:
        for start in range(at, num_rows, BLOCK):
            tl.store(source + start + b, 0, mask=start + b < num_rows)
        # Rows before the first request and after the last belong to nobody.
        for start in range(0, tl.load(begin), BLOCK):
            tl.store(place + start + b, -1, mask=start + b < tl.load(begin))
        for start in range(tl.load(begin + requests), num_rows, BLOCK):
            tl.store(place + start + b, -1, mask=start + b < num_rows)
        return
    first, rows = tl.load(begin + request), tl.load(count + request)
    last = tl.load(begin + request + 1)
    for start in range(first, last, BLOCK):
        row = start + b
        run = tl.load(runs + row, mask=row < first + rows, other=0).to(tl.int32)
        slot = at + tl.cumsum(run, 0) - run
        tl.store(place + row, tl.where(run > 0, slot, -1), mask=row < last)
        tl.store(source + slot, row, mask=run > 0)
        at += tl.sum(run, 0)

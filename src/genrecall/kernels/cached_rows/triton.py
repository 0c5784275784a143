"""Two launches: all lookups read, then what they missed is written. See ``reference`` for formula and citation.

No lookup sees a slot whose row is half written, since whoever reads has ended before anybody writes. Who may write a
slot is decided by one compare-and-swap of when it was used last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from genrecall.kernels.cached_rows import WAYS, Cache
from genrecall.kernels.dispatch import require_packed

_LOOKUPS = 64


def cached_rows(rows: torch.Tensor, table: torch.Tensor, cache: Cache, now: int) -> torch.Tensor:
    """See the contract in ``__init__``."""
    require_packed(rows, table, cache.tags, cache.used, cache.held)
    n, width = len(rows), table.shape[1]
    out = torch.empty(n, width, dtype=table.dtype, device=rows.device)
    absent = torch.empty(n, dtype=torch.int8, device=rows.device)
    if n == 0:
        return out
    grid, columns = (triton.cdiv(n, _LOOKUPS),), triton.next_power_of_2(width)
    shape = {"WIDTH": width, "COLUMNS": columns, "WAYS": WAYS, "BLOCK": _LOOKUPS, "num_warps": 4}
    sets = len(cache.tags)
    _read[grid](rows, table, cache.tags, cache.used, cache.held, cache.missed, out, absent, n, sets, now, **shape)
    _keep[grid](rows, out, absent, cache.tags, cache.used, cache.held, n, sets, now, **shape)
    return out


@triton.jit
def _set_of(row, sets):
    return ((row * 2654435769 & 0xFFFFFFFF) * sets) >> 32


@triton.jit(do_not_specialize=["n", "sets", "now"])
def _read(
    rows, table, tags, used, held, missed, out, absent, n, sets, now,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, WAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    row = tl.load(rows + i, mask=there, other=0)
    home = _set_of(row, sets)
    way, column = tl.arange(0, WAYS)[None, :], tl.arange(0, COLUMNS)[None, :]
    tag = tl.load(tags + home[:, None] * WAYS + way, mask=there[:, None], other=-1)
    which = tl.min(tl.where(tag == row[:, None], way, WAYS), 1)
    hit, miss = there & (which < WAYS), there & (which == WAYS)
    slot, inside = home * WAYS + which, column < WIDTH
    near = tl.load(held + slot[:, None] * WIDTH + column, mask=hit[:, None] & inside, other=0.0)
    far = tl.load(table + row[:, None] * WIDTH + column, mask=miss[:, None] & inside, other=0.0)
    tl.store(
        out + i[:, None].to(tl.int64) * WIDTH + column, tl.where(hit[:, None], near, far), mask=there[:, None] & inside
    )
    tl.store(used + slot, tl.zeros([BLOCK], tl.int32) + now, mask=hit)
    tl.store(absent + i, miss.to(tl.int8), mask=there)
    tl.atomic_add(missed, tl.sum(miss.to(tl.int64), 0))


@triton.jit(do_not_specialize=["n", "sets", "now"])
def _keep(
    rows, out, absent, tags, used, held, n, sets, now,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, WAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    miss = tl.load(absent + i, mask=i < n, other=0) != 0
    row = tl.load(rows + i, mask=miss, other=0)
    home = _set_of(row, sets)
    way, column = tl.arange(0, WAYS)[None, :], tl.arange(0, COLUMNS)[None, :]
    age = tl.load(used + home[:, None] * WAYS + way, mask=miss[:, None], other=0)
    oldest, slot = tl.min(age, 1), home * WAYS + tl.argmin(age, 1)
    # Slots were never used at a negative time: lanes that have nothing to keep win nothing.
    told = tl.where(miss & (oldest != now), oldest, -1)
    won = tl.atomic_cas(used + slot, told, tl.zeros([BLOCK], tl.int32) + now) == told
    tl.store(tags + slot, row.to(tl.int32), mask=won)
    inside = won[:, None] & (column < WIDTH)
    value = tl.load(out + i[:, None].to(tl.int64) * WIDTH + column, mask=inside, other=0.0)
    tl.store(held + slot[:, None] * WIDTH + column, value, mask=inside)

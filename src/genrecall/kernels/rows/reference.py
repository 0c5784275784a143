"""``tile t → (r, begin_r + size·(t − Σ_{r'<r} ⌈n_r'/size⌉))`` and ``place_m = Σ_{m'<m} runs_m'``: plain torch.

The stream compaction of Blelloch 1990 (CMU-CS-90-190), by prefix sums. We deviate: no output depends on a length that
the host would have to know, so places beyond the last live one are filled with harmless values.
"""

from __future__ import annotations

import torch


def cut_rows(
    begin: torch.Tensor, count: torch.Tensor, size: int, tiles: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns request, first, count."""
    needed = (count + size - 1) // size
    end = torch.cumsum(needed, 0, dtype=torch.int32)
    tile = torch.arange(tiles, dtype=torch.int32, device=begin.device)
    request = torch.searchsorted(end, tile, right=True).clamp(max=len(count) - 1)
    offset = (tile - (end - needed)[request]) * size
    left = torch.where(tile < end[-1], count[request] - offset, 0)
    return request.int(), begin[request] + offset, left.clamp(max=size)


def owner(begin: torch.Tensor, rows: int) -> torch.Tensor:
    """int64 (rows,): the request whose range, padding included, holds each row."""
    row = torch.arange(rows, dtype=torch.int32, device=begin.device)
    return (torch.searchsorted(begin, row, right=True) - 1).clamp(max=len(begin) - 2)


def live_rows(begin: torch.Tensor, count: torch.Tensor, rows: int) -> torch.Tensor:
    """bool (rows,): False for padding."""
    request = owner(begin, rows)
    row = torch.arange(rows, dtype=torch.int32, device=begin.device)
    return row - begin[request] < count[request]


def compact_rows(
    runs: torch.Tensor, begin: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See the contract in ``__init__``. Returns source, place, begin, count."""
    rows = len(runs)
    kept = runs & live_rows(begin, count, rows)
    through = torch.zeros(rows + 1, dtype=torch.int32, device=runs.device)
    torch.cumsum(kept, 0, dtype=torch.int32, out=through[1:])
    place = torch.where(kept, through[:-1], -1)
    # One place more than there are rows takes what does not run.
    source = torch.zeros(rows + 1, dtype=torch.int32, device=runs.device)
    row = torch.arange(rows, dtype=torch.int32, device=runs.device)
    source[torch.where(kept, place, rows).long()] = row
    packed = through[begin.long()]
    return source[:rows], place, packed, packed[1:] - packed[:-1]

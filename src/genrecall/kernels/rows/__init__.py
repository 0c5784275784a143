"""Where the rows of a batch belong: ranges of requests, their cut into tiles, their compaction. All on the device.

Shapes are fixed when a CUDA graph is captured; how many rows are live is read from device memory at replay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class RowRanges:
    """Which rows belong to each of R requests: ``begin[r] … begin[r] + count[r] - 1``, in SID order.

    Attributes:
        begin: int32 (R+1,), ascending; rows between a request's last live row and the next ``begin`` are padding.
        count: int32 (R,), live rows, at most ``begin[r+1] - begin[r]``; 0 for an empty place in the batch.
    """

    begin: torch.Tensor
    count: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class RowTiles:
    """A static number N of tiles; each covers up to ``size`` adjacent live rows of one request.

    Attributes:
        request: int32 (N,); any valid number where ``count`` is 0.
        first: int32 (N,), row.
        count: int32 (N,), rows, 0 where the tile has nothing to do.
        size: the most rows of a tile.
    """

    request: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor
    size: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Compaction:
    """Rows that run, moved together.

    Attributes:
        source: int32 (M,); the row that compact row ``p`` stands for; 0 beyond the last one that runs.
        place: int32 (M,); the compact row of each row, -1 where it does not run.
        ranges: of the compact rows; requests follow each other without padding, so ``begin`` is on the device too.
    """

    source: torch.Tensor
    place: torch.Tensor
    ranges: RowRanges


def most_tiles(rows: int, requests: int, size: int) -> int:
    """N that holds any cut of at most ``rows`` live rows of ``requests`` requests."""
    return rows // size + min(requests, rows)


def cut_rows(ranges: RowRanges, size: int, tiles: int) -> RowTiles:
    """Cut every request's live rows into tiles of ``size`` rows, requests ascending.

    Args:
        ranges: R requests.
        size: the most rows of a tile.
        tiles: N, at least the number of tiles needed (see ``most_tiles``); the rest are empty.
    """
    run = implementation(__name__, ranges.begin).cut_rows
    request, first, count = run(ranges.begin, ranges.count, size, tiles)
    return RowTiles(request=request, first=first, count=count, size=size)


def compact_rows(runs: torch.Tensor, ranges: RowRanges) -> Compaction:
    """Move the live rows that run together.

    Args:
        runs: bool (M,); what it says of padding is ignored.
        ranges: R requests over the M rows.
    """
    run = implementation(__name__, runs).compact_rows
    source, place, begin, count = run(runs, ranges.begin, ranges.count)
    return Compaction(source=source, place=place, ranges=RowRanges(begin=begin, count=count))

"""Tiles and compaction against plain Python."""

from __future__ import annotations

import pytest
import torch

from genrecall.kernels.rows import compact_rows, cut_rows, most_tiles
from tests.kernels.cases import ranges_of

CASES = [
    ([5], [0]),
    ([3, 0, 7, 1], [0, 2, 1, 0]),
    ([0, 0], [1, 0]),
    ([1] * 9, [0] * 9),
    ([1500, 3], [100, 0]),
]


@pytest.mark.parametrize(("counts", "padding"), CASES)
@pytest.mark.parametrize("size", [1, 2, 21])
def test_tiles_cover_every_live_row_once(device, counts, padding, size):
    ranges = ranges_of(counts, padding, device)
    tiles = cut_rows(ranges, size, most_tiles(sum(counts), len(counts), size))
    begins = ranges.begin.tolist()
    expected = [
        (request, begins[request] + start, min(size, count - start))
        for request, count in enumerate(counts)
        for start in range(0, count, size)
    ]
    found = list(zip(tiles.request.tolist(), tiles.first.tolist(), tiles.count.tolist(), strict=True))
    assert [tile for tile in found if tile[2]] == expected
    assert all(0 <= request < len(counts) for request, _, _ in found)


@pytest.mark.parametrize(("counts", "padding"), CASES)
def test_compaction_keeps_order_and_forgets_padding(device, counts, padding):
    ranges = ranges_of(counts, padding, device)
    rows = int(ranges.begin[-1])
    runs = torch.rand(rows, generator=torch.Generator().manual_seed(0)) < 0.5
    compact = compact_rows(runs.to(device), ranges)
    begins = ranges.begin.tolist()
    kept = [
        [row for row in range(begins[request], begins[request] + count) if runs[row]]
        for request, count in enumerate(counts)
    ]
    flat = [row for request in kept for row in request]
    assert compact.source.tolist() == flat + [0] * (rows - len(flat))
    place = dict(zip(flat, range(rows), strict=False))
    assert compact.place.tolist() == [place.get(row, -1) for row in range(rows)]
    assert compact.ranges.count.tolist() == [len(request) for request in kept]
    assert compact.ranges.begin.tolist() == [sum(len(request) for request in kept[:r]) for r in range(len(counts) + 1)]

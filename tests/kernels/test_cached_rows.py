"""Lookups through a cache against the table, and what the cache keeps."""

from __future__ import annotations

import pytest
import torch

from genrecall.kernels.cached_rows import WAYS, Cache, cached_rows, set_of


def table_of(rows: int, width: int, device: str, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(dtype)
    return made.pin_memory() if device == "cuda" else made


def require_true(cache: Cache, table: torch.Tensor) -> None:
    """Every slot holds the row that its tag says, in the row's own set."""
    tags = cache.tags.cpu().long()
    homes, ways = torch.nonzero(tags >= 0, as_tuple=True)
    rows = tags[homes, ways]
    assert torch.equal(set_of(rows, len(tags)), homes)
    assert torch.equal(cache.held.cpu()[homes * WAYS + ways], table[rows])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("rows", "width", "sets", "looked"), [(500, 16, 8, 300), (40, 3, 1, 90), (5, 8, 16, 1)])
def test_lookups_equal_the_table(device, rows, width, sets, looked, dtype):
    table, generator = table_of(rows, width, device, dtype), torch.Generator().manual_seed(1)
    cache = Cache.empty(sets, table, torch.device(device))
    for now in range(1, 8):
        asked = (torch.rand(looked, generator=generator) ** 4 * rows).long()
        found = cached_rows(asked.to(device), table, cache, now)
        assert torch.equal(found.cpu(), table[asked])
        require_true(cache, table)
    assert 0 < int(cache.missed) < 7 * looked or looked == 1


def test_what_fits_is_missed_once(device):
    table = table_of(1000, 16, device)
    cache = Cache.empty(1000, table, torch.device(device))
    asked = torch.arange(0, 1000, 7, device=device)
    for now in range(1, 4):
        cached_rows(asked, table, cache, now)
    before = int(cache.missed)
    cached_rows(asked, table, cache, 4)
    assert int(cache.missed) == before


def test_the_row_that_was_looked_at_longest_ago_goes(device):
    table = table_of(100, 4, device)
    cache = Cache.empty(1, table, torch.device(device))
    for now in range(1, WAYS + 1):
        cached_rows(torch.tensor([now], device=device), table, cache, now)
    assert sorted(cache.tags.flatten().tolist()) == list(range(1, WAYS + 1))
    cached_rows(torch.tensor([1], device=device), table, cache, 20)
    cached_rows(torch.tensor([50], device=device), table, cache, 21)
    assert sorted(cache.tags.flatten().tolist()) == [1, *range(3, WAYS + 1), 50]
    # All slots are looked at, and another row is missed, in one call: it finds no slot to go into.
    cached_rows(torch.tensor([1, *range(3, WAYS + 1), 50, 60], device=device), table, cache, 22)
    assert sorted(cache.tags.flatten().tolist()) == [1, *range(3, WAYS + 1), 50]

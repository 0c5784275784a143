"""A table that is larger than the device has room for: rows in host memory, the hot ones on the device, too.

    e_r = held[slot of r] if the cache holds r, else table[r]

What is looked up is read by the device itself, over the bus where the cache lacks it (``kernels.cached_rows``), so that
no lookup waits for the host. On a CPU the same cache stands before the same table.
"""

from __future__ import annotations

import torch

from genrecall.errors import CapacityError
from genrecall.kernels.cached_rows import WAYS, Cache, cached_rows, set_of

_MOST_ROWS, _MOST_CALLS = 2**31 - 1, 2**30


class HostedTable:
    """A table with a cache before it; whoever owns it lets nobody look while somebody writes.

    Args:
        table: (N, d), on the host; pinned here if the device is a GPU.
        device: where rows are wanted.
        cache_bytes: device memory that the cache may take.

    Raises:
        CapacityError: more rows than there are tags.
    """

    def __init__(self, table: torch.Tensor, device: torch.device, cache_bytes: int) -> None:
        if len(table) > _MOST_ROWS:
            raise CapacityError(
                "a table has more rows than a cache can tell apart",
                seen=f"{len(table):,} rows",
                allowed=f"at most {_MOST_ROWS:,}",
                fix="hash the feature into fewer buckets, or into two tables",
            )
        pinned = device.type == "cuda" and not table.is_pinned()
        self.table = table.detach().contiguous().pin_memory() if pinned else table.detach().contiguous()
        sets = min(cache_bytes // Cache.bytes_a_set(table), -(-len(table) // WAYS))
        self.cache = Cache.empty(max(int(sets), 1), self.table, device)
        self._calls = self._looked = 0

    def look(self, rows: torch.Tensor) -> torch.Tensor:
        """(…, d) of int64 rows of any shape on the device."""
        if self._calls == _MOST_CALLS:
            self.cache.used.zero_()
            self._calls = 0
        self._calls += 1
        self._looked += rows.numel()
        found = cached_rows(rows.reshape(-1), self.table, self.cache, self._calls)
        return found.view(*rows.shape, self.table.shape[1])

    def write(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Replace rows int64 (n,) by values (n, d), in the table and wherever the cache holds them."""
        self.table[rows.cpu()] = values.to("cpu", self.table.dtype)
        cache, device = self.cache, self.cache.tags.device
        rows, values = rows.to(device), values.to(device, self.table.dtype)
        home = set_of(rows, len(cache.tags))
        place, way = torch.nonzero(cache.tags[home] == rows[:, None], as_tuple=True)
        cache.held[home[place] * WAYS + way] = values[place]

    def hit_rate(self) -> float:
        """Of all lookups so far; waits for the device."""
        return 1 - int(self.cache.missed) / max(self._looked, 1)

    def count_anew(self) -> None:
        """Let ``hit_rate`` begin here."""
        self.cache.missed.zero_()
        self._looked = 0

    @property
    def cache_rows(self) -> int:
        """That the cache has room for."""
        return self.cache.tags.numel()

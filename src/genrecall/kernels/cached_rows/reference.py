"""``e = held[slot] if tags[slot] = row else table[row]``; a row that was missed replaces its set's least recently used.

A set-associative cache of embedding rows on the device, as HugeCTR's (Wei et al., RecSys 2022, arXiv 2210.08804).
Deviations: a lookup takes what it misses straight from pinned host memory, so that the host is never asked; at most one
row a set is kept of each call, and none in place of a row that the same call has found.
"""

from __future__ import annotations

import torch

from genrecall.kernels.cached_rows import WAYS, Cache, set_of


def cached_rows(rows: torch.Tensor, table: torch.Tensor, cache: Cache, now: int) -> torch.Tensor:
    """See the contract in ``__init__``."""
    home = set_of(rows, len(cache.tags))
    match = cache.tags[home] == rows[:, None]
    hit, slot = match.any(1), home * WAYS + match.int().argmax(1)
    far = table[torch.where(hit, 0, rows).to(table.device)].to(rows.device)
    out = torch.where(hit[:, None], cache.held[slot], far)
    cache.missed.add_((~hit).sum())
    used, tags = cache.used.view(-1), cache.tags.view(-1)
    used[slot[hit]] = now
    oldest, way = cache.used[home].min(1)
    kept = torch.nonzero(~hit & (oldest != now))[:, 0]
    into = home[kept] * WAYS + way[kept]
    # Of all that would go into one slot the one that was written last stays.
    last = torch.empty(len(used), dtype=torch.int64, device=rows.device)
    last[into] = kept
    into, kept = torch.unique(into), last[torch.unique(into)]
    tags[into], used[into], cache.held[into] = rows[kept].int(), now, out[kept]
    return out

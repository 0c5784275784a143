"""At most n beams under one first code: candidates beyond a code's n best are removed before the best W are taken.

    kept = top-W of { c : |{ c' before c in the ranking : c'_0 = c_0 }| < n }

Category quotas, as re-rankers have them. We deviate in applying them at every level of the search, so that the room
that one code gives up is filled with others' beams as they come, and W of them come back where they exist.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from genrecall.engine.device.batch import request_of
from genrecall.kernels.rows import RowRanges
from genrecall.kernels.trie_select import Selection

REMOVED = -1e30
"""A key below every other that is still a number: what the selection takes it for lack of others is dropped again."""


def within_caps(ranked: torch.Tensor, eligible: torch.Tensor, group: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Keys of candidates, ``REMOVED`` beyond the best of their group.

    Args:
        ranked: float32 (M, K), keys; -inf where there is no candidate.
        eligible: bool (M, K), candidates that may be chosen at all; others count for nothing.
        group: int64 (M,), of each row's candidates.
        most: int64 (M,), how many of its group may be chosen.
    """
    keys = torch.where(eligible, ranked, float("-inf")).flatten()
    groups = group[:, None].expand(ranked.shape).flatten()
    order = torch.sort(keys, descending=True, stable=True).indices  # ties stay in SID order
    by_group, again = torch.sort(groups[order], stable=True)
    order = order[again]
    first = torch.searchsorted(by_group, by_group, side="left")
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device) - first)
    beyond = rank.view(ranked.shape) >= most[:, None]
    return torch.where(beyond & (ranked > float("-inf")), REMOVED, ranked)


def drop_removed(best: Selection) -> Selection:
    """Survivors whose key is not ``REMOVED``, moved together in SID order."""
    begin, rows = best.ranges.begin, len(best.node)
    request = request_of(begin, rows)
    row = torch.arange(rows, dtype=torch.int32, device=begin.device)
    live = row - begin[request] < best.ranges.count[request]
    kept = live & (best.score > REMOVED / 2)
    order = torch.sort(2 * request + ~kept, stable=True).indices
    count = torch.zeros_like(best.ranges.count, dtype=torch.int64).scatter_add_(0, request, kept.long()).int()
    there = kept[order]

    def move(values: torch.Tensor, padding: float) -> torch.Tensor:
        return torch.where(there, values[order], padding)

    return replace(
        best,
        parent=move(best.parent, 0),
        code=move(best.code, 0),
        node=move(best.node, 0),
        score=move(best.score, float("-inf")),
        ranges=RowRanges(begin=begin, count=count),
    )

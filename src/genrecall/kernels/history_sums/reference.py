"""``Σ_a w_a · M[h_a, j]``: the affinity of item-based top-N (Deshpande & Karypis, TOIS 2004) before its logarithm.

Deviation: entries are looked up by bisection, candidate by candidate, instead of adding up whole rows: a few hundred
candidates of a million items are wanted.
"""

from __future__ import annotations

import torch

from genrecall.kernels.history_sums import Matrices, Past, Readings


def history_sums(
    matrices: Matrices, readings: Readings, past: Past, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    num_items, last = matrices.offsets.shape[1] - 1, readings.weights.shape[1]
    total = torch.zeros(len(readings.matrix), len(owner), dtype=torch.float64, device=owner.device)
    if len(matrices.items) == 0 or len(past.items) == 0:
        return total
    row = torch.repeat_interleave(
        torch.arange(num_items * len(matrices.offsets), device=owner.device), matrices.offsets.diff(dim=1).flatten()
    )
    keys = row * num_items + matrices.items
    for age in range(last):
        place = past.offsets[owner + 1] - last + age
        there = place >= past.offsets[owner]
        item = past.items[place.clamp(min=0)].long()
        wanted = (readings.matrix[:, None].long() * num_items + item) * num_items + candidates
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        share = torch.where(there & (keys[at] == wanted), matrices.values[at], 0)
        total = total + readings.weights[:, age, None] * share.double()
    return total

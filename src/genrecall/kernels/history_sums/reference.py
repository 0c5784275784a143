"""``Σ_a w_a · M[h_a, j]``: the affinity of item-based top-N (Deshpande & Karypis, TOIS 2004) before its logarithm.

Deviation: entries are looked up by bisection, candidate by candidate, instead of adding up whole rows: a few hundred
candidates of a million items are wanted.
"""

from __future__ import annotations

import torch

from genrecall.kernels.history_sums import Matrix, Past


def history_sums(
    matrix: Matrix, past: Past, weights: torch.Tensor, owner: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """See the contract in ``__init__``."""
    num_items, last = len(matrix.offsets) - 1, len(weights)
    total = torch.zeros(len(owner), dtype=torch.float64, device=owner.device)
    if len(matrix.items) == 0 or len(past.items) == 0:
        return total
    row = torch.repeat_interleave(torch.arange(num_items, device=owner.device), matrix.offsets.diff())
    keys = row * num_items + matrix.items
    for age in range(last):
        place = past.offsets[owner + 1] - last + age
        there = place >= past.offsets[owner]
        wanted = past.items[place.clamp(min=0)].long() * num_items + candidates
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        share = torch.where(there & (keys[at] == wanted), matrix.values[at], 0)
        total = total + weights[age] * share.double()
    return total

"""A score and a rule for ties as one integer, so that a top-k has one answer on every device.

    key = order(score) · 2³² + tie,    order(x) = bits(x) if x ≥ 0, else bits(x) with all but the sign turned over

The order of IEEE 754 bits after Herf, "Radix tricks" (2001). We deviate: the key stays signed, as a GPU sorts integers.
"""

from __future__ import annotations

import torch


def sort_keys(scores: torch.Tensor, tie: torch.Tensor) -> torch.Tensor:
    """int64 (R, I) that order as (score, tie).

    Args:
        scores: float32 (R, I) without a negative zero, which would come after zero.
        tie: int64 (I,), 0 to 2³² − 1; of equal scores the larger one is first.
    """
    bits = scores.contiguous().view(torch.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | tie


def ties(keys: torch.Tensor) -> torch.Tensor:
    """The ``tie`` of each key."""
    return keys & 0xFFFFFFFF

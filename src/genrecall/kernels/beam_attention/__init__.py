"""Attention of beams over their request's shared prefix and their own few suffix tokens: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.beam_attention import reference


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamRows:
    """Where the M rows of a forward pass belong. Rows of one request are adjacent, requests ascending.

    Attributes:
        request: int64 (M,), 0 … R-1.
        slot: int64 (M,), the row's number within its request.
        slots: the most rows that any request has.
    """

    request: torch.Tensor
    slot: torch.Tensor
    slots: int

    @classmethod
    def of(cls, request: torch.Tensor, requests: int) -> BeamRows:
        """Number the rows of an ascending ``request`` vector."""
        count = torch.bincount(request, minlength=requests)
        first = torch.cumsum(count, 0) - count
        slot = torch.arange(len(request), device=request.device) - first[request]
        return cls(request=request, slot=slot, slots=int(count.max()))


def beam_attention(
    query: torch.Tensor,
    prefix_key: torch.Tensor,
    prefix_value: torch.Tensor,
    prefix_length: torch.Tensor,
    suffix_key: torch.Tensor,
    suffix_value: torch.Tensor,
    ancestry: torch.Tensor,
    rows: BeamRows,
    scale: float,
) -> torch.Tensor:
    """One softmax over the prefix of the row's request and the suffix tokens on the row's path.

    Args:
        query: (M, H, D), rotated.
        prefix_key: (R, K, T, D), rotated; shared by all rows of a request, never copied per beam.
        prefix_value: (R, K, T, D).
        prefix_length: int64 (R,); keys at or after it are padding.
        suffix_key: (S, K, D); the suffix rows of all levels, each written once and never moved.
        suffix_value: (S, K, D).
        ancestry: int64 (M, G); the suffix rows on each row's path, its own last.
        rows: which request each row belongs to.
        scale: multiplies the scores.

    Returns:
        (M, H, D) in the query's dtype.
    """
    return reference.beam_attention(
        query, prefix_key, prefix_value, prefix_length, suffix_key, suffix_value, ancestry, rows.request, rows.slot,
        rows.slots, scale,
    )  # fmt: skip

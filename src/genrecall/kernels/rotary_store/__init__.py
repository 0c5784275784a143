"""From one fused projection to rotated queries and stored keys and values, in one launch: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrecall.kernels.dispatch import implementation


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadNorm:
    """RMSNorm of query and key heads (Qwen3): ``weight`` (H+K, D), queries first."""

    weight: torch.Tensor
    epsilon: float


def rotary_store(
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    head_norm: HeadNorm | None,
    cos_sin: torch.Tensor,
    position: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slot: torch.Tensor,
) -> torch.Tensor:
    """Add the bias, norm query and key heads, rotate them, store keys and values.

    Args:
        qkv: (M, (H+2K)*D), queries, keys, values stacked.
        bias: ((H+2K)*D,) or None.
        head_norm: or None.
        cos_sin: float32 (2, positions, D/2), of all positions of the window, scaled (yarn) where the model asks for it.
        position: int32 (M,), the row of ``cos_sin`` of each token.
        key: (P, K, page, D) pages; a suffix block (S, K, D) is given as ``block.unsqueeze(2)``. Written in place; may
            be float8_e4m3fn, which holds up to 448 and stores what is larger as 448.
        value: as ``key``.
        slot: int32 (M,), ``page number * page + offset``, -1 where nothing is stored; any stride, as of a column of
            ``ancestry``.

    Returns:
        Rotated queries (M, H, D) in qkv's dtype; H follows from the shapes.
    """
    run = implementation(__name__, qkv).rotary_store
    return run(qkv, bias, head_norm, cos_sin, position, key, value, slot)

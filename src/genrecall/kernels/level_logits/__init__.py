"""Logits of one level's codes: no other row of the LM head is read. Contract and choice."""

from __future__ import annotations

import torch

from genrecall.kernels.level_logits import reference


def level_logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """``hidden · headᵀ`` summed and returned in float32.

    Logits are never rounded to bfloat16 (steps of 0.06 at 10 would tie beams that the model can tell apart).

    Args:
        hidden: (M, E).
        head: (C, E), the level's rows of the LM head: bfloat16 beside bfloat16 hidden states (products are exact), or
            float32 for a checkpoint whose head bfloat16 would round.

    Returns:
        float32 (M, C).
    """
    if hidden.is_cuda and hidden.dtype == head.dtype != torch.float32:
        return torch.mm(hidden, head.T, out_dtype=torch.float32)
    return reference.level_logits(hidden, head)

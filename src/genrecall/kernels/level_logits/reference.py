"""``z = h Wᵀ`` in float32 over a level's C rows: plain torch, without tf32."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def level_logits(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """See the contract in ``__init__``."""
    return F.linear(hidden.float(), head.float())

"""Parts that item sequence models share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def is_mixed(kind: str) -> bool:
    """Whether autocast is on for this kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def plain_precision(kind: str) -> AbstractContextManager[object]:
    """Inside this block autocast is off."""
    return torch.autocast(kind, enabled=False) if is_mixed(kind) else nullcontext()


def causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention of each place to itself and those before it; (B, H, T, D) each.

    In float32 on CPUs: torch's bfloat16 backward pass is several times slower there at the lengths of histories.
    """
    if query.device.type == "cpu":
        with plain_precision("cpu"):
            return nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


class CausalBlock(nn.Module):
    """Pre-norm transformer block: attention, then a GELU network of four times the width.

    Args:
        width: E.
        heads: H, a divisor of E.
        dropout: on what each half adds.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, E) to (B, T, E)."""
        rows, places, width = x.shape
        parts = self.mixed(self.first(x)).view(rows, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = causal_attention(query, key, value).transpose(1, 2).reshape(rows, places, width)
        x = x + self.drop(self.joined(attended))
        return x + self.drop(self.down(nn.functional.gelu(self.up(self.second(x)))))


def start(module: nn.Module, std: float = 0.02) -> None:
    """Initial weights: normal matrices, biases of zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)

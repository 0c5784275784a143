"""An HSTU-like encoder: attention without a softmax, gated, with biases by distance and by time.

    U, V, Q, K = SiLU(W₁ LayerNorm(x)),   A_ij = SiLU(Q_i · K_j / √D + p_{i−j} + t_{bucket(τ_i − τ_j)}) / T   for j ≤ i
    y = x + W₂ (LayerNorm(A V) ⊙ U)

Zhai et al., "Actions Speak Louder than Words" (ICML 2024, arXiv 2402.17152). We deviate: a small model for the full
softmax over items, Q · K divided by √D as in a transformer, biases for each head, and time gaps that end at the item
read last (the time of the item asked for is not known when it is asked for).
"""

from __future__ import annotations

import torch
from torch import nn

from genrecall.model.blocks import start
from genrecall.model.item_softmax import item_cross_entropy
from genrecall.model.sequence import SequenceBatch, SequenceEncoder, at_last

_TIME_BUCKETS = 48
_A_BUCKET = 0.5  # log2 units: bucket 47 begins at about 137 days


class Hstu(SequenceEncoder):
    """The module.

    Args:
        num_items: I.
        width: E.
        blocks, heads: of attention; the heads divide the width.
        window: T, the longest row.
        dropout: on the input and on what every block adds.
        timed: whether batches carry times in seconds.
    """

    def __init__(
        self, num_items: int, *, width: int, blocks: int, heads: int, window: int, dropout: float, timed: bool
    ) -> None:
        super().__init__()
        self.timed = timed
        self.items = nn.Embedding(num_items, width)
        self.blocks = nn.ModuleList(_Block(width, heads, window, dropout, timed) for _ in range(blocks))
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        start(self)

    def hidden(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        """(B, T, E) what is asked after each place of ``items`` int64 (B, T)."""
        x = self.drop(self.items(items) * self.items.embedding_dim**0.5)
        gaps = None
        if self.timed:
            assert times is not None
            gaps = time_buckets(times)
        for block in self.blocks:
            x = block(x, gaps)
        out: torch.Tensor = self.norm(x)
        return out

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy over all items at every place that has a target."""
        hidden = self.hidden(batch.items, batch.times)
        return item_cross_entropy(hidden.flatten(0, 1), self.items.weight, batch.targets.flatten())

    def users(self, batch: SequenceBatch) -> torch.Tensor:
        """(B, E)."""
        return at_last(self.hidden(batch.items, batch.times), batch.lengths)

    def catalogue(self) -> torch.Tensor:
        """(I, E)."""
        return self.items.weight


def time_buckets(times: torch.Tensor) -> torch.Tensor:
    """int64 (B, T, T): bucket of the seconds from place j to place i, by their logarithm."""
    gaps = (times[:, :, None] - times[:, None, :]).clamp(min=0).float()
    return (torch.log2(1 + gaps) / _A_BUCKET).long().clamp(max=_TIME_BUCKETS - 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int, dropout: float, timed: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm, self.attended_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 4 * width), nn.Linear(width, width)
        self.by_distance = nn.Embedding(window, heads)
        self.by_time = nn.Embedding(_TIME_BUCKETS, heads) if timed else None
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, gaps: torch.Tensor | None) -> torch.Tensor:
        """(B, T, E) to (B, T, E)."""
        rows, places, width = x.shape
        parts = nn.functional.silu(self.mixed(self.norm(x))).view(rows, places, 4, self.heads, width // self.heads)
        gate, value, query, key = parts.permute(2, 0, 3, 1, 4)
        place = torch.arange(places, device=x.device)
        distance = place[:, None] - place
        bias = self.by_distance(distance.clamp(min=0)).permute(2, 0, 1)
        if self.by_time is not None and gaps is not None:
            bias = bias + self.by_time(gaps).permute(0, 3, 1, 2)
        weights = nn.functional.silu(query @ key.mT / (width // self.heads) ** 0.5 + bias)
        # Divided by the window, not by the batch's length, so that a row counts the same in every batch.
        weights = weights.masked_fill(distance < 0, 0) / self.window
        attended = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(rows, places, width)
        gated = self.attended_norm(attended) * gate.transpose(1, 2).reshape(rows, places, width)
        return x + self.drop(self.joined(gated))

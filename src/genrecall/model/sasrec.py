"""SASRec with a full softmax: a causal transformer over items, asked for the next item at every place.

``score(i | h) = x_T · e_i`` with ``x = LayerNorm(Block_n(… Block_1(√E e_h + p)))``, trained with the cross-entropy over
all items (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; the loss after Klenitskiy & Vasilev,
"Turning Dross Into Gold Loss", RecSys 2023). We deviate: pre-norm blocks with GELU, rows padded on the right, history
items blanked at random where asked for, and a teacher's soft targets where the data brings them.
"""

from __future__ import annotations

import torch
from torch import nn

from genrecall.model.blocks import CausalBlock, start
from genrecall.model.item_softmax import item_cross_entropy
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS, SequenceBatch, SequenceEncoder, at_last


class Sasrec(SequenceEncoder):
    """The module.

    Args:
        num_items: I.
        width: E of items and places.
        blocks, heads: of attention.
        window: the longest row.
        dropout: on the input and on what every block adds.
        item_dropout: share of history items that are blanked while training.
    """

    def __init__(
        self,
        num_items: int,
        *,
        width: int,
        blocks: int,
        heads: int,
        window: int,
        dropout: float,
        item_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.item_dropout = item_dropout
        self.items, self.places = nn.Embedding(num_items, width), nn.Embedding(window, width)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, dropout) for _ in range(blocks))
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        start(self)

    def hidden(self, items: torch.Tensor) -> torch.Tensor:
        """(B, T, E) what is asked after each place of ``items`` int64 (B, T)."""
        x = self.items(items) * self.items.embedding_dim**0.5
        if self.training and self.item_dropout:
            x = x * (torch.rand(items.shape, device=items.device) >= self.item_dropout)[..., None]
        x = x + self.places.weight[: items.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.norm(x)
        return out

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy at every place that has a target, or with a teacher's distribution over items there."""
        hidden, targets = self.hidden(batch.items).flatten(0, 1), batch.targets.flatten()
        nats, count = item_cross_entropy(hidden, self.items.weight, targets)
        if SOFT_ITEMS in batch.extra:
            # ln Σ exp is the same for any target, so only the scores of what is wanted are exchanged.
            items, weights = (batch.extra[name].flatten(0, 1) for name in (SOFT_ITEMS, SOFT_WEIGHTS))
            weights = weights * (targets >= 0)[:, None]
            right = (hidden * self.items(targets.clamp(min=0))).sum(-1, dtype=torch.float32)
            told = torch.einsum("md,mkd->mk", hidden, self.items(items.long()).to(hidden.dtype)).float()
            nats = nats + (weights * (right[:, None] - told)).sum()
        return nats, count

    def users(self, batch: SequenceBatch) -> torch.Tensor:
        """(B, E)."""
        return at_last(self.hidden(batch.items), batch.lengths)

    def catalogue(self) -> torch.Tensor:
        """(I, E)."""
        return self.items.weight

"""What a module that reads item sequences is asked: a batch of fixed shape, and the loss of its targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

SOFT_ITEMS, SOFT_WEIGHTS = "soft_items", "soft_weights"
"""Names of what a teacher puts beside the targets: items (B, T, K), and the share of the loss that goes to each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceBatch:
    """B stretches of users' histories, padded on the right to T places; causal attention then needs no mask.

    Attributes:
        items: int64 (B, T) item indices, oldest first; 0 where padded.
        lengths: int64 (B,) real items of each row; 0 in rows that only fill the batch.
        targets: int64 (B, T) the item after place t; -1 where nothing is asked.
        times: int64 (B, T) of ``items``; None where the data was built without.
        extra: what was given beside the targets (B, T, ...) or the users (B, ...), by name; what stands beside a
            target of -1 means nothing.
    """

    items: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    times: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)


class SequenceModule(nn.Module):
    """A module that ``train.sequence`` can fit.

    On CUDA, ``loss`` is captured once for each T and replayed: no ``.item()``, no boolean indexing, no shape, branch or
    number that depends on the batch's values; random numbers from torch's default generator only.
    """

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of nats over the targets, float32 (), and how many targets there are, any number type ()."""
        raise NotImplementedError


class SequenceEncoder(SequenceModule):
    """A module whose score of an item is a dot product, so that retrieval needs no module."""

    def users(self, batch: SequenceBatch) -> torch.Tensor:
        """What is asked after each row's last real item, (B, D); rows without items may hold anything."""
        raise NotImplementedError

    def catalogue(self) -> torch.Tensor:
        """What the items answer, (I, D)."""
        raise NotImplementedError


def at_last(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(B, D) out of (B, T, D): the place of each row's last real item."""
    return hidden[torch.arange(len(hidden), device=hidden.device), (lengths - 1).clamp(min=0)]

"""Two towers: what a user's history (and profile) asks for, and what an item is, as unit vectors.

    v_i = unit(e_i + W t_i)                                  e learnt, t the item's text vector
    u   = unit(MLP(Σ_{j ≤ n} a_j x_{h_j} + Σ_c f_c)),  a = softmax_j(q · x_{h_j} + r_{n−j}),  x = e + W t
    loss = − Σ_m log softmax_{b ∈ batch} (u_m · v_b / τ − log Q(b)) [b = y_m]

Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations" (RecSys 2019): in-batch
negatives with the logQ correction. We deviate: every place of a history is asked, Q is known from the training counts
instead of being estimated on the way, and uniformly drawn items join the batch's (Yang et al., "Mixed negative
sampling", WWW 2020), or items that are nobody's target would never be pushed away.
"""

from __future__ import annotations

import torch
from torch import nn

from genrecall.model.blocks import plain_precision, start
from genrecall.model.sequence import SequenceBatch, SequenceEncoder, at_last

PROFILE = "profile"


class TwoTower(SequenceEncoder):
    """The module.

    Args:
        counts: float (I,) training events by item: the chance of an item to be a target.
        width: E.
        window: T, the longest row.
        profile_values: known values of profile columns; 0 where there are no profiles.
        text: float32 (I, D) text vectors; None without.
        dropout: on what the user's tower reads, and inside it.
        temperature: τ.
        negatives: items drawn uniformly for each batch.
    """

    share: torch.Tensor
    text: torch.Tensor

    def __init__(
        self,
        counts: torch.Tensor,
        *,
        width: int,
        window: int,
        profile_values: int,
        text: torch.Tensor | None,
        dropout: float,
        temperature: float,
        negatives: int,
    ) -> None:
        super().__init__()
        num_items = len(counts)
        self.temperature, self.negatives = temperature, negatives
        self.items = nn.Embedding(num_items, width)
        self.recency = nn.Parameter(torch.zeros(window))
        self.asks = nn.Linear(width, 1, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.profile = nn.Embedding(profile_values + 1, width, padding_idx=0) if profile_values else None
        self.project = nn.Linear(text.shape[1], width, bias=False) if text is not None else None
        self.drop = nn.Dropout(dropout)
        start(self)
        self.register_buffer("share", (counts / counts.sum()).float())
        self.register_buffer("text", torch.empty(num_items, 0) if text is None else text.float())

    def inputs(self, items: torch.Tensor) -> torch.Tensor:
        """x of item indices, (..., E)."""
        x: torch.Tensor = self.items(items)
        return x if self.project is None else x + self.project(self.text[items])

    def hidden(self, batch: SequenceBatch) -> torch.Tensor:
        """u after each place, float32 (B, T, E)."""
        x = self.drop(self.inputs(batch.items) * self.items.embedding_dim**0.5)
        place = torch.arange(x.shape[1], device=x.device)
        distance = place[:, None] - place
        scores = self.asks(x)[:, None, :, 0].float() + self.recency[distance.clamp(min=0)]
        weights = torch.softmax(scores.masked_fill(distance < 0, float("-inf")), -1)
        pooled = weights.to(x.dtype) @ x
        if self.profile is not None:
            pooled = pooled + self.profile(batch.extra[PROFILE].long()).sum(1)[:, None]
        return nn.functional.normalize((pooled + self.mlp(pooled)).float(), dim=-1)

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Softmax over the batch's targets and the drawn items, of every place that has a target."""
        targets = batch.targets.flatten()
        asked = targets >= 0
        drawn = torch.randint(0, len(self.share), (self.negatives,), device=targets.device)
        offered = torch.cat([targets.clamp(min=0), drawn])
        vectors = nn.functional.normalize(self.inputs(offered).float(), dim=-1)
        count = asked.sum()
        # How often an item is expected among what is offered.
        expected = self.share[offered] * count + self.negatives / len(self.share)
        users = self.hidden(batch).flatten(0, 1)
        with plain_precision(users.device.type):  # a cosine over a small temperature needs its digits
            scores = users @ vectors.T / self.temperature - torch.log(expected.clamp(min=1e-9))
        # Not on offer: empty places, and the right item a second time.
        empty = torch.cat([~asked, torch.zeros_like(drawn, dtype=torch.bool)])
        right = torch.arange(len(targets), device=targets.device)
        own = torch.arange(len(offered), device=targets.device) == right[:, None]
        wrong = (empty | (offered == targets[:, None])) & ~own
        log_p = torch.log_softmax(scores.masked_fill(wrong, float("-inf")), -1)
        return -log_p[right, right].masked_fill(~asked, 0).sum(), count

    def users(self, batch: SequenceBatch) -> torch.Tensor:
        """(B, E)."""
        return at_last(self.hidden(batch), batch.lengths)

    def catalogue(self) -> torch.Tensor:
        """(I, E)."""
        every = torch.arange(len(self.share), device=self.share.device)
        return nn.functional.normalize(self.inputs(every).float(), dim=-1)

    @torch.no_grad()
    def fold(self) -> None:
        """Write what the text says into the items' own vectors, and forget the text."""
        if self.project is not None:
            every = torch.arange(len(self.share), device=self.share.device)
            self.items.weight.copy_(self.inputs(every))
            self.project, self.text = None, self.text[:, :0]

"""Parallel codes: all codes of an item at once, each from its own distribution.

    log p(i | h) = Σ_l log softmax_c( cos(h_l, e_{l,c}) / τ )[s_l(i)],    h_l = h + SiLU(W_l h)

After RPG (Hou et al. 2025, arXiv 2506.05781). The codes do not depend on each other given h, so they may be many (16 to
64), need no trie, and every item's score is exact: a sum of L numbers that are looked up. We deviate: the trunk is that
of ``model.trunk``, whose depth decoder this head replaces, and a teacher's soft targets are learnt where there are any.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from genrecall.errors import ConfigError
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS, SequenceBatch, SequenceEncoder, at_last
from genrecall.model.trunk import ItemTrunk, TrunkConfig
from genrecall.sid.space import SidSpace


class ParallelHead(nn.Module):
    """L distributions over C codes.

    Args:
        width: E.
        levels, codes: L, C.
        temperature: τ of cosine logits; None: plain dot products.
    """

    def __init__(self, width: int, levels: int, codes: int, temperature: float | None) -> None:
        super().__init__()
        self.levels, self.codes, self.temperature = levels, codes, temperature
        self.turns = nn.Linear(width, levels * width, bias=False)
        nn.init.normal_(self.turns.weight, std=0.02)

    def forward(self, hidden: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Log-probabilities float32 (M, L, C) after states (M, E), with the codes' vectors (L C, E)."""
        turned = nn.functional.silu(self.turns(hidden)).view(len(hidden), self.levels, -1)
        asked, answers = hidden[:, None] + turned, table.view(self.levels, self.codes, -1)
        scale = 1.0
        if self.temperature is not None:
            asked, answers = (nn.functional.normalize(x.float(), dim=-1) for x in (asked, answers))
            scale = 1 / self.temperature
        logits = torch.einsum("mle,lce->mlc", asked, answers).float()
        return torch.log_softmax(logits * scale, -1)


class ParallelTrunk(SequenceEncoder):
    """The trunk with this head.

    Args:
        config: sizes; depth layers play no part.
        space: of the SIDs, as many codes at every level.
        sids: int (I, L).
        temperature: τ; None: plain dot products.
        tied: whether the codes' vectors are those that the history is read with.
    """

    def __init__(
        self,
        config: TrunkConfig,
        space: SidSpace,
        sids: np.ndarray,
        *,
        temperature: float | None = 0.07,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if len(set(space.codes)) != 1:
            raise ConfigError(
                "parallel codes come in levels of one size",
                seen=f"{space.codes} codes",
                allowed="as many codes at every level",
                fix="make the SIDs without an extra level for collisions",
            )
        self.reader = ItemTrunk(replace(config, depth_layers=1), space, sids)
        del self.reader.depth, self.reader.bridge  # this head stands in their place
        self.sids: torch.Tensor
        self.register_buffer("sids", torch.from_numpy(sids.astype(np.int64)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            self.head = ParallelHead(config.width, space.levels, space.codes[0], temperature)
            self.answers = None if tied else nn.Embedding(space.num_tokens, config.width)
            if self.answers is not None:
                nn.init.normal_(self.answers.weight, std=0.02)

    def hidden(self, items: torch.Tensor) -> torch.Tensor:
        """(B, T, E) after each item of int64 (B, T)."""
        start = torch.full_like(items[:, :1], self.reader.first_prefix)
        blank = None
        if self.training and self.reader.config.item_dropout:
            blank = torch.rand(items.shape, device=items.device) < self.reader.config.item_dropout
            blank = nn.functional.pad(blank, (1, 0))
        return self.reader.hidden(torch.cat([start, items], dim=1), blank=blank)[:, 1:]

    def log_p(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 (M, L, C) after states (M, E)."""
        table = self.reader.trunk.embed_tokens.weight if self.answers is None else self.answers.weight
        head: torch.Tensor = self.head(hidden, table[: self.reader.space.num_tokens])
        return head

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats a code, summed over the targets; with a teacher, of what it would have in place of one answer."""
        hidden, targets = self.hidden(batch.items).flatten(0, 1), batch.targets.flatten()
        right = targets.clamp(min=0)[:, None]
        items, weights = right, torch.ones_like(right, dtype=torch.float32)
        if SOFT_ITEMS in batch.extra:
            told, trust = (batch.extra[name].flatten(0, 1) for name in (SOFT_ITEMS, SOFT_WEIGHTS))
            hard = (1 - trust.float().sum(1, keepdim=True)).clamp(min=0)
            items, weights = torch.cat([right, told.long()], dim=1), torch.cat([hard, trust.float()], dim=1)
        due = targets >= 0
        count = due.sum()
        if hidden.device.type == "cpu":  # shapes may follow the data there
            hidden, items, weights, due = hidden[due], items[due], weights[due], due[due]
        of_items = self.log_p(hidden).gather(2, self.sids[items].transpose(1, 2)).mean(1)
        return -((of_items * weights).sum(1) * due).sum(), count

    def users(self, batch: SequenceBatch) -> torch.Tensor:
        """float32 (B, L C): the log-probability of every code."""
        return self.log_p(at_last(self.hidden(batch.items), batch.lengths)).flatten(1)

    def catalogue(self) -> torch.Tensor:
        """int64 (I, L): where an item's codes stand among the ``users``' numbers; its score is their sum."""
        return self.sids + self.reader.offsets

"""The loss of an item trunk: cross-entropy over the SIDs' codes, with any teacher's soft targets.

    loss = - Σ_m Σ_l Σ_c q_m(c | s_<l) log p(c | h_m, s_<l),    s ~ q_m = (1 - τ_m) δ(target) + τ_m teacher_m

p is the softmax over the codes that are valid after the prefix. With the path s drawn from q this is an unbiased
estimate of the cross-entropy between the two distributions over items (``-Σ_i q(i) log p(i)``), in which each level's
own expectation is taken exactly. After knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv 1503.02531); we
deviate: what is distilled are distributions over items, written as distributions over the next code.
"""

from __future__ import annotations

import numpy as np
import torch

from genrecall.index.trie import Trie
from genrecall.model.sequence import SOFT_ITEMS, SOFT_WEIGHTS, SequenceBatch, SequenceModule
from genrecall.model.trunk import ItemTrunk

PREFIX = "prefix"
"""Name of what stands beside the users: their prefix tokens."""
_LOW = -1e9


class TrunkLearner(SequenceModule):
    """A trunk and what its targets are.

    Args:
        model: trained in place.
        trie: of all valid SIDs.
        sids: int (I, L).
        normalise: "trie" or "level".
        label_smoothing: probability spread evenly over the codes that the softmax runs over.
        start_weight: of the first item of each row beside 1 for the others; 0 does not ask for it.
        searches: whether there are rows with words of searches. Nothing is dropped from those: there are as many as one
            likes, so they are underfitted long before they are overfitted.
    """

    def __init__(
        self,
        model: ItemTrunk,
        trie: Trie,
        sids: np.ndarray,
        *,
        normalise: str = "trie",
        label_smoothing: float = 0.0,
        start_weight: float = 0.1,
        searches: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.smoothing, self.levels = model, label_smoothing, trie.space.levels
        self.start_weight, self.searches = start_weight, searches
        nodes = trie.paths(sids)
        assert (nodes >= 0).all(), "every item's SID is in the trie"
        self.sids: torch.Tensor
        self.nodes: torch.Tensor
        self.register_buffer("sids", torch.from_numpy(sids.astype(np.int64)), persistent=False)
        places = nodes[:, :-1] - trie.level_begin[: self.levels]
        self.register_buffer("nodes", torch.from_numpy(places), persistent=False)
        self._masked = normalise == "trie"
        for level in range(self.levels if self._masked else 0):
            # Eight codes a byte: a flag for each code of ten million nodes would fill gigabytes.
            valid = np.packbits(trie.children_mask(np.asarray(trie.nodes_at(level)), level), axis=1, bitorder="little")
            self.register_buffer(f"valid_{level}", torch.from_numpy(valid), persistent=False)

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats an item, summed; the first item of each row is asked after its prefix alone, words of a search never."""
        model = self.model
        prefix = batch.extra[PREFIX].long()
        items = self._prompt(batch)
        blank = None
        if model.config.item_dropout and model.training:
            dropped = torch.rand(items.shape, device=items.device) < model.config.item_dropout
            dropped &= items < model.first_prefix  # the words of a search are few
            blank = torch.cat([torch.zeros_like(prefix, dtype=torch.bool), dropped], dim=1)
        asks = (items >= model.first_prefix).any(1) if self.searches else None
        tokens = torch.cat([prefix, items], dim=1)
        hidden = model.hidden(tokens, blank=blank, spared=asks)[:, prefix.shape[1] - 1 :]
        begins = batch.items[:, 0]
        first = begins.masked_fill((batch.lengths == 0) | (begins >= model.num_items), -1)[:, None]
        targets = torch.cat([first, batch.targets], dim=1).flatten()
        candidates, weights = self._soft(batch, targets)
        spared = None if asks is None else asks[:, None].expand(-1, hidden.shape[1]).flatten()
        hidden = hidden.flatten(0, 1)
        due = (targets >= 0).float().view(len(items), -1)
        due = torch.cat([due[:, :1] * self.start_weight, due[:, 1:]], dim=1).flatten()
        count = due.sum()
        if hidden.device.type == "cpu":  # shapes may follow the data there
            asked = due > 0
            hidden, candidates, weights, due = hidden[asked], candidates[asked], weights[asked], due[asked]
            spared = None if spared is None else spared[asked]
        return (self._nats(hidden, candidates, weights, spared) * due).sum(), count

    def _prompt(self, batch: SequenceBatch) -> torch.Tensor:
        """Prompt tokens (B, T); a first item is never said to open a session, for what was before it is unknown."""
        if not self.model.sessions or batch.times is None:
            return batch.items
        opens = torch.zeros_like(batch.items, dtype=torch.bool)
        opens[:, 1:] = (batch.times[:, 1:] != batch.times[:, :-1]) & (batch.items[:, 1:] < self.model.num_items)
        return batch.items + opens * self.model.num_items

    def _soft(self, batch: SequenceBatch, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items int64 (M, 1+K) and their probabilities float32 (M, 1+K), the target first."""
        right = targets.clamp(min=0)[:, None]
        if SOFT_ITEMS not in batch.extra:
            return right, torch.ones_like(right, dtype=torch.float32)
        items, weights = (_after_start(batch.extra[name]) for name in (SOFT_ITEMS, SOFT_WEIGHTS))
        weights = weights.float()
        hard = (1 - weights.sum(1, keepdim=True)).clamp(min=0)
        return torch.cat([right, items.long()], dim=1), torch.cat([hard, weights], dim=1)

    def _nats(
        self, hidden: torch.Tensor, candidates: torch.Tensor, weights: torch.Tensor, spared: torch.Tensor | None
    ) -> torch.Tensor:
        """Loss (M,) of each place."""
        # The largest of w / exponential noise is a draw in proportion to w, and a graph can hold it.
        drawn = (weights / torch.empty_like(weights).exponential_()).argmax(1, keepdim=True)
        path = candidates.gather(1, drawn)[:, 0]
        codes, ahead, nodes = self.sids[path], self.sids[candidates], self.nodes[path]
        states = self.model.states(hidden, codes[:, :-1], spared=spared)
        nats = torch.zeros(len(hidden), device=hidden.device)
        for level in range(self.levels):
            log_p, valid = self._log_p(states[:, level], nodes[:, level], level)
            share = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
            loss = -(log_p.gather(1, ahead[..., level]) * share).sum(1)
            if self.smoothing:
                even = (log_p * valid).sum(1) / valid.sum(1)
                loss = (1 - self.smoothing) * loss - self.smoothing * even
            nats = nats + loss
            weights = weights * (ahead[..., level] == codes[:, level, None])
        return nats

    def _log_p(self, states: torch.Tensor, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model.logits(states, level).float()
        if not self._masked:
            return torch.log_softmax(logits, -1), torch.ones_like(logits, dtype=torch.bool)
        packed = getattr(self, f"valid_{level}")[nodes]
        bits = torch.arange(8, dtype=torch.uint8, device=packed.device)
        valid = ((packed[..., None] >> bits) & 1).flatten(1)[:, : logits.shape[1]].bool()
        return torch.log_softmax(logits.masked_fill(~valid, _LOW), -1), valid


def _after_start(beside: torch.Tensor) -> torch.Tensor:
    """(B, T, K) beside the targets as (B (T+1), K): the first item of a row has no teacher."""
    return torch.nn.functional.pad(beside, (0, 0, 1, 0)).flatten(0, 1)

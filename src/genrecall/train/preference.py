"""Preference over items: an event against what the model's own constrained beams put in its place.

    Δ_i = log π(i | h) − log π_ref(i | h),   log π(i | h) = Σ_l log p(c_l | h, c_<l)
    "dpo":     loss = − log  e^{βΔ_p} / (e^{βΔ_p} + Σ_j λ_j e^{βΔ_j})
    "policy":  loss = − Σ_{i∈G} π_G(i) r_i,   r_p = 1, r_j = − ρ λ_j,   π_G = π / Σ_{i∈G} π(i)
    both:      + κ KL(π ‖ π_ref) − α log π(p | h)

"dpo" is S-DPO (Chen et al. 2024, arXiv 2406.09215): one positive, many negatives. "policy" is the group-relative policy
gradient of GRPO (Shao et al. 2024, arXiv 2402.03300). We deviate: λ_j is what swapping p and j would cost in NDCG
(LambdaRank's weight, mean 1 a list); the group's policy gradient is the exact expectation over the group, which is its
own baseline, in place of sampled ratios; and the KL is exact, with all items outside the group as one outcome.
Both objectives compare inside the group only: without the KL, all of a list may sink below items that nobody proposed.

Popularity is no way to a reward: with ``popularity`` ν > 0, ν log n_i is added to βΔ_i (a bonus given away while
training need not be learnt; logit adjustment, Menon et al. 2021, arXiv 2007.07314) or taken off r_i.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch

from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.model.sequence import SequenceBatch, SequenceModule
from genrecall.model.trunk import ItemTrunk
from genrecall.train.sequence.config import SequenceConfig
from genrecall.train.trunk import PREFIX, TrunkLearner

REJECTED_ITEMS, REJECTED_WEIGHTS = "rejected_items", "rejected_weights"
"""Names of what stands beside the targets: negatives (E, K) and their λ, 0 where there is none."""
_LOW = -1e9
Objective = Literal["dpo", "policy"]


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of the preference stage.

    Attributes:
        objective: "dpo" or "policy".
        beam: W of the search for candidates; the positive takes no place of it.
        negatives: K, the best of the beams that are kept.
        last: only each user's last so many training events are learnt from.
        future: beams among the user's next so many events (the positive counted) are no negatives.
        rounds: how often candidates are made anew, by the model as it is then; ``train.epochs`` are those of a round.
        rank_aware: λ as above; else 1.
        beta: β.
        kl: κ.
        rank_penalty: ρ.
        nll: α.
        popularity: ν.
        dropout: while training; None: the model's.
        train: settings of each round; window, device and seed are the study's.
    """

    objective: Objective = "dpo"
    beam: int = 20
    negatives: int = 16
    last: int = 5
    future: int = 3
    rounds: int = 1
    rank_aware: bool = True
    beta: float = 0.5
    kl: float = 1.0
    rank_penalty: float = 0.0
    nll: float = 0.0
    popularity: float = 0.0
    dropout: float | None = 0.0
    train: SequenceConfig = field(
        default_factory=lambda: SequenceConfig(
            epochs=1, learning_rate=5e-5, warmup=0.1, weight_decay=0.0, eval_every=0.1, patience=3
        )
    )

    def __post_init__(self) -> None:
        counts = min(self.beam, self.negatives, self.last, self.future, self.rounds)
        weights = min(self.beta, self.kl, self.rank_penalty, self.nll, self.popularity)
        if self.objective not in get_args(Objective) or counts < 1 or weights < 0 or self.beta == 0:
            raise ConfigError(
                "preferences cannot be learnt like this",
                seen=f"objective={self.objective}, beam={self.beam}, negatives={self.negatives}, last={self.last}, "
                f"future={self.future}, rounds={self.rounds}, smallest weight {weights}, beta={self.beta}",
                allowed=f"{' or '.join(get_args(Objective))}; counts of at least 1; weights of 0 or more, beta above 0",
                fix="correct PreferenceConfig",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rejected:
    """Negatives of E training events.

    Attributes:
        items: int32 (E, K); whatever where there is none.
        weights: float16 (E, K) λ; 0 where there is none.
    """

    items: np.ndarray
    weights: np.ndarray

    def beside(self) -> dict[str, np.ndarray]:
        """For ``SequenceData.beside_targets``."""
        return {REJECTED_ITEMS: self.items, REJECTED_WEIGHTS: self.weights}

    @property
    def digest(self) -> str:
        """Of both arrays."""
        return hashlib.sha256(self.items.tobytes() + self.weights.tobytes()).hexdigest()


class TrunkScorer(TrunkLearner):
    """Log-probabilities of whole items, the sums that ``Engine.score`` gives."""

    def hidden(self, batch: SequenceBatch, places: torch.Tensor) -> torch.Tensor:
        """States (B, n, E) after the items at places int64 (B, n)."""
        prefix = batch.extra[PREFIX].long()
        states = self.model.hidden(torch.cat([prefix, self._prompt(batch)], dim=1))
        where = (places + prefix.shape[1])[..., None].expand(-1, -1, states.shape[-1])
        return states.gather(1, where)

    def log_p(self, hidden: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """float32 (M, G) of items int64 (M, G) after states (M, E)."""
        each = items.flatten()
        codes, nodes = self.sids[each], self.nodes[each]
        states = self.model.states(hidden.repeat_interleave(items.shape[1], dim=0), codes[:, :-1])
        total = torch.zeros(len(each), device=hidden.device)
        for level in range(self.levels):
            log_p, _ = self._log_p(states[:, level], nodes[:, level], level)
            total = total + log_p.gather(1, codes[:, level, None])[:, 0]
        return total.view(items.shape)


class PreferenceLearner(SequenceModule):
    """A trunk that learns to prefer, and the frozen one that it may not leave too far.

    Args:
        policy: trained in place.
        reference: with the weights at the beginning; never changed.
        trie: of all valid SIDs.
        sids: int (I, L).
        counts: int (I,) training events by item.
        config: settings.
        normalise: "trie" or "level", as the model was trained.
    """

    def __init__(
        self,
        policy: ItemTrunk,
        reference: ItemTrunk,
        trie: Trie,
        sids: np.ndarray,
        counts: np.ndarray,
        config: PreferenceConfig,
        *,
        normalise: str = "trie",
    ) -> None:
        super().__init__()
        self.config = config
        self.policy = TrunkScorer(policy, trie, sids, normalise=normalise)
        self.reference = TrunkScorer(reference, trie, sids, normalise=normalise).requires_grad_(False)
        self.tilt: torch.Tensor
        log_counts = np.log1p(np.asarray(counts, dtype=np.float64))
        tilt = config.popularity * (log_counts - log_counts.mean())
        self.register_buffer("tilt", torch.from_numpy(tilt.astype(np.float32)), persistent=False)

    def train(self, mode: bool = True) -> PreferenceLearner:
        """The reference never drops anything."""
        super().train(mode)
        self.reference.eval()
        return self

    def loss(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed over the last ``last`` targets of each row that have negatives, and how many these are."""
        back = torch.arange(min(self.config.last, batch.items.shape[1]), device=batch.items.device)
        places = batch.lengths[:, None] - 1 - back
        there, places = places >= 0, places.clamp(min=0)
        targets = batch.targets.gather(1, places).masked_fill(~there, -1).flatten()
        rejected, weights = (_at(batch.extra[name], places) for name in (REJECTED_ITEMS, REJECTED_WEIGHTS))
        weights = weights.float()
        due = (targets >= 0) & (weights.sum(1) > 0)
        group = torch.cat([targets[:, None], rejected.long()], dim=1).clamp(min=0)
        hidden = self.policy.hidden(batch, places).flatten(0, 1)
        with torch.no_grad():
            known = self.reference.hidden(batch, places).flatten(0, 1)
        count = due.sum()
        if hidden.device.type == "cpu":  # shapes may follow the data there
            hidden, known, group, weights, due = (x[due] for x in (hidden, known, group, weights, due))
        with torch.no_grad():
            reference = self.reference.log_p(known, group)
        nats = self.preference(self.policy.log_p(hidden, group), reference, weights, self.tilt[group])
        return (nats * due).sum(), count

    def preference(
        self, log_p: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor, tilt: torch.Tensor
    ) -> torch.Tensor:
        """Loss (M,) of groups, the positive first: log π, log π_ref and ν log n (M, 1+K), λ (M, K)."""
        config = self.config
        missing = torch.nn.functional.pad(weights <= 0, (1, 0))
        if config.objective == "dpo":
            share = torch.nn.functional.pad(weights.clamp(min=1e-6).log(), (1, 0))
            logits = config.beta * (log_p - reference) + share + tilt
            nats = -torch.log_softmax(logits.masked_fill(missing, _LOW), -1)[:, 0]
        else:
            reward = torch.nn.functional.pad(-config.rank_penalty * weights, (1, 0), value=1.0) - tilt
            inside = torch.softmax(log_p.masked_fill(missing, _LOW), -1)
            nats = -(inside * reward).sum(-1)
        return nats + config.kl * divergence(log_p, reference, ~missing) - config.nll * log_p[:, 0]


def divergence(log_p: torch.Tensor, reference: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """KL (M,) of two distributions over items, known at the ``real`` (M, G) ones; the others count as one outcome."""
    p, q = log_p.exp() * real, reference.exp() * real
    rest, rest_q = ((1 - x.sum(-1)).clamp(min=1e-6) for x in (p, q))
    return (p * (log_p - reference)).sum(-1) + rest * (rest.log() - rest_q.log())


def _at(beside: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(B n, K) of what stands beside the targets (B, T, K), at places (B, n)."""
    return beside.gather(1, places[..., None].expand(-1, -1, beside.shape[-1])).flatten(0, 1)

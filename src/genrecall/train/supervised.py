"""Cross-entropy over SID tokens, normalised as the search will normalise.

``loss = - (1 / M) Σ_m Σ_l log softmax_{c ∈ valid(s_<l)} (h_{m,l} · e_c) [s_l]`` over M target items with SIDs ``s``,
so it is in nats an item. After the next-token loss of TIGER (Rajput et al. 2023, arXiv 2305.05065). We deviate: the
softmax runs over the codes that are valid after the prefix ("trie"; levels with one valid code cost nothing and are
skipped) or over the C codes of the level ("level"), never over the whole vocabulary, and only targets meet its rows.
Answers that are texts (alignment) add ``- w Σ_k log softmax_{v ∈ V} (h_k · e_v) [t_k]``, over all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from genrecall.index.trie import Trie
from genrecall.model.lora import plain
from genrecall.train.data import Batch
from genrecall.train.distil import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_TARGETS_STEP = 256
_TEXT_STEP = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelTargets:
    """What one level of a batch is asked: M' of the M targets, those whose code is not forced.

    Attributes:
        source: int64 (M',) index of the hidden state.
        code: int64 (M',) the right code.
        valid: bool (P, C) codes valid after each of P distinct prefixes; None: all are.
        prefix: int64 (M',) which of them a target has.
        soft: float32 (M', C) a teacher's probabilities of the codes; None without a teacher.
        trust: float32 (M',) the teacher's share of each target's loss.
    """

    source: torch.Tensor
    code: torch.Tensor
    valid: torch.Tensor | None
    prefix: torch.Tensor | None
    soft: torch.Tensor | None = None
    trust: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """A batch on the device."""

    tokens: torch.Tensor
    positions: torch.Tensor | None
    visible: torch.Tensor | None
    levels: list[LevelTargets]
    text_source: torch.Tensor | None = None
    text_tokens: torch.Tensor | None = None


class Targets:
    """Looks up, for target items, codes and what is valid beside them.

    Args:
        trie: of all valid SIDs.
        sids: int (I, L).
        normalise: "trie" or "level".
        teacher: gives soft targets beside the codes.
    """

    def __init__(self, trie: Trie, sids: np.ndarray, normalise: str, teacher: Teacher | None = None) -> None:
        self.trie, self.sids, self.normalise, self.teacher = trie, sids.astype(np.int64), normalise, teacher
        self.nodes = trie.paths(sids)  # (I, L+1)
        assert (self.nodes >= 0).all(), "every item's SID is in the trie"

    def inputs(self, batch: Batch, device: torch.device) -> Inputs:
        """Move a batch to the device."""

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

        mass = None if self.teacher is None else self.teacher.mass(batch.contexts, device)
        levels = []
        for level in range(self.sids.shape[1]):
            nodes = self.nodes[batch.items, level]
            # Where one code is valid, its probability is 1 under "trie": nothing is learnt there.
            asked = self.trie.num_children[nodes] > 1 if self.normalise == "trie" else np.ones(len(nodes), dtype=bool)
            distinct, which = np.unique(nodes[asked], return_inverse=True)
            prefix = tensor(which)
            soft = trust = None
            if self.teacher is not None and mass is not None:
                soft, trust = self.teacher.soft(mass, tensor(np.flatnonzero(asked)), distinct, prefix, level)
            levels.append(
                LevelTargets(
                    source=tensor(batch.source[asked, level]),
                    code=tensor(self.sids[batch.items[asked], level]),
                    valid=tensor(self.trie.children_mask(distinct, level)) if self.normalise == "trie" else None,
                    prefix=prefix if self.normalise == "trie" else None,
                    soft=soft,
                    trust=trust,
                )
            )
        if batch.positions is None:
            return Inputs(tokens=tensor(batch.tokens), positions=None, visible=None, levels=levels)
        assert batch.segment is not None
        assert batch.branch is not None
        assert batch.limit is not None
        return Inputs(
            tokens=tensor(batch.tokens),
            positions=tensor(batch.positions),
            visible=visibility(tensor(batch.segment), tensor(batch.branch), tensor(batch.limit)),
            levels=levels,
            text_source=None if batch.text_source is None else tensor(batch.text_source),
            text_tokens=None if batch.text_tokens is None else tensor(batch.text_tokens),
        )


class SidLearner(nn.Module):
    """Model and loss as one module, so that data parallelism wraps both.

    Args:
        model: a HF causal language model, plain or with LoRA.
        level_starts: token id of the first code of each level.
        codes: C of each level.
        label_smoothing: see TrainConfig.
        autocast: run matrix products in bfloat16.
        text_weight: of a token of a text, beside 1 for a code.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        level_starts: np.ndarray,
        codes: Sequence[int],
        *,
        label_smoothing: float = 0.0,
        autocast: bool = False,
        text_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self._slices = [slice(int(first), int(first) + size) for first, size in zip(level_starts, codes, strict=True)]
        self._smoothing, self._autocast, self._text_weight = label_smoothing, autocast, text_weight

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Sum over all targets and levels, and the weighted one over texts, of the negative log-likelihood, ()."""
        inner = plain(self.model)
        with torch.autocast(inputs.tokens.device.type, torch.bfloat16, enabled=self._autocast):
            hidden = inner.get_decoder()(
                input_ids=inputs.tokens,
                attention_mask=inputs.visible,
                position_ids=inputs.positions,
                use_cache=False,
            ).last_hidden_state.flatten(0, 1)
            table = inner.get_output_embeddings().weight
            losses = [
                self._level(_logits(hidden, level.source, table[rows]).float(), level)
                for rows, level in zip(self._slices, inputs.levels, strict=True)
            ]
            if inputs.text_source is not None and inputs.text_tokens is not None:
                losses.append(self._text_weight * _text(hidden, table, inputs.text_source, inputs.text_tokens))
        return torch.stack(losses).sum()

    def _level(self, logits: torch.Tensor, level: LevelTargets) -> torch.Tensor:
        """Summed loss of one level; ``logits`` float32 (M', C)."""
        count = logits.shape[1]
        if level.valid is not None and level.prefix is not None:
            logits = logits.masked_fill(~level.valid[level.prefix], float("-inf"))
        if self._smoothing == 0 and level.soft is None:
            return nn.functional.cross_entropy(logits, level.code, reduction="sum")
        log_p = torch.log_softmax(logits, -1)
        hard = -log_p.gather(1, level.code[:, None])[:, 0]
        log_p = log_p.masked_fill(log_p.isinf(), 0)
        if self._smoothing:
            choices = level.valid.sum(1)[level.prefix] if level.valid is not None else count
            hard = (1 - self._smoothing) * hard - self._smoothing * log_p.sum(1) / choices
        if level.soft is None or level.trust is None:
            return hard.sum()
        return ((1 - level.trust) * hard - level.trust * (level.soft * log_p).sum(1)).sum()


def _logits(hidden: torch.Tensor, source: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Scores (M', C) of the chosen hidden states; computed for a round number of them, see ``data._WIDTH_STEP``."""
    filled = nn.functional.pad(source, (0, -len(source) % _TARGETS_STEP))
    return nn.functional.linear(hidden[filled], table)[: len(source)]


def _text(hidden: torch.Tensor, table: torch.Tensor, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Summed loss of K tokens over the whole vocabulary; logits are made again in the backward pass, not kept."""
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, right in zip(source.split(_TEXT_STEP), tokens.split(_TEXT_STEP), strict=True):
        total = total + checkpoint(_whole_vocabulary, hidden[part], table, right, use_reentrant=False)
    return total


def _whole_vocabulary(states: torch.Tensor, table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(nn.functional.linear(states, table).float(), tokens, reduction="sum")


def visibility(segment: torch.Tensor, branch: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Who sees whom in packed rows, bool (B, 1, T, T); int64 (B, T) each, see Batch."""
    place = torch.arange(segment.shape[1], device=segment.device)
    same = segment[:, :, None] == segment[:, None, :]
    trunk = (branch == 0)[:, None, :] & (place <= limit[:, :, None])
    own = (branch[:, :, None] == branch[:, None, :]) & (place <= place[:, None])
    return (same & (trunk | own))[:, None]

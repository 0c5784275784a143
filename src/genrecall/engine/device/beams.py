"""Constrained beam search over a batch of requests, level by level.

``score(s) = Σ_l log p(s_l | prompt, s_<l)``; beams are extended by valid codes only (De Cao et al. 2021, arXiv
2010.00904). We deviate: the frontier is kept in SID order, so that ties need no rule of their own; and under trie
normalisation beams whose subtree holds one SID leave the forward pass, because everything after them has probability 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genrecall.engine.config import Normalise
from genrecall.engine.device.batch import Filters, Prompts
from genrecall.engine.device.decoder import Prefix, Suffix
from genrecall.engine.device.open import SidDecoder
from genrecall.errors import DataError
from genrecall.index.layout import TrieTensors
from genrecall.index.trie import ROOT
from genrecall.kernels.beam_attention import BeamRows
from genrecall.kernels.trie_topk import code_log_probs, trie_topk


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier:
    """M beams, requests ascending and in SID order within a request.

    Attributes:
        request: int64 (M,).
        node: int64 (M,).
        codes: int64 (M, depth).
        score: float32 (M,).
        ancestry: int64 (M, depth-1), suffix rows of the codes before the last; meaningless for resolved beams.
        parent: int64 (M,), row in the frontier before.
    """

    request: torch.Tensor
    node: torch.Tensor
    codes: torch.Tensor
    score: torch.Tensor
    ancestry: torch.Tensor
    parent: torch.Tensor


class BeamSearch:
    """Search and teacher-forced scoring with one decoder and one trie."""

    def __init__(
        self, decoder: SidDecoder, trie: TrieTensors, sid_tokens: Sequence[torch.Tensor], normalise: Normalise
    ) -> None:
        self.decoder = decoder
        self.trie = trie
        self.sid_tokens = sid_tokens
        self.normalise = normalise

    @property
    def levels(self) -> int:
        """L."""
        return len(self.sid_tokens)

    def search(self, prompts: Prompts, widths: Sequence[Sequence[int]], filters: Filters | None) -> list[Frontier]:
        """The surviving beams after each level; ``widths`` has L entries for each of R requests."""
        device = prompts.tokens.device
        width = torch.tensor(widths, dtype=torch.int64, device=device)
        requests = torch.arange(len(widths), device=device)
        hidden, prefix = self.decoder.read(prompts.tokens, prompts.length)
        suffix = Suffix(len(prefix.keys), sum(sum(row[:-1]) for row in widths), prefix.keys[0])
        empty = requests.new_empty(len(widths), 0)
        frontier = Frontier(
            request=requests,
            node=torch.full_like(requests, ROOT),
            codes=empty,
            score=torch.zeros(len(widths), device=device),
            ancestry=empty,
            parent=requests,
        )
        logits, logits_row, ancestry = self._logits(hidden, 0, frontier.node), requests, empty
        trail = []
        for level in range(self.levels):
            if level > 0:
                logits, logits_row, ancestry = self._forward(frontier, level, len(widths), prefix, suffix)
            best = trie_topk(
                logits, logits_row, frontier.score, frontier.node, frontier.request, width[:, level],
                self.trie.child_begin, self.trie.child_code, self.normalise,
                filters.allowed if filters else None, filters.row if filters else None,
            )  # fmt: skip
            frontier = Frontier(
                request=frontier.request[best.parent],
                node=best.node,
                codes=torch.cat([frontier.codes[best.parent], best.code[:, None]], dim=1),
                score=best.score,
                ancestry=ancestry[best.parent],
                parent=best.parent,
            )
            trail.append(frontier)
        return trail

    def score(self, prompts: Prompts, request: torch.Tensor, codes: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """Teacher-forced scores of M valid SIDs.

        Args:
            prompts: R prompts.
            request: int64 (M,), ascending.
            codes: int64 (M, L).
            nodes: int64 (M, L), the trie node before each code.

        Returns:
            float32 (M,).
        """
        hidden, prefix = self.decoder.read(prompts.tokens, prompts.length)
        suffix = Suffix(len(prefix.keys), len(codes) * (self.levels - 1), prefix.keys[0])
        logits, logits_row = self._logits(hidden, 0, torch.full_like(prompts.length, ROOT)), request
        score = torch.zeros(len(codes), device=codes.device)
        ancestry = codes[:, :0]
        for level in range(self.levels):
            if level > 0:
                frontier = Frontier(
                    request=request, node=nodes[:, level], codes=codes[:, :level], score=score, ancestry=ancestry,
                    parent=request,
                )  # fmt: skip
                logits, logits_row, ancestry = self._forward(frontier, level, len(prompts.length), prefix, suffix)
            scored = (logits_row >= 0).nonzero()[:, 0]
            score[scored] += code_log_probs(
                logits[logits_row[scored]], nodes[scored, level], codes[scored, level], self.trie.child_begin,
                self.trie.child_code, self.normalise,
            )  # fmt: skip
        return score

    def _forward(
        self, frontier: Frontier, level: int, requests: int, prefix: Prefix, suffix: Suffix
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the beams that still branch. Returns logits (B, C), the logits row of each beam or -1, its ancestry."""
        if self.normalise == "trie":
            running = self.trie.branching[frontier.node].nonzero()[:, 0]
        else:
            running = torch.arange(len(frontier.node), device=frontier.node.device)
        logits_row = torch.full_like(frontier.node, -1)
        ancestry = torch.cat([frontier.ancestry, torch.zeros_like(frontier.node)[:, None]], dim=1)
        if len(running) == 0:
            return frontier.score.new_empty(0, len(self.sid_tokens[level])), logits_row, ancestry
        tokens = self.sid_tokens[level - 1][frontier.codes[running, -1]]
        rows = BeamRows.of(frontier.request[running], requests)
        hidden, ancestry[running] = self.decoder.step(tokens, level, rows, frontier.ancestry[running], prefix, suffix)
        logits_row[running] = torch.arange(len(running), device=running.device)
        return self._logits(hidden, level, frontier.node[running]), logits_row, ancestry

    def _logits(self, hidden: torch.Tensor, level: int, node: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of the codes after ``node`` (B,). What is not finite would lose beams without a word."""
        logits = self.decoder.level_logits(hidden, level)
        broken = ~torch.isfinite(logits)
        for row in broken.any(1).nonzero()[:, 0].tolist():
            begin, end = self.trie.child_begin[node[row]], self.trie.child_begin[node[row] + 1]
            # Under the trie's softmax, codes that no SID goes on with play no part.
            if self.normalise == "level" or broken[row, self.trie.child_code[begin:end].long()].any():
                raise DataError(
                    "the model computes values that are not finite",
                    seen=f"NaN or infinity in the logits of level {level}",
                    allowed="finite numbers",
                    fix="check the checkpoint; with dtype float16 try bfloat16 or float32",
                )
        return logits

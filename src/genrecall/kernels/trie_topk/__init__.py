"""Exact joint top-W over the trie children of every beam of a request: contract and dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from genrecall.kernels.trie_topk import reference

Normalise = Literal["trie", "level"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Survivors:
    """The chosen children, requests ascending and in SID order within a request.

    Attributes:
        parent: int64 (M',), row of the beam that each extends.
        code: int64 (M',).
        node: int64 (M',).
        score: float32 (M',), summed log-probability.
    """

    parent: torch.Tensor
    code: torch.Tensor
    node: torch.Tensor
    score: torch.Tensor


def trie_topk(
    logits: torch.Tensor,
    logits_row: torch.Tensor,
    score: torch.Tensor,
    node: torch.Tensor,
    request: torch.Tensor,
    width: torch.Tensor,
    child_begin: torch.Tensor,
    child_code: torch.Tensor,
    normalise: Normalise,
    allowed: torch.Tensor | None = None,
    allowed_row: torch.Tensor | None = None,
) -> Survivors:
    """Extend M beams by every valid code and keep the best ``width[r]`` of each request ``r``.

    Args:
        logits: float32 (B, C) of the level's codes.
        logits_row: int64 (M,), the row of ``logits`` that scores each beam; -1 where the only child is forced and
            therefore has probability 1 (possible under ``normalise="trie"`` alone).
        score: float32 (M,), sums so far.
        node: int64 (M,), trie nodes; beams must come in SID order within a request, requests ascending.
        request: int64 (M,).
        width: int64 (R,), at least 1.
        child_begin: integer (N+1,), CSR of the trie.
        child_code: integer (N-1,), of any width; edge ``e`` leads to node ``e + 1``.
        normalise: softmax over the node's children ("trie") or over all codes ("level").
        allowed: bool (U, N), node masks; they remove candidates and never change the normaliser.
        allowed_row: int64 (R,), which mask each request has; -1 for none.

    Returns:
        Survivors; equal scores at the cut are resolved in favour of the smaller SID.
    """
    parent, code, child, best = reference.trie_topk(
        logits, logits_row, score, node, request, width, child_begin, child_code, normalise == "trie", allowed,
        allowed_row,
    )  # fmt: skip
    return Survivors(parent=parent, code=code, node=child, score=best)


def code_log_probs(
    logits: torch.Tensor,
    node: torch.Tensor,
    code: torch.Tensor,
    child_begin: torch.Tensor,
    child_code: torch.Tensor,
    normalise: Normalise,
) -> torch.Tensor:
    """Teacher-forced ``log p(code | node)``, float32 (M,): the same normaliser, one logits row per beam, no search."""
    return reference.code_log_probs(logits, node, code, child_begin, child_code, normalise == "trie")
